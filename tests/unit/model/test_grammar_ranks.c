/* Answers that follow a grammar, drawn by a whole engine: the same tokens at 1, 2 and 4 ranks, in company and alone, in chunks,
 * after preemption and from where an earlier answer broke off; and requests beside them keep their bits. */
#include "tests/engine_driver.h"
#include "tests/parity_automaton.h"
#include "tests/test.h"

enum { PROMPT = 70, NEW = 24, REQUESTS = 4 }; /* greedy and sampled with a grammar, then the same without */

typedef struct study {
    uint32_t ranks, vocab, resumed;
    bool alone, tight;
    uint32_t tokens[REQUESTS][PROMPT + NEW];
    uint32_t drawn[REQUESTS][NEW];
    float logprob[REQUESTS][NEW];
} study;

static vocabulary *words; /* of the model, made when it is first known how many there are */
static strbuf automaton_bytes;

static driver_request request_of(study *c, uint32_t i) {
    for (uint32_t k = 0; k < PROMPT; k++) c->tokens[i][k] = 5 + (k * 37 + i % 2 * 11) % 400;
    driver_request r = {.tokens = c->tokens[i],
                        .token_count = PROMPT + c->resumed,
                        .prompt_count = PROMPT,
                        .params = driver_greedy(NEW)};
    if (c->tight && i >= 2) { /* comes later and goes first */
        r.priority = 1;
        r.submit_at_step = 8;
    }
    r.params.logprobs = 0;
    r.params.seed = 41;
    if (i % 2) r.params.temperature = 1;
    if (i < 2) {
        r.grammar = (const uint8_t *)automaton_bytes.data;
        r.grammar_bytes = automaton_bytes.size;
    }
    return r;
}

static status lead(study *c, instance *in, comm *ranks) {
    driver_request r[REQUESTS];
    driver_options o = {.random_chunks = !c->alone};
    o.vocabulary = vocabulary_bytes(words, &o.vocabulary_bytes);
    if (c->tight) o.slabs = 5;
    status st = ST_OK;
    for (uint32_t i = 0; i < REQUESTS; i++) r[i] = request_of(c, i);
    for (uint32_t i = 0; c->alone && i < REQUESTS && st == ST_OK; i++)
        st = driver_run_with(in, ranks, &r[i], 1, &o);
    if (!c->alone) st = driver_run_with(in, ranks, r, REQUESTS, &o);
    if (c->tight) CHECK(o.preemptions > 0);
    for (uint32_t i = 0; i < REQUESTS && st == ST_OK; i++) {
        CHECK_THAT(r[i].error == ST_OK && r[i].out_count + c->resumed <= NEW, "request %u: %s", i,
                   status_name(r[i].error));
        memset(c->drawn[i] + c->resumed, 0xFF, (NEW - c->resumed) * sizeof **c->drawn);
        memcpy(c->drawn[i] + c->resumed, r[i].out, r[i].out_count * sizeof **c->drawn);
        memcpy(c->logprob[i] + c->resumed, r[i].logprob, r[i].out_count * sizeof **c->logprob);
        for (uint32_t k = 0; i < 2 && k < r[i].out_count; k++)
            CHECK_THAT(parity_allows(c->resumed + k, r[i].out[k], c->vocab), "request %u, token %u is %u", i,
                       k, r[i].out[k]);
    }
    driver_free(r, REQUESTS);
    return st;
}

static status body(comm *ranks, void *context) {
    study *c = context;
    instance in;
    TRY(instance_open(&in, &(instance_options){.model_path = TEST_DATA "/models/tiny-dense",
                                               .ranks = ranks,
                                               .weights = WEIGHTS_F32,
                                               .threads = 1,
                                               .context = 256,
                                               .slots = 4,
                                               .rows_max = 64,
                                               .chunk_max = 32}));
    status st = ST_OK;
    if (comm_rank(ranks) == 0) {
        c->vocab = in.config->vocab;
        if (!words) {
            words = parity_vocabulary(c->vocab);
            parity_automaton(words, &automaton_bytes);
        }
        st = lead(c, &in, ranks);
    } else {
        for (uint32_t i = 0; i < (c->alone ? REQUESTS : 1) && st == ST_OK; i++)
            st = driver_run(&in, ranks, NULL, 0);
    }
    instance_close(&in);
    return st;
}

static void run(study *c) {
    CHECK_STATUS(
        comm_fork_run(&(comm_fork_options){.ranks = c->ranks, .threads = TEST_RANKS_AS_THREADS}, body, c),
        ST_OK);
}

TEST(grammars_at_any_rank_count) {
    static study one, other;
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 2) {
        study *c = ranks == 1 ? &one : &other;
        *c = (study){.ranks = ranks, .alone = true};
        run(c);
        if (ranks > 1) CHECK_THAT(!memcmp(one.drawn, c->drawn, sizeof one.drawn), "%u ranks", ranks);
        if (ranks == 1)
            CHECK(
                memcmp(c->drawn[0], c->drawn[2], sizeof *c->drawn)); /* the grammar does change the answer */
        study together = *c;
        together.alone = false;
        run(&together);
        CHECK_THAT(!memcmp(together.drawn, c->drawn, sizeof c->drawn) &&
                       !memcmp(together.logprob, c->logprob, sizeof c->logprob),
                   "together at %u ranks", ranks);
        together.tight = true;
        run(&together);
        CHECK_THAT(!memcmp(together.drawn, c->drawn, sizeof c->drawn) &&
                       !memcmp(together.logprob, c->logprob, sizeof c->logprob),
                   "with few pages at %u ranks", ranks);
        together.resumed = 7;
        together.tight = false;
        for (uint32_t i = 0; i < REQUESTS; i++)
            memcpy(together.tokens[i] + PROMPT, c->drawn[i], 7 * sizeof **c->drawn);
        run(&together);
        CHECK_THAT(!memcmp(together.drawn, c->drawn, sizeof c->drawn), "resumed at %u ranks", ranks);
        if (TEST_SANITIZED && ranks == 2) break;
    }
    vocabulary_close(words);
    strbuf_close(&automaton_bytes);
}

int main(void) {
    RUN(grammars_at_any_rank_count);
    return test_result();
}
