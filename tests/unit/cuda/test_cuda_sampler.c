/* The sampler with logits on a device against the sampler with logits on the host: the same tokens and log-probabilities from the
 * same logits, with every kind of parameters, at one to three ranks; and no more comes back than a draw needs. The two
 * agree but for the last bits of sums; that a draw falls between those happens once in some million draws. */
#include <math.h>

#include "shard/sample/sampler.h"
#include "tests/unit/cuda/scan_device.h"

enum { ROWS = 8, STEPS = 4, PLACES = 4, VOCAB_MAX = 9000, TOPS_MAX = 40, HISTORY = 300 };

typedef struct kept {
    uint32_t token;
    bool has_logprob;
    float logprob;
    uint32_t top_count;
    top_entry top[TOPS_MAX];
} kept;

typedef struct trial {
    uint32_t vocab, ranks, kind;
    sampling params[ROWS];
    bool draws[ROWS];
    uint32_t allowed[STEPS][ROWS]; /* place + 1 */
    uint32_t known[STEPS][ROWS];
    uint32_t sets[STEPS][PLACES][VOCAB_MAX / 32 + 1];
    bool set_comes[STEPS][PLACES];
    float *logits; /* [STEPS, ROWS, vocab] */
    uint32_t history[HISTORY];
    uint32_t fetches_max; /* of one row */
} trial;

static uint32_t hash(uint32_t x) {
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return x ^ x >> 16;
}
static float unit(uint32_t x) { return (float)(hash(x) >> 8) * 0x1p-24f; }

/* ---- a back end whose every call is counted ---- */
typedef struct device {
    cuda_backend c;
    uint32_t gets, scans;
} device;

static device *counted(backend *b) { return (device *)b; }
static status get(backend *b, void *host, const void *from, size_t bytes) {
    counted(b)->gets++;
    return cuda_get(cuda_of(b), host, from, bytes);
}
static void put(backend *b, void *to, const void *host, size_t bytes) { cuda_put(cuda_of(b), to, host, bytes); }
static status scan(backend *b, const float *logits, uint32_t share, uint32_t first_id, const scan_row *rows, uint32_t n,
                   void *out, const float **adjusted) {
    counted(b)->scans++;
    return cuda_scan(b, logits, share, first_id, rows, n, out, adjusted);
}
static const backend_ops ops = {.get = get, .put = put, .scan = scan};

/* ---- the same run on both ---- */
static void keep(kept *out, const sample_result *r) {
    INVARIANT(r->logprob.top_count <= TOPS_MAX);
    *out = (kept){.token = r->token, .has_logprob = r->has_logprob};
    if (!r->has_logprob) return;
    out->logprob = r->logprob.logprob;
    out->top_count = r->logprob.top_count;
    memcpy(out->top, r->logprob.top, out->top_count * sizeof *out->top);
}

/* On each rank, at most ROWS rows in an order of their own; logits lie in yet another. */
static status run_steps(comm *ranks, const trial *t, backend *b, kept *out) {
    const cpu_kernels *k;
    sampler *s;
    uint32_t begin[8], n = comm_size(ranks), me = comm_rank(ranks);
    for (uint32_t r = 0; r <= n; r++) begin[r] = (uint32_t)((uint64_t)t->vocab * r / n);
    const uint32_t share = begin[me + 1] - begin[me];
    const size_t bytes = (size_t)(ROWS + 1) * share * sizeof(float);
    TRY(cpu_kernels_pick(&k));
    TRY(sampler_open(&s, &(sampler_options){.ranks = ranks,
                                            .kernels = k,
                                            .vocab = t->vocab,
                                            .share_begin = begin,
                                            .slots = ROWS,
                                            .rows_max = ROWS,
                                            .device = b}));
    float *logits = memory_alloc(bytes), *there = logits;
    if (b) CHECK(cudaMalloc((void **)&there, bytes) == cudaSuccess);
    sample_row rows[ROWS];
    sample_result results[ROWS];
    status st = ST_OK;
    for (uint32_t i = 0; i < ROWS; i++) sampler_begin(s, i, &t->params[i], t->history, HISTORY, HISTORY / 2);
    for (uint32_t step = 0; st == ST_OK && step < STEPS; step++) {
        for (uint32_t p = 0; p < PLACES; p++)
            if (t->set_comes[step][p]) sampler_allow_bits(s, p, t->sets[step][p]);
        for (uint32_t i = 0; i < ROWS; i++) {
            uint32_t at = ROWS - i - (i >= 3); /* a row of the logits is nobody's */
            memcpy(logits + (size_t)at * share,
                   t->logits + (size_t)(step * ROWS + i) * t->vocab + begin[me], share * sizeof(float));
            rows[i] = (sample_row){.slot = i,
                                   .position = 1000 + step,
                                   .draw = t->draws[i],
                                   .known = t->draws[i] ? SAMPLE_NO_TOKEN : t->known[step][i],
                                   .allowed = t->allowed[step][i],
                                   .logits_row = at};
        }
        if (b) {
            put(b, there, logits, bytes);
            counted(b)->gets = counted(b)->scans = 0;
        }
        st = sampler_run(s, there, ROWS, rows, results);
        if (b && st == ST_OK)
            CHECK_THAT(counted(b)->scans == 1 && counted(b)->gets <= t->fetches_max * ROWS, "%u scans, %u gets", counted(b)->scans,
                       counted(b)->gets);
        for (uint32_t i = 0; st == ST_OK && i < ROWS; i++) keep(&out[step * ROWS + i], &results[i]);
    }
    if (b) CHECK(cudaFree(there) == cudaSuccess);
    free(logits);
    sampler_close(s);
    return st;
}

