/* Same answer whatever the company: the same requests alone, together, in chunks of 1, 7, 64 and random rows,
 * preempted, resumed half-way, at every instruction set this machine has and any thread count, give the same tokens and the same
 * log-probabilities to the last bit, for each layout (1, 2, 3 and 4 ranks where the heads divide). */
#ifndef TESTS_UNIT_MODEL_COMPANY_H
#define TESTS_UNIT_MODEL_COMPANY_H

#include "base/invariant.h"
#include "tests/engine_driver.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

enum { REQUESTS = 6, NEW_TOKENS = 20 };

typedef struct setting {
    const char *what, *isa;
    uint32_t chunk, rows, threads;
    bool together, resumed;
    bool preempted, random_chunks; /* together only */
    bool everywhere, sanitized;    /* runs() */
    expert_exchange exchange;
} setting;

typedef struct company {
    const char *model;
    weights_choice weights;
    bool kv_q8;
    uint32_t ranks;
    uint32_t tokens[REQUESTS][512], count[REQUESTS];
    driver_request reference[REQUESTS];
    const setting *now;
    bool has_reference;
} company;

/* Greedy, plain sampling, and each filter and penalty once; all with log-probabilities. */
static sampling params_of(uint32_t i) {
    sampling p = driver_greedy(NEW_TOKENS);
    p.logprobs = p.prompt_logprobs = 0;
    p.temperature = i == 0 ? 0 : 0.5f + 0.25f * (float)i;
    p.seed = 1000 + i;
    if (i == 2) p.top_k = 5;
    if (i == 3) p.top_p = 0.8f;
    if (i == 4) p.min_p = 0.05f, p.repetition_penalty = 1.2f;
    if (i == 5) p.presence_penalty = 0.5f, p.frequency_penalty = 0.25f;
    return p;
}

static void prompts(company *c, const char *expected) {
    golden *g = golden_open(expected);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        uint64_t shape[4];
        const int32_t *ids = golden_case_i32(g, i % 3, "input_ids", shape);
        INVARIANT(ids && shape[0] <= 400);
        /* Lengths on both sides of page and window borders, and a prompt of one token. */
        c->count[i] = i == 1 ? 1 : (uint32_t)shape[0] + (i >= 3 ? 64 - (uint32_t)shape[0] % 64 + i - 4 : 0);
        for (uint32_t k = 0; k < c->count[i]; k++) c->tokens[i][k] = (uint32_t)ids[k % (uint32_t)shape[0]];
    }
    golden_close(g);
}

static driver_request request_of(company *c, uint32_t i) {
    return (driver_request){.tokens = c->tokens[i],
                            .token_count = c->count[i],
                            .prompt_count = c->count[i],
                            .params = params_of(i)};
}

static void compare(const company *c, uint32_t i, const driver_request *got, uint32_t skipped) {
    const driver_request *want = &c->reference[i];
    uint32_t n = want->out_count - skipped;
    bool same = got->out_count == n && !memcmp(got->out, want->out + skipped, n * sizeof *got->out) &&
                !memcmp(got->logprob, want->logprob + skipped, n * sizeof *got->logprob);
    if (same && want->prompt_logprob && !skipped)
        same = got->prompt_logprob_count == want->prompt_logprob_count &&
               !memcmp(got->prompt_logprob + 1, want->prompt_logprob + 1, (c->count[i] - 1) * sizeof(float));
    CHECK_THAT(same, "%s %s%s at %u ranks, %s: request %u differs", c->model, weights_choice_name(c->weights),
               c->kv_q8 ? " with q8 KV" : "", c->ranks, c->now->what, i);
}

static status run_setting(company *c, comm *ranks, instance *in) {
    const setting *s = c->now;
    driver_request r[REQUESTS];
    for (uint32_t i = 0; i < REQUESTS; i++) {
        r[i] = request_of(c, i);
        if (s->together) r[i].submit_at_step = i * 2; /* prompts meet streams that are already running */
        if (s->preempted) r[i].priority = (int32_t)i; /* and push them out */
        if (s->resumed && comm_rank(ranks) == 0) {    /* the other ranks hand nothing in */
            uint32_t half = NEW_TOKENS / 2;
            memcpy(c->tokens[i] + c->count[i], c->reference[i].out, half * sizeof **c->tokens);
            r[i].token_count += half;
        }
    }
    driver_options tune = {.random_chunks = s->random_chunks};
    /* As few as the longest request needs alone. */
    if (s->preempted) tune.slabs = (uint32_t)budget_request_slabs(&in->plan);
    if (s->together) TRY(driver_run_with(in, ranks, r, REQUESTS, &tune));
    else
        for (uint32_t i = 0; i < REQUESTS; i++) TRY(driver_run(in, ranks, &r[i], 1));
    if (comm_rank(ranks) != 0) return ST_OK;
    if (s->preempted && tune.preemptions == 0) return fail(ST_INTERNAL, "%s: nothing was preempted", s->what);
    if (!c->has_reference) {
        memcpy(c->reference, r, sizeof r);
        c->has_reference = true;
        return ST_OK;
    }
    for (uint32_t i = 0; i < REQUESTS; i++) compare(c, i, &r[i], s->resumed ? NEW_TOKENS / 2 : 0);
    driver_free(r, REQUESTS);
    return ST_OK;
}

