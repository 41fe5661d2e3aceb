/* Random weights: of the size they should have, even, the same on all ranks, and spread over experts; counted by the timed
 * back end as they are read. */
#include <math.h>

#include "base/file.h"
#include "base/memory.h"
#include "shard/kernels/quant_layout.h"
#include "shard/kernels/timed.h"
#include "shard/model/instance.h"
#include "shard/model/weights_random.h"
#include "tests/engine_driver.h"
#include "tests/test.h"

enum { PROMPT = 200 };

static double value_of(const weight *w, uint32_t row, uint32_t col, float *scratch) {
    if (weight_in_strips(w->type)) {
        if (col == 0) quant_row(w, row, scratch);
        return scratch[col];
    }
    size_t at = (size_t)row * w->cols + col;
    if (w->type == WEIGHT_F32) return ((const float *)w->data)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)w->data)[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void check_matrix(const weight *w, const char *what) {
    double sum = 0, squares = 0, n = (double)w->rows * w->cols;
    float *scratch = memory_alloc_array(w->cols + QUANT_GROUP, sizeof *scratch);
    for (uint32_t row = 0; row < w->rows; row++)
        for (uint32_t col = 0; col < w->cols; col++) {
            double v = value_of(w, row, col, scratch);
            sum += v;
            squares += v * v;
        }
    free(scratch);
    double size = sqrt(squares / n) * sqrt(w->cols), bias = fabs(sum / n) / sqrt(squares / n);
    CHECK_THAT(size > 0.5 && size < 2.5, "%s of type %d: %.3f times 1/sqrt(columns)", what, w->type, size);
    CHECK_THAT(bias < 5 / sqrt(n), "%s of type %d: mean %.5f of its size", what, w->type, bias);
}

static void check_weights(const instance *in) {
    const model_weights *w = in->weights;
    check_matrix(&w->embed, "embed");
    CHECK(w->final_norm[0] == 1 && w->final_norm[in->config->hidden - 1] == 1);
    for (uint32_t l = 0; l < w->layers; l++) {
        const layer_weights *lw = &w->layer[l];
        check_matrix(&lw->q, "q");
        check_matrix(&lw->o, "o");
        check_matrix(&lw->down, "down");
        check_matrix(&lw->router, "router");
        check_matrix(&lw->expert[0].gate, "an expert's gate");
        check_matrix(&lw->expert[0].down, "an expert's down");
        CHECK(lw->router.type == WEIGHT_F32 && lw->scalar == 1 && lw->input_norm[1] == 1);
    }
}

/* What the runner counts without looking at an operator is what the operators read, over all ranks, to the byte. */
static status check_counts(comm *ranks, const instance *in, uint64_t timed_bytes) {
    struct rank_bytes {
        runner_reads once;
        uint64_t timed;
    } mine = {runner_weight_bytes(in->run), timed_bytes}, all[2], sum = {{0}, 0};
    runner_reads n = runner_weight_reads(in->run);
    TRY(comm_all_gather(ranks, &mine, sizeof mine, all));
    for (uint32_t r = 0; r < comm_size(ranks); r++) {
        sum.once.whole += all[r].once.whole;
        sum.once.tail += all[r].once.tail;
        sum.once.heads += all[r].once.heads;
        sum.once.experts += all[r].once.experts;
        sum.timed += all[r].timed;
    }
    sum.once.experts /= in->split->expert_degree;
    uint64_t counted = n.whole * sum.once.whole + n.tail * sum.once.tail + n.heads * sum.once.heads +
                       n.experts * sum.once.experts;
    CHECK_THAT(n.whole == 2 && counted == sum.timed, "%llu bytes counted, %llu read",
               (unsigned long long)counted, (unsigned long long)sum.timed);
    return ST_OK;
}

static void check_reading(instance *in, timed_totals t) {
    CHECK(t.expert_calls == in->config->layers * 2); /* a prompt of one chunk, and one token */
    double even = in->config->experts + (double)in->config->experts_active;
    CHECK_THAT((double)t.experts_hit > 0.9 * even * in->config->layers, "%llu of %.0f experts",
               (unsigned long long)t.experts_hit, even * in->config->layers);
    CHECK(t.weight_bytes > in->weights->bytes && t.weight_bytes < 2 * in->weights->bytes);
    uint64_t heads = 0, ns = 0;
    for (uint32_t i = 0; i < t.op_count; i++) {
        ns += t.op[i].ns;
        if (!strcmp(t.op[i].name, "head")) heads = t.op[i].calls;
    }
    CHECK(heads == 2 && ns > 0);
    timed_take(in->device, &t);
    CHECK(t.weight_bytes == 0 && t.expert_calls == 0);
}

static status body(comm *ranks, void *context) {
    const instance_options *given = context;
    instance_options o = *given;
    instance in;
    o.ranks = ranks;
    TRY(instance_open(&in, &o));
    check_weights(&in);
    float *all = memory_alloc_array(comm_size(ranks), sizeof *all),
          mine = *(const float *)in.weights->layer[0].router.data;
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    for (uint32_t r = 1; r < comm_size(ranks); r++)
        CHECK(all[r] == all[0]); /* or ranks would route differently */
    free(all);
    timed_name(in.device, &in.weights->embed, "head");
    uint32_t prompt[PROMPT];
    for (uint32_t i = 0; i < PROMPT; i++) prompt[i] = (i * 37 + 11) % in.config->vocab;
    driver_request r = driver_prompt(prompt, PROMPT, 2);
    if (st == ST_OK) st = driver_run(&in, ranks, &r, 1);
    CHECK(comm_rank(ranks) != 0 || r.out_count == 2);
    driver_free(&r, 1);
    timed_totals t;
    timed_take(in.device, &t);
    if (st == ST_OK) st = check_counts(ranks, &in, t.weight_bytes);
    if (comm_size(ranks) == 1) check_reading(&in, t);
    instance_close(&in);
    return st == ST_OK && test_checks_failed ? fail(ST_INTERNAL, "checks failed on a rank") : st;
}

TEST(random_weights_of_every_type) {
    static const weights_choice choices[] = {WEIGHTS_AUTO, WEIGHTS_F32, WEIGHTS_Q8, WEIGHTS_Q4};
    char *config = NULL;
    size_t n;
    CHECK_STATUS(file_read_all(TEST_DATA "/models/tiny-moe/config.json", 1 << 20, &config, &n), ST_OK);
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        for (uint32_t ranks = 1; ranks <= 2; ranks++) {
            instance_options o = {.random_config = config,
                                  .timed = true,
                                  .weights = choices[i],
                                  .threads = 2,
                                  .context = 512,
                                  .slots = 1};
            CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = TEST_RANKS_AS_THREADS},
                                       body, &o),
                         ST_OK);
        }
    free(config);
}