static void compare(const trial *t, const kept *host, const kept *on_device) {
    for (uint32_t i = 0; i < STEPS * ROWS; i++) {
        const kept *a = &host[i], *b = &on_device[i];
        CHECK_THAT(a->token == b->token, "kind %u, ranks %u, step %u, row %u: token %u, not %u", t->kind, t->ranks,
                   i / ROWS, i % ROWS, b->token, a->token);
        CHECK(a->has_logprob == b->has_logprob && a->top_count == b->top_count);
        if (!a->has_logprob) continue;
        CHECK_THAT(fabsf(a->logprob - b->logprob) <= 4e-6f * (1 + fabsf(a->logprob)), "%g, not %g", (double)b->logprob,
                   (double)a->logprob);
        for (uint32_t j = 0; j < a->top_count; j++)
            CHECK(a->top[j].token == b->top[j].token &&
                  fabsf(a->top[j].logprob - b->top[j].logprob) <= 4e-6f * (1 + fabsf(a->top[j].logprob)));
    }
}

static status rank_body(comm *ranks, void *context) {
    const trial *t = context;
    kept *host = memory_alloc_array(2 * STEPS * ROWS, sizeof *host), *on_device = host + STEPS * ROWS;
    device *d = memory_alloc(sizeof *d);
    scan_device_open(&d->c, ROWS, (t->vocab + comm_size(ranks) - 1) / comm_size(ranks));
    d->c.base = (backend){.ops = &ops, .name = "cuda"};
    TRY(run_steps(ranks, t, NULL, host));
    TRY(run_steps(ranks, t, &d->c.base, on_device));
    compare(t, host, on_device);
    scan_device_close(&d->c);
    free(d);
    free(host);
    return ST_OK;
}

static void run(trial *t) {
    for (t->ranks = TEST_SANITIZED ? 2 : 1; t->ranks <= (TEST_SANITIZED ? 2 : 3); t->ranks++)
        CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = t->ranks, .threads = true}, rank_body, t), ST_OK);
}

/* ---- what there is to draw ---- */
static sampling plain(float temperature, uint32_t seed) {
    return (sampling){.temperature = temperature,
                      .top_p = 1,
                      .repetition_penalty = 1,
                      .logprobs = -1,
                      .prompt_logprobs = -1,
                      .max_tokens = 1,
                      .seed = seed};
}

static trial *trial_open(uint32_t vocab, uint32_t kind, float spread) {
    trial *t = memory_alloc(sizeof *t);
    t->vocab = vocab;
    t->kind = kind;
    t->logits = memory_alloc_array((size_t)STEPS * ROWS * vocab, sizeof(float));
    for (uint32_t i = 0; i < STEPS * ROWS * vocab; i++) {
        float u = unit(i + kind * 977) + unit(i ^ 0x5A5A5A) + unit(i * 3 + 1) - 1.5f;
        t->logits[i] = u * spread;
        if (hash(i) % 5 == 0) t->logits[i] = (float)(int)(u * spread); /* many that are equal */
    }
    for (uint32_t i = 0; i < HISTORY; i++) t->history[i] = hash(i) % (i % 3 ? vocab : 50);
    for (uint32_t i = 0; i < ROWS; i++) {
        t->draws[i] = true;
        t->params[i] = plain(0.7f + 0.1f * (float)i, 100 * kind + i);
        for (uint32_t step = 0; step < STEPS; step++) t->known[step][i] = hash(i * 31 + step) % vocab;
    }
    return t;
}
static void trial_close(trial *t) {
    free(t->logits);
    free(t);
}

/* What a greedy draw needs is in the records. */
TEST(greedy) {
    trial *t = trial_open(5000, 1, 12);
    for (uint32_t i = 0; i < ROWS; i++) t->params[i].temperature = 0;
    for (uint32_t i = 4; i < ROWS; i++) t->params[i].logprobs = (int32_t)(i - 4) * 10;
    run(t);
    trial_close(t);
}

