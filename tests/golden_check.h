/* The golden models through scheduler and runner, on any device: logits of every position, hidden states after every layer,
 * attention and router values, greedy tokens. Tolerances: docs/model.md. golden_body is a rank's; its context a golden_case. */
#ifndef TESTS_GOLDEN_CHECK_H
#define TESTS_GOLDEN_CHECK_H

#include <math.h>

#include "base/invariant.h"
#include "shard/model/gpu.h"
#include "tests/engine_driver.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

typedef struct golden_case {
    const char *model, *config_name;
    uint32_t ranks;
    const gpu_provider *gpu; /* NULL: on the CPU */
    uint32_t cases;          /* at most so many; 0: all */
    bool untapped;           /* greedy tokens alone: nobody looks inside, and decode steps may be recorded */
} golden_case;

typedef struct seen {
    golden *g;
    uint32_t index; /* of the case */
    uint32_t vocab_begin, vocab;
    double logits_max, logits_sum, hidden_max, small_max, embed_max, router_max;
    uint64_t logits_count, wrong_ids, compared;
    bool inner;       /* compare inside values: 1 rank, case 0 */
    bool prompt_done; /* what follows is the greedy part, which has no golden logits */
} seen;

static inline void golden_note_(double *max, double difference) {
    if (!(difference <= *max)) *max = difference;
}

static inline void golden_compare_(seen *s, double *max, const char *name, const float *data, uint32_t rows, uint32_t cols) {
    const float *want = golden_case_f32(s->g, s->index, name, NULL);
    if (!want) return; /* only the first layer of each kind has heads and attn */
    s->compared++;
    for (size_t i = 0; i < (size_t)rows * cols; i++) golden_note_(max, fabs((double)data[i] - want[i]));
}

static inline void golden_look_(void *context, const char *name, uint32_t layer, const float *data, const uint32_t *ids, uint32_t rows,
                                uint32_t cols) {
    seen *s = context;
    char full[96];
    uint64_t shape[4];
    if (s->prompt_done) return;
    if (!strcmp(name, "logits")) {
        const float *want = golden_case_f32(s->g, s->index, "logits", shape);
        INVARIANT(want && layer + rows <= shape[0]);
        s->prompt_done = layer + rows == shape[0];
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t c = 0; c < cols; c++) {
                double difference = fabs((double)data[(size_t)r * cols + c] -
                                         want[(size_t)(layer + r) * s->vocab + s->vocab_begin + c]);
                golden_note_(&s->logits_max, difference);
                s->logits_sum += difference;
                s->logits_count++;
            }
        return;
    }
    if (!s->inner) return;
    if (!strcmp(name, "embed") || !strcmp(name, "ple"))
        return golden_compare_(s, &s->embed_max, name, data, rows, cols);
    snprintf(full, sizeof full, "%s.%u", name, layer);
    if (!strcmp(name, "hidden")) return golden_compare_(s, &s->hidden_max, full, data, rows, cols);
    if (strcmp(name, "router_weights")) return golden_compare_(s, &s->small_max, full, data, rows, cols);
    golden_compare_(s, &s->router_max, full, data, rows, cols);
    snprintf(full, sizeof full, "router_ids.%u", layer);
    const int32_t *want = golden_case_i32(s->g, s->index, full, shape);
    for (uint32_t i = 0; want && i < rows * cols; i++) s->wrong_ids += (int64_t)ids[i] != want[i];
}

typedef struct rank_report {
    double logits_max, logits_mean;
    uint64_t bytes_read, bytes_expected;
} rank_report;

