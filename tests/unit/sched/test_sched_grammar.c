/* Requests whose answers follow a grammar among others that do not: the pretended ranks draw among the sets of the plan, and
 * each token is checked against the grammar's own rule, with preemption, replay, pauses and many samples of a prompt. */
#include "tests/unit/sched/sched_world.h"

typedef struct fixture {
    vocabulary *v;
    strbuf automaton;
} fixture;

static void open_fixture(fixture *f, world *w) {
    size_t n;
    *f = (fixture){.v = parity_vocabulary(VOCAB)};
    parity_automaton(f->v, &f->automaton);
    const uint8_t *bytes = vocabulary_bytes(f->v, &n);
    CHECK_STATUS(sched_take_vocabulary(w->s, bytes, n), ST_OK);
    CHECK_STATUS(sched_take_vocabulary(w->s, bytes, n), ST_OK);
}

static void close_fixture(fixture *f) {
    vocabulary_close(f->v);
    strbuf_close(&f->automaton);
}

static uint8_t *copy_of(const strbuf *b) {
    uint8_t *p = memory_alloc(b->size);
    memcpy(p, b->data, b->size);
    return p;
}

/* The first `emitted` tokens of an answer that the grammar allows. */
static sched_request request(const fixture *f, uint64_t id, uint32_t prompt, uint32_t emitted,
                             uint32_t max_tokens) {
    sched_request q = {.id = id,
                       .prompt_count = prompt,
                       .token_count = prompt + emitted,
                       .sampling = plain(max_tokens),
                       .grammar = copy_of(&f->automaton),
                       .grammar_bytes = f->automaton.size};
    q.tokens = memory_alloc_array(q.token_count, sizeof *q.tokens);
    for (uint32_t i = 0; i < prompt; i++) q.tokens[i] = (uint32_t)(id * 5 + i) % VOCAB;
    for (uint32_t i = 0; i < emitted; i++)
        q.tokens[prompt + i] = i % 2 ? 257 + 2 * (i / 2 % 2) : 2 * (i % 400);
    return q;
}

TEST(answers_follow_their_grammar) {
    enum { REQUESTS = 300 };
    world *w = memory_alloc(sizeof *w);
    fixture f;
    uint32_t submitted = 0, ended_by_grammar = 0, by_length = 0;
    open_world(w, REQUESTS, 5, true);
    open_fixture(&f, w);
    for (uint32_t steps = 0; (submitted < REQUESTS || w->live > 0) && steps < 60000; steps++) {
        for (uint32_t burst = rnd(w, 3); burst > 0 && submitted < REQUESTS && w->live < 30;
             burst--, submitted++) {
            if (rnd(w, 3) == 0) {
                submit_plain(w, submitted, 1 + rnd(w, 200), 1 + rnd(w, 100));
                continue;
            }
            uint32_t max_tokens = 1 + rnd(w, 120);
            sched_request q =
                request(&f, submitted, 1 + rnd(w, 200), rnd(w, 4) ? 0 : rnd(w, max_tokens), max_tokens);
            if (rnd(w, 5) == 0) q.sampling.repetition_penalty = 1.5f;
            submit(w, q);
        }
        if (submitted && rnd(w, 4) == 0) {
            uint32_t id = rnd(w, submitted);
            if (!w->r[id].ended) pause_request(w, id, !w->r[id].paused);
        }
        if (submitted == REQUESTS)
            for (uint32_t i = 0; i < REQUESTS; i++)
                if (w->r[i].paused) pause_request(w, i, false);
        step(w);
    }
    CHECK_THAT(w->live == 0 && sched_preemptions(w->s) > 10, "%u left, %u preempted", w->live,
               (uint32_t)sched_preemptions(w->s));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        CHECK_THAT(w->r[i].error == ST_OK, "request %u: %s", i, status_name(w->r[i].error));
        ended_by_grammar += w->r[i].grammar && !strcmp(w->r[i].reason, "stop");
        by_length += w->r[i].grammar && !strcmp(w->r[i].reason, "length");
    }
    CHECK_THAT(ended_by_grammar > 5 && by_length > 50, "%u and %u", ended_by_grammar, by_length);
    close_world(w);
    close_fixture(&f);
    free(w);
}