TEST(unfiltered) {
    trial *t = trial_open(VOCAB_MAX, 2, 9);
    t->params[3].logprobs = 0;
    t->params[5].logprobs = TOPS_MAX;
    t->fetches_max = 2;
    run(t);
    trial_close(t);
}

TEST(filters) {
    trial *t = trial_open(5000, 3, 14);
    t->params[0].top_k = 1;
    t->params[1].top_k = 40;
    t->params[2].top_p = 0.9f;
    t->params[3].min_p = 0.05f;
    t->params[4].top_k = 200, t->params[4].top_p = 0.7f, t->params[4].min_p = 0.01f;
    t->params[5].top_p = 0.4f, t->params[5].logprobs = 5;
    t->params[6].top_k = 1000;
    t->fetches_max = 1;
    run(t);
    trial_close(t);
}

/* Wider than the candidates: the rows themselves come. */
TEST(wide_nuclei) {
    trial *t = trial_open(4200, 4, 2);
    for (uint32_t i = 0; i < ROWS; i++) t->params[i].top_p = 0.97f + 0.003f * (float)i;
    t->params[4].top_k = 3000;
    t->fetches_max = 1;
    run(t);
    trial_close(t);
}

static void with_penalties(sampling *p, uint32_t vocab) {
    p->repetition_penalty = 1.3f;
    p->presence_penalty = 0.4f;
    p->frequency_penalty = 0.7f;
    p->bias_count = 40;
    for (uint32_t i = 0; i < p->bias_count; i++)
        p->bias[i] = (logit_bias){hash(i) % (i % 2 ? 50 : vocab), 6 * unit(i) - 3};
}

TEST(penalties_and_biases) {
    trial *t = trial_open(3000, 5, 8);
    for (uint32_t i = 0; i < ROWS; i++) with_penalties(&t->params[i], t->vocab);
    t->params[0].temperature = t->params[1].temperature = 0;
    t->params[1].frequency_penalty = 0;
    t->params[2].repetition_penalty = 1;
    t->params[3].presence_penalty = 0;
    t->params[4].top_k = 30;
    t->params[5].logprobs = 7;
    t->params[6].bias_count = 0;
    t->fetches_max = 2;
    run(t);
    trial_close(t);
}

/* Sets that stay, that change, that leave whole shares without a token, with and without the rest. */
TEST(sets_of_allowed_tokens) {
    trial *t = trial_open(5003, 6, 9);
    for (uint32_t step = 0; step < STEPS; step++)
        for (uint32_t p = 0; p < PLACES; p++) {
            t->set_comes[step][p] = step == 0 || p % 2 == step % 2;
            for (uint32_t i = 0; i < t->vocab; i++) {
                bool in = p == 0   ? hash(i + step) % 3 == 0
                          : p == 1 ? i == 4000 + step || i == 77
                          : p == 2 ? i > t->vocab - 30
                                   : hash(i ^ step * 7) % 200 == 0;
                if (in) t->sets[step][p][i / 32] |= 1u << i % 32;
            }
        }
    for (uint32_t i = 0; i < ROWS; i++) {
        for (uint32_t step = 0; step < STEPS; step++) t->allowed[step][i] = (i + step) % (PLACES + 1);
        if (i % 3 == 1) t->params[i].temperature = 0;
        if (i % 4 == 2) t->params[i].top_p = 0.8f;
        if (i % 2) with_penalties(&t->params[i], t->vocab);
        if (i > 5) t->params[i].logprobs = 3;
    }
    t->params[7].bias[0] = (logit_bias){77, -INFINITY}; /* out of reach, and for the set in place 1 still the answer */
    t->params[7].bias[1] = (logit_bias){4000, -INFINITY};
    t->fetches_max = 2;
    run(t);
    trial_close(t);
}

TEST(log_probabilities_of_a_prompt) {
    trial *t = trial_open(2500, 7, 9);
    for (uint32_t i = 0; i < ROWS; i++) {
        t->draws[i] = i % 3 == 2;
        t->params[i].prompt_logprobs = i % 2 ? 20 : 0;
        t->params[i].logprobs = 2;
        with_penalties(&t->params[i], t->vocab);
    }
    t->fetches_max = 2;
    run(t);
    trial_close(t);
}

/* More ranks than tokens. */
TEST(a_rank_without_tokens) {
    trial *t = trial_open(2, 8, 1);
    t->params[0].temperature = 0;
    t->params[1].top_p = 0.9f;
    t->params[2].logprobs = 2;
    t->fetches_max = 2;
    run(t);
    trial_close(t);
}

int main(void) {
    device_needed();
    RUN(greedy);
    RUN(unfiltered);
    RUN(filters);
    RUN(wide_nuclei);
    RUN(penalties_and_biases);
    RUN(sets_of_allowed_tokens);
    RUN(log_probabilities_of_a_prompt);
    RUN(a_rank_without_tokens);
    return test_result();
}
