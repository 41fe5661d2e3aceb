/* What q8 and q4 weights and q8 keys and values cost: logits of the golden models against their float32 values. These models are random
 * and magnify any rounding, each by its own factor, so that factor is measured first with a rounding of known
 * size: K and V to bf16, relative errors of 2^-9 / √3 = 0.0011 in two of a layer's products.
 *
 * q8 rounds to steps of M / 127, M the largest magnitude of a group: a standard deviation of M / 127 / √12.
 * The largest of 32 normal values is 2.07 σ on average, so that is 0.0047 σ, for weights and for activations: a
 * product is off by √2 · 0.0047 = 0.0067 of its size. About five products stand behind each other in a layer
 * (q and k, v, o, gate and up, down), and independent errors add as squares. So q8 may cost
 * 0.0067 √(5 layers + 1) / (0.0011 √(2 layers)) times what bf16 keys and values cost; twice that is allowed.
 * q4 on random weights is only reported: tests/python/test_quantised.py asks trained models.
 *
 * q8 keys and values round to steps of M / 127, M the largest magnitude of a head's n elements, at most √(2 ln 2n) σ
 * on average for normal ones: in the very places where bf16 rounds, a standard deviation of M / 127 / √12 instead of
 * 0.0011 σ. So they may cost √(2 ln 2n) / 127 / √12 / 0.0011 times as much. */
#include <math.h>

#include "base/invariant.h"
#include "tests/engine_driver.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

typedef struct seen {
    golden *g;
    uint32_t index; /* of the case */
    uint32_t vocab_begin, vocab;
    double error, spread; /* sums of squares; spread: of the logits around their mean in a row */
    bool done;
} seen;

static void look(void *context, const char *name, uint32_t first, const float *data, const uint32_t *ids,
                 uint32_t rows, uint32_t cols) {
    (void)ids;
    seen *s = context;
    uint64_t shape[4];
    if (s->done || strcmp(name, "logits")) return;
    const float *want = golden_case_f32(s->g, s->index, "logits", shape);
    INVARIANT(want && first + rows <= shape[0]);
    s->done = first + rows == shape[0]; /* the rest is generated, without golden logits */
    for (uint32_t r = 0; r < rows; r++) {
        const float *w = want + (size_t)(first + r) * s->vocab;
        double mean = 0;
        for (uint32_t c = 0; c < s->vocab; c++) mean += w[c] / (double)s->vocab;
        for (uint32_t c = 0; c < cols; c++) {
            double x = w[s->vocab_begin + c];
            s->error += (data[(size_t)r * cols + c] - x) * (data[(size_t)r * cols + c] - x);
            s->spread += (x - mean) * (x - mean);
        }
    }
}

typedef struct attempt {
    const char *model;
    weights_choice weights;
    kv_type kv;
    double relative;           /* out: error / spread */
    uint32_t layers, head_dim; /* out; head_dim: the largest */
} attempt;

static status body(comm *ranks, void *context) {
    attempt *a = context;
    char path[512], file[600];
    snprintf(path, sizeof path, "%s/golden/%s", TEST_DATA, a->model);
    snprintf(file, sizeof file, "%s/expected.safetensors", path);
    seen s = {.g = golden_open(file)};
    instance in;
    TRY(instance_open(&in, &(instance_options){.model_path = path,
                                               .ranks = ranks,
                                               .weights = a->weights,
                                               .kv_given = true,
                                               .kv = a->kv,
                                               .threads = 1,
                                               .context = 512,
                                               .rows_max = 256,
                                               .tap = look,
                                               .tap_context = &s}));
    s.vocab = in.config->vocab;
    s.vocab_begin = in.split->vocab.begin;
    for (;; s.index++) {
        uint64_t shape[4];
        const int32_t *tokens = golden_case_i32(s.g, s.index, "input_ids", shape);
        if (!tokens) break;
        s.done = false;
        driver_request r = driver_prompt((const uint32_t *)tokens, (uint32_t)shape[0], 1);
        r.params.prompt_logprobs = 0;
        TRY(driver_run(&in, ranks, &r, 1));
        if (comm_rank(ranks) == 0) driver_free(&r, 1);
    }
    double mine[2] = {s.error, s.spread}, all[8][2], sum[2] = {0, 0};
    TRY(comm_all_gather(ranks, mine, sizeof mine, all));
    for (uint32_t i = 0; i < comm_size(ranks); i++) sum[0] += all[i][0], sum[1] += all[i][1];
    if (comm_rank(ranks) == 0) { /* ranks may be threads that share what they are given */
        a->layers = in.config->layers;
        for (uint32_t i = 0; i < a->layers; i++)
            if (in.config->layer[i].head_dim > a->head_dim) a->head_dim = in.config->layer[i].head_dim;
        a->relative = sqrt(sum[0] / sum[1]);
    }
    instance_close(&in);
    golden_close(s.g);
    return ST_OK;
}

static attempt try(const char *model, uint32_t ranks, weights_choice weights, kv_type kv) {
    attempt a = {.model = model, .weights = weights, .kv = kv};
    CHECK_STATUS(
        comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = TEST_RANKS_AS_THREADS}, body, &a),
        ST_OK);
    return a;
}

static void check(const char *model) {
    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        attempt kv = try(model, ranks, WEIGHTS_F32, KV_BF16), kv8 = try(model, ranks, WEIGHTS_F32, KV_Q8);
        double q8 = try(model, ranks, WEIGHTS_Q8, KV_F32).relative;
        double q4 = try(model, ranks, WEIGHTS_Q4, KV_F32).relative;
        double allowed =
            2 * kv.relative * 0.0067 * sqrt(5.0 * kv.layers + 1) / (0.0011 * sqrt(2.0 * kv.layers));
        double allowed_kv8 = kv.relative * sqrt(2 * log(2.0 * kv.head_dim)) / 127 / sqrt(12) / 0.0011;
        printf("  %s at %u ranks: logits off by %.4f of their spread with bf16 keys and values, %.4f with q8 "
               "ones "
               "(allowed %.4f); %.4f with q8 weights (allowed %.4f), %.4f with q4\n",
               model, ranks, kv.relative, kv8.relative, allowed_kv8, q8, allowed, q4);
        CHECK_THAT(q8 > 0 && q8 < allowed, "%s: q8 %g, allowed %g", model, q8, allowed);
        CHECK_THAT(kv8.relative > kv.relative && kv8.relative < allowed_kv8, "%s: q8 KV %g, allowed %g",
                   model, kv8.relative, allowed_kv8);
        CHECK(q4 > q8);
    }
}

TEST(dense) { check("dense"); }
TEST(dense_realheads) { check("dense-realheads"); }
TEST(moe) { check("moe"); }
TEST(moe_128x8) { check("moe-128x8"); }
TEST(e2b) { check("e2b"); }
TEST(e4b) { check("e4b"); }

int main(void) {
    RUN(dense);
    RUN(moe);
    RUN(e2b);
    if (TEST_SANITIZED) return test_result();
    RUN(dense_realheads);
    RUN(moe_128x8);
    RUN(e4b);
    return test_result();
}