/* No CPU multiplies them, but any fills them in. */
TEST(random_fp8) {
    model_config *config;
    checkpoint *table = NULL;
    CHECK_STATUS(model_config_open(&config, TEST_DATA "/models/tiny-moe", NULL), ST_OK);
    CHECK_STATUS(weights_random_checkpoint(&table, config), ST_OK);
    if (!table) exit(1);
    for (uint32_t rank = 0; rank < 2; rank++) {
        layout *l;
        model_weights *w = NULL;
        CHECK_STATUS(layout_open(&l, config, &(layout_options){.ranks = 2, .rank = rank, .group = 1}), ST_OK);
        model_weights_options o = {.choice = WEIGHTS_FP8, .random = true, .threads = 3};
        CHECK_STATUS(model_weights_open(&w, table, config, l, &o), ST_OK);
        if (!w) exit(1);
        instance in = {.config = config, .weights = w};
        check_weights(&in);
        const weight *q = &w->layer[0].q, *router = &w->layer[0].router;
        CHECK(q->type == WEIGHT_FP8 && w->embed.type == WEIGHT_FP8 && router->type == WEIGHT_F32);
        CHECK(model_weights_columns(w) == 0);
        model_weights_close(w);
        layout_close(l);
    }
    checkpoint_close(table);
    model_config_close(config);
}

int main(void) {
    RUN(random_fp8);
    RUN(random_weights_of_every_type);
    return test_result();
}