static void expect_error(sched_request q, status want, bool with_vocabulary) {
    world *w = memory_alloc(sizeof *w);
    fixture f;
    open_world(w, 1, 20, false);
    if (with_vocabulary) {
        open_fixture(&f, w);
        close_fixture(&f);
    }
    submit(w, q);
    CHECK_THAT(w->r[0].ended && w->r[0].error == want && !strcmp(w->r[0].reason, "error"), "%s: %s",
               status_name(w->r[0].error), status_text());
    close_world(w);
    free(w);
}

TEST(bad_grammars_end_their_request_alone) {
    vocabulary *v = parity_vocabulary(VOCAB);
    fixture f = {.v = v};
    parity_automaton(v, &f.automaton);
    expect_error(request(&f, 0, 5, 0, 9), ST_INVALID, false);
    CHECK_SENTENCE("before the vocabulary");
    sched_request q = request(&f, 0, 5, 3, 9);
    q.tokens[7] = 5; /* odd where an even one must come */
    expect_error(q, ST_INVALID, true);
    CHECK_SENTENCE("grammar: token 2 of the answer so far: the grammar does not allow token 5");
    q = request(&f, 0, 5, 3, 9);
    q.tokens[7] = VOCAB - 1;
    expect_error(q, ST_INVALID, true);
    CHECK_SENTENCE("has its end token");
    q = request(&f, 0, 5, 0, 9);
    q.grammar_bytes -= 3;
    expect_error(q, ST_FORMAT, true);
    q = request(&f, 0, 5, 0, 9);
    q.grammar[20] ^= 1; /* of the vocabulary's hash */
    expect_error(q, ST_MISMATCH, true);
    close_fixture(&f);
}

/* A request may bring nothing but "the same", and what became of the one that brought it does not matter. */
TEST(grammars_are_shared) {
    world *w = memory_alloc(sizeof *w);
    fixture f;
    open_world(w, 6, 60, false);
    open_fixture(&f, w);
    for (uint32_t i = 0; i < 6; i++) {
        sched_request q = request(&f, i, 10, 0, 40);
        if (i == 1) q.tokens[3] = VOCAB; /* refused, but not for its grammar */
        if (i != 1 && i != 4) {
            free(q.grammar);
            q.grammar = NULL;
            q.same_grammar = true;
        }
        if (i == 4) q.grammar_bytes -= 3;
        submit(w, q);
        if (i == 2) CHECK_STATUS(sched_cancel(w->s, 2), ST_OK);
    }
    CHECK(w->r[0].ended && w->r[0].error == ST_INVALID);
    CHECK(w->r[1].ended && w->r[1].error == ST_INVALID);
    CHECK(w->r[2].ended && !strcmp(w->r[2].reason, "cancelled"));
    CHECK(!w->r[3].ended);
    CHECK(w->r[4].ended && w->r[4].error == ST_FORMAT);
    CHECK(w->r[5].ended && w->r[5].error == ST_INVALID);
    CHECK_SENTENCE("grammar: the one of the request before was refused");
    uint32_t steps = 0;
    for (; w->live > 0 && steps < 1000; steps++) step(w);
    CHECK(w->r[3].ended && w->r[3].error == ST_OK && steps < 1000);
    close_world(w);
    close_fixture(&f);
    free(w);
}

/* Inside an answer of two sets in turn the ranks get each of them once. */
TEST(sets_travel_once) {
    world *w = memory_alloc(sizeof *w);
    fixture f;
    uint32_t sets = 0, bits = 0, lists = 0;
    open_world(w, 8, 60, false);
    open_fixture(&f, w);
    for (uint32_t i = 0; i < 8; i++) {
        sched_request q = request(&f, i, 10, 0, 60);
        q.sampling.stop_token_count = 0;
        submit(w, q);
    }
    while (w->live > 0) {
        step(w);
        sets += w->p.allowed_count;
        for (uint32_t i = 0; i < w->p.allowed_count; i++) {
            bits += w->p.allowed[i].kind == PLAN_SET_BITS;
            lists += w->p.allowed[i].kind == PLAN_SET_LIST;
        }
    }
    CHECK_THAT(sets == 2 && bits == 1 && lists == 1, "%u sets, %u by bits", sets, bits);
    close_world(w);
    close_fixture(&f);
    free(w);
}

int main(void) {
    RUN(answers_follow_their_grammar);
    RUN(bad_grammars_end_their_request_alone);
    RUN(grammars_are_shared);
    RUN(sets_travel_once);
    return test_result();
}