static status body(comm *ranks, void *context) {
    company *c = context;
    char path[512];
    instance in;
    snprintf(path, sizeof path, "%s/%s", TEST_DATA, c->model);
    TRY(instance_open(&in, &(instance_options){.model_path = path,
                                               .ranks = ranks,
                                               .weights = c->weights,
                                               .kv_given = c->kv_q8,
                                               .kv = KV_Q8,
                                               .threads = c->now->threads,
                                               .context = 512,
                                               .slots = 8,
                                               .rows_max = c->now->rows,
                                               .chunk_max = c->now->chunk,
                                               .exchange = c->now->exchange}));
    status st = run_setting(c, ranks, &in);
    instance_close(&in);
    return st;
}

/* The scalar reference alone comes first; everything else is compared with it. Plain C fused multiply-adds
 * without the instruction are slow, so the long list runs where an instruction set has been compared once.
 * The whole list runs at 2 ranks, the settings marked `everywhere` at 1 and 4 as well; sanitizers, which come
 * for what threads and ranks do to each other, take those of more than one thread at 2 ranks. */
static const setting settings[] = {
    {"alone, scalar", "scalar", 512, 512, 1, .everywhere = true},
    {"together, scalar", "scalar", 64, 96, 2, .together = true},
    {"alone, avx2", "avx2", 512, 512, 1, .sanitized = true},
    {"together, avx2", "avx2", 512, 512, 2, .together = true, .everywhere = true},
    {"chunks of 1, avx2", "avx2", 1, 16, 1, .together = true},
    {"chunks of 7, avx2", "avx2", 7, 16, 2, .together = true},
    {"chunks of 64, avx2", "avx2", 64, 64, 3, .together = true, .sanitized = true},
    {"resumed, avx2", "avx2", 512, 512, 1, .resumed = true},
    {"resumed together in chunks of 7, avx2", "avx2", 7, 24, 1, .together = true, .resumed = true,
     .everywhere = true},
    {"preempted, best", "amx", 64, 96, 2, .together = true, .preempted = true, .sanitized = true},
    {"random chunks, best", "amx", 512, 512, 2, .together = true, .random_chunks = true, .preempted = true},
    {"together, avxvnni", "avxvnni", 64, 96, 2, .together = true},
    {"together, avx512", "avx512", 64, 96, 2, .together = true, .everywhere = true},
    {"together, best", "amx", 512, 512, 2, .together = true, .everywhere = true, .sanitized = true},
    {"chunks of 7, best", "amx", 7, 16, 1, .together = true},
    {"expert sums by all-to-all", "amx", 64, 96, 1, .together = true, .exchange = EXCHANGE_ALL_TO_ALL},
    {"expert sums by all-reduce", "amx", 64, 96, 1, .together = true, .exchange = EXCHANGE_REPLICATED},
};

static bool runs(const setting *s, uint32_t ranks) {
    if (TEST_SANITIZED) return ranks == 2 && s->sanitized;
    return ranks == 2 || s->everywhere;
}

static void check_kv(const char *model, const char *expected, weights_choice weights, bool kv_q8,
                     uint32_t heads) {
    static company c;
    for (uint32_t ranks = 1; ranks <= 4; ranks++) {
        if (heads % ranks || (TEST_SANITIZED && ranks != 2)) continue;
        memset(&c, 0, sizeof c);
        c.model = model;
        c.weights = weights;
        c.kv_q8 = kv_q8;
        c.ranks = ranks;
        prompts(&c, expected);
        const comm_fork_options options = {.ranks = ranks, .threads = TEST_RANKS_AS_THREADS};
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
            c.now = &settings[i];
            if (!runs(c.now, ranks)) continue;
            setenv("GEMMAD_ISA", c.now->isa, 1);
            CHECK_STATUS(comm_fork_run(&options, body, &c), ST_OK);
        }
        CHECK(c.has_reference);
        driver_free(c.reference, REQUESTS);
    }
    unsetenv("GEMMAD_ISA");
}

static void check(const char *model, const char *expected, weights_choice weights, uint32_t heads) {
    check_kv(model, expected, weights, false, heads);
}

#define GOLDEN(name) TEST_DATA "/golden/" name "/expected.safetensors"

#endif