static inline status golden_run_case_(comm *ranks, instance *in, seen *s, uint32_t index, const golden_case *g) {
    uint64_t shape[4], greedy_shape[4];
    const int32_t *ids = golden_case_i32(s->g, index, "input_ids", shape);
    const int32_t *greedy = golden_case_i32(s->g, index, "greedy", greedy_shape);
    INVARIANT(ids && greedy);
    s->index = index;
    s->inner = comm_size(ranks) == 1 && index == 0;
    s->prompt_done = false;
    s->logits_max = s->logits_sum = 0;
    s->logits_count = 0;
    driver_request r = driver_prompt((const uint32_t *)ids, (uint32_t)shape[0], (uint32_t)greedy_shape[0]);
    r.params.prompt_logprobs = 0;
    TRY(driver_run(in, ranks, &r, 1));
    CHECK_THAT(s->prompt_done != g->untapped, "%s@%u case %u: not all logits of the prompt were seen", g->model, g->ranks, index);
    rank_report mine = {s->logits_max, s->logits_count ? s->logits_sum / (double)s->logits_count : 0,
                        in->weights->bytes_read, in->weights->bytes_expected};
    rank_report all[8];
    TRY(comm_all_gather(ranks, &mine, sizeof mine, all));
    if (comm_rank(ranks) != 0) return ST_OK;
    double max = 0, mean = 0;
    for (uint32_t i = 0; i < comm_size(ranks); i++) {
        golden_note_(&max, all[i].logits_max);
        golden_note_(&mean, all[i].logits_mean);
        CHECK_THAT(all[i].bytes_read == all[i].bytes_expected, "rank %u read %llu bytes, its share is %llu",
                   i, (unsigned long long)all[i].bytes_read, (unsigned long long)all[i].bytes_expected);
    }
    CHECK_THAT(g->untapped || (max < 1e-3 && mean < 1e-4), "%s@%u case %u: logits differ by %g, mean %g", g->model, g->ranks,
               index, max, mean);
    printf("  %s%s%s at %u ranks, case %u: ", g->model, g->config_name ? " " : "", g->config_name ? g->config_name : "",
           g->ranks, index);
    if (g->untapped) printf("greedy tokens alone\n");
    else printf("logits %.1e, mean %.1e\n", max, mean);
    CHECK(r.out_count == greedy_shape[0] && !strcmp(r.reason, "length"));
    for (uint32_t i = 0; i < r.out_count; i++)
        CHECK_THAT((int64_t)r.out[i] == greedy[i], "%s@%u case %u: greedy token %u is %u, not %d", g->model,
                   g->ranks, index, i, r.out[i], greedy[i]);
    driver_free(&r, 1);
    return ST_OK;
}

static inline status golden_body(comm *ranks, void *context) {
    const golden_case *g = context;
    char path[512], file[600];
    snprintf(path, sizeof path, "%s/golden/%s", TEST_DATA, g->model);
    snprintf(file, sizeof file, "%s/expected.safetensors", path);
    seen s = {.g = golden_open(file)};
    instance in;
    TRY(instance_open(&in, &(instance_options){.model_path = path,
                                               .config_name = g->config_name,
                                               .ranks = ranks,
                                               .weights = WEIGHTS_F32,
                                               .threads = 1,
                                               .context = 512,
                                               .rows_max = 256,
                                               .tap = g->untapped ? NULL : golden_look_,
                                               .tap_context = &s,
                                               .gpu = g->gpu,
                                               .device = g->gpu ? DEVICE_CUDA : DEVICE_CPU}));
    s.vocab = in.config->vocab;
    s.vocab_begin = in.split->vocab.begin;
    for (uint32_t i = 0; i < (g->cases ? g->cases : 99); i++) {
        if (!golden_case_i32(s.g, i, "input_ids", NULL)) break;
        TRY(golden_run_case_(ranks, &in, &s, i, g));
    }
    if (comm_size(ranks) == 1 && !g->untapped) {
        CHECK_THAT(s.hidden_max < 1e-3, "%s: hidden %g", g->model, s.hidden_max);
        CHECK_THAT(s.small_max < 2e-4, "%s: attn and heads %g", g->model, s.small_max);
        CHECK_THAT(s.embed_max < 1e-4, "%s: embed and ple %g", g->model, s.embed_max);
        CHECK_THAT(s.router_max < 1e-4 && s.wrong_ids == 0, "%s: router weights %g, %llu wrong ids", g->model,
                   s.router_max, (unsigned long long)s.wrong_ids);
        CHECK_THAT(s.compared > in.config->layers, "%s: only %llu tensors compared", g->model,
                   (unsigned long long)s.compared);
    }
    instance_close(&in);
    golden_close(s.g);
    return ST_OK;
}

#endif
