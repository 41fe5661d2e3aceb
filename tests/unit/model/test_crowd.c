/* The golden greedy tokens in a crowd: all cases of a model at once, several times, in random order, in chunks of random
 * size, with memory for one long request, so that streams are preempted, and with prefixes found in the cache; at 1, 2 and 4
 * ranks. Tokens are the published model's, log-probabilities those of the request alone, to the last bit. */
#include "base/invariant.h"
#include "tests/engine_driver.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

enum { CASES_MAX = 8, COPIES = 5, GREEDY = 32, CONTEXT = 256, TOKENS_MAX = CONTEXT };

typedef struct crowd {
    const char *name;
    uint32_t ranks, cases, random;
    uint32_t tokens[CASES_MAX][TOKENS_MAX],
        count[CASES_MAX]; /* the prompt, and behind it the golden answer */
    driver_request alone[CASES_MAX];
    uint64_t preemptions, hits;
} crowd;

static uint32_t rnd(crowd *c, uint32_t n) {
    c->random = c->random * 1664525u + 1013904223u;
    return (c->random >> 8) % n;
}

static void read_cases(crowd *c) {
    char file[512];
    uint64_t shape[4];
    snprintf(file, sizeof file, "%s/golden/%s/expected.safetensors", TEST_DATA, c->name);
    golden *g = golden_open(file);
    for (c->cases = 0;; c->cases++) {
        const int32_t *ids = golden_case_i32(g, c->cases, "input_ids", shape);
        if (!ids) break;
        INVARIANT(c->cases < CASES_MAX && shape[0] + GREEDY <= TOKENS_MAX);
        c->count[c->cases] = (uint32_t)shape[0];
        for (uint32_t i = 0; i < shape[0]; i++) c->tokens[c->cases][i] = (uint32_t)ids[i];
        const int32_t *greedy = golden_case_i32(g, c->cases, "greedy", shape);
        INVARIANT(greedy && shape[0] == GREEDY);
        for (uint32_t i = 0; i < GREEDY; i++)
            c->tokens[c->cases][c->count[c->cases] + i] = (uint32_t)greedy[i];
    }
    golden_close(g);
}

/* given: tokens of the answer that are there already, as after a restart. */
static driver_request request_of(const crowd *c, uint32_t i, uint32_t given) {
    driver_request r = {.tokens = c->tokens[i],
                        .token_count = c->count[i] + given,
                        .prompt_count = c->count[i],
                        .params = driver_greedy(GREEDY)};
    r.params.logprobs = 0;
    return r;
}

static void check(const crowd *c, uint32_t i, uint32_t given, const driver_request *got) {
    const uint32_t *answer = c->tokens[i] + c->count[i] + given;
    uint32_t n = GREEDY - given;
    CHECK_THAT(got->out_count == n && !memcmp(got->out, answer, n * sizeof *answer),
               "%s@%u case %u behind %u: not the golden tokens", c->name, c->ranks, i, given);
    const float *alone = c->alone[i].logprob;
    CHECK_THAT(!alone || (got->out_count == n && !memcmp(got->logprob, alone + given, n * sizeof *alone)),
               "%s@%u case %u behind %u: not the log-probabilities it has alone", c->name, c->ranks, i,
               given);
}

static status run_alone(crowd *c, comm *ranks, instance *in) {
    for (uint32_t i = 0; i < c->cases; i++) {
        driver_request r = request_of(c, i, 0);
        TRY(driver_run(in, ranks, &r, 1));
        check(c, i, 0, &r);
        c->alone[i] = r;
    }
    return ST_OK;
}

/* Every case five times, shuffled: at any step, more urgent than those before it, and with a part of its answer; the second
 * half when another of the case has ended and left its pages to the cache. */
static status run_crowd(crowd *c, comm *ranks, instance *in, uint32_t slabs) {
    uint32_t n = c->cases * COPIES, which[CASES_MAX * COPIES], given[CASES_MAX * COPIES];
    driver_request r[CASES_MAX * COPIES];
    for (uint32_t i = 0; i < n; i++) which[i] = i % c->cases;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t k = rnd(c, i + 1), t = which[i];
        which[i] = which[k];
        which[k] = t;
    }
    for (uint32_t i = 0; i < n; i++) {
        given[i] = i >= n / 2 ? GREEDY - 1 : rnd(c, 2) ? 0 : rnd(c, GREEDY);
        r[i] = request_of(c, which[i], given[i]);
        r[i].submit_at_step = rnd(c, 20);
        r[i].priority = (int32_t)rnd(c, 3);
        for (uint32_t k = 0; i >= n / 2 && k < n / 2; k++)
            if (which[k] == which[i]) r[i].after = 1 + k;
    }
    driver_options tune = {.random_chunks = true, .cached = true, .slabs = slabs};
    TRY(driver_run_with(in, ranks, r, n, &tune));
    for (uint32_t i = 0; i < n; i++) check(c, which[i], given[i], &r[i]);
    driver_free(r, n);
    c->preemptions += tune.preemptions;
    c->hits += tune.counts.hit_tokens;
    return ST_OK;
}

static status body(comm *ranks, void *context) {
    crowd *c = context;
    char path[512];
    instance in;
    snprintf(path, sizeof path, "%s/golden/%s", TEST_DATA, c->name);
    TRY(instance_open(&in, &(instance_options){.model_path = path,
                                               .ranks = ranks,
                                               .weights = WEIGHTS_F32,
                                               .kv_given = true,
                                               .kv = KV_F32,
                                               .threads = 1,
                                               .context = CONTEXT,
                                               .slots = 8}));
    uint32_t few = (uint32_t)budget_request_slabs(&in.plan);
    status st = ST_OK;
    if (comm_rank(ranks) != 0) { /* rank 0 alone writes what ranks that are threads share */
        for (uint32_t i = 0; i < c->cases + 3 && st == ST_OK; i++) st = driver_run(&in, ranks, NULL, 0);
    } else {
        st = run_alone(c, ranks, &in);
        for (int i = 0; i < 2 && st == ST_OK; i++) st = run_crowd(c, ranks, &in, few);
        if (st == ST_OK) st = run_crowd(c, ranks, &in, 0);
    }
    instance_close(&in);
    return st;
}

/* Of four ranks a slab may hold more pages than one request needs, and nobody is preempted there. */
static void check_model(const char *name, uint32_t heads) {
    static crowd c;
    uint64_t preemptions = 0;
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 2) {
        if (heads % ranks || (TEST_SANITIZED && ranks != 2)) continue;
        c = (crowd){.name = name, .ranks = ranks, .random = 7 + ranks};
        read_cases(&c);
        CHECK_STATUS(
            comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = TEST_RANKS_AS_THREADS}, body, &c),
            ST_OK);
        CHECK_THAT(c.hits > 0, "%s@%u: nothing came from the cache", name, ranks);
        preemptions += c.preemptions;
        driver_free(c.alone, c.cases);
    }
    CHECK_THAT(preemptions > 0, "%s: nobody was preempted", name);
}

TEST(dense) { check_model("dense", 8); }
TEST(dense_realheads) { check_model("dense-realheads", 4); }
TEST(moe) { check_model("moe", 8); }
TEST(moe_128x8) { check_model("moe-128x8", 8); }
TEST(e2b) { check_model("e2b", 8); }
TEST(e4b) { check_model("e4b", 8); }

int main(void) {
    RUN(moe);
    RUN(e2b);
    if (TEST_SANITIZED) return test_result();
    RUN(dense);
    RUN(dense_realheads);
    RUN(moe_128x8);
    RUN(e4b);
    return test_result();
}
