/* The scheduler without a model: a pretended runner checks every plan as the ranks would, and thousands of
 * random requests with cancellations and deadlines each end once, with the right tokens, leaving no page
 * behind. */
#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sched/sched.h"
#include "tests/test.h"

enum {
    SLOTS = 8,
    ROWS = 32,
    CHUNK = 16,
    CONTEXT = 600,
    VOCAB = 1000,
    WINDOW = 40,
    SLABS = 60,
    REQUESTS = 3000
};

typedef struct state {
    uint32_t prompt, max_tokens, stop_token, tokens, prefilled, prompt_logprobs;
    bool submitted, started, ended;
    char reason[12];
    status error;
} state;

typedef struct world {
    sched *s;
    state *r;
    uint64_t now_ns;
    uint32_t random, live, slot_request[SLOTS];
    uint32_t next_position[SLOTS];
    uint32_t table[KV_KINDS][SLOTS][CONTEXT / 64 + 2];
    uint32_t steps;
} world;

static uint32_t rnd(world *w, uint32_t n) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 17;
    w->random ^= w->random << 5;
    return w->random % n;
}

static uint64_t clock_of(void *context) { return ((world *)context)->now_ns; }

static status on_started(void *c, uint64_t id, uint32_t cached, uint64_t us) {
    (void)cached, (void)us;
    state *r = &((world *)c)->r[id];
    CHECK(!r->started && !r->ended);
    r->started = true;
    return ST_OK;
}
static status on_progress(void *c, uint64_t id, uint32_t n) {
    state *r = &((world *)c)->r[id];
    CHECK(n > r->prefilled && n < r->prompt && !r->ended);
    r->prefilled = n;
    return ST_OK;
}
static status on_prompt(void *c, uint64_t id, uint32_t first, const token_logprob *p, uint32_t n) {
    (void)p;
    state *r = &((world *)c)->r[id];
    CHECK(n == 1 && first == r->prompt_logprobs + 1 && first < r->prompt);
    r->prompt_logprobs++;
    return ST_OK;
}
static status on_token(void *c, uint64_t id, uint32_t token, const token_logprob *p) {
    (void)p;
    state *r = &((world *)c)->r[id];
    CHECK(r->started && !r->ended);
    CHECK(token ==
          (id * 7 + r->prompt + r->tokens) % VOCAB); /* what the pretended runner draws at that position */
    r->tokens++;
    return ST_OK;
}
static status on_finished(void *c, uint64_t id, const sched_finish *f) {
    world *w = c;
    state *r = &w->r[id];
    CHECK(r->submitted && !r->ended);
    r->ended = true;
    r->error = f->error;
    snprintf(r->reason, sizeof r->reason, "%s", f->reason);
    if (!strcmp(f->reason, "length")) CHECK(r->tokens == r->max_tokens);
    if (!strcmp(f->reason, "stop")) CHECK(f->has_stop_token && f->stop_token == r->stop_token);
    w->live--;
    return ST_OK;
}

static void open_world(world *w, uint32_t requests) {
    *w = (world){.random = 2463534242u, .now_ns = 1};
    w->r = memory_alloc_array(requests, sizeof *w->r);
    sched_options o = {.slots = SLOTS,
                       .rows_max = ROWS,
                       .chunk_max = CHUNK,
                       .context = CONTEXT,
                       .vocab = VOCAB,
                       .window = WINDOW,
                       .uses = {true, true},
                       .slabs = SLABS,
                       .pages_per_slab = {1, 3},
                       .clock = {clock_of, w},
                       .sink = {w, on_started, on_progress, on_prompt, on_token, on_finished}};
    CHECK_STATUS(sched_open(&w->s, &o), ST_OK);
}

static void close_world(world *w) {
    sched_close(w->s);
    free(w->r);
}

static void submit(world *w, uint32_t id, uint32_t prompt, uint32_t emitted, sampling params,
                   uint64_t deadline_ms) {
    sched_request q = {.id = id,
                       .token_count = prompt + emitted,
                       .prompt_count = prompt,
                       .sampling = params,
                       .deadline_ms = deadline_ms};
    q.tokens = memory_alloc_array(prompt + emitted + 1, sizeof *q.tokens);
    for (uint32_t i = 0; i < prompt; i++) q.tokens[i] = (id + i) % VOCAB;
    for (uint32_t i = 0; i < emitted; i++) q.tokens[prompt + i] = (id * 7 + prompt + i) % VOCAB;
    w->r[id].prompt = prompt;
    w->r[id].tokens = emitted;
    w->r[id].max_tokens = params.max_tokens;
    w->r[id].submitted = true;
    w->live++;
    CHECK_STATUS(sched_submit(w->s, &q), ST_OK);
}

static void take_pages(world *w, const plan *p) {
    for (uint32_t i = 0; i < p->open_count; i++) {
        uint32_t slot = p->open[i].slot;
        for (int kind = 0; kind < KV_KINDS; kind++)
            memset(w->table[kind][slot], 0xFF, sizeof w->table[kind][slot]);
        w->next_position[slot] = 0;
    }
    for (uint32_t i = 0; i < p->page_count; i++)
        w->table[p->page[i].kind][p->page[i].slot][p->page[i].index] = p->page[i].page;
}

/* What a row reads and writes must be in the slot's own pages, and in nobody else's. */
static void check_pages(world *w, const plan_span *s) {
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t position = s->position + i;
        CHECK(w->table[KV_FULL][s->slot][position / 64] != PLAN_NO_TOKEN);
        CHECK(w->table[KV_SLIDING][s->slot][position / 64] != PLAN_NO_TOKEN);
    }
    uint32_t oldest = s->position + 1 > WINDOW ? s->position + 1 - WINDOW : 0,
             newest = s->position + s->count - 1;
    for (uint32_t a = oldest / 64; a <= newest / 64; a++)
        for (uint32_t b = a + 1; b <= newest / 64; b++)
            CHECK(w->table[KV_SLIDING][s->slot][a] != w->table[KV_SLIDING][s->slot][b]);
}

static void check_sharing(const world *w, const plan *p) {
    for (uint32_t a = 0; a < p->span_count; a++)
        for (uint32_t b = a + 1; b < p->span_count; b++) {
            uint32_t x = p->span[a].slot, y = p->span[b].slot;
            CHECK(x != y);
            for (uint32_t i = 0; i <= p->span[a].position / 64; i++)
                for (uint32_t k = 0; k <= p->span[b].position / 64; k++)
                    CHECK(w->table[KV_FULL][x][i] != w->table[KV_FULL][y][k]);
        }
}

static void step(world *w, plan *p) {
    const plan_bounds bounds = {.slots = SLOTS,
                                .rows_max = ROWS,
                                .context = CONTEXT,
                                .vocab = VOCAB,
                                .pages_per_slot = CONTEXT / 64 + 2,
                                .pages = {SLABS, SLABS * 3}};
    plan decoded = {0};
    strbuf bytes = {0};
    CHECK_STATUS(sched_plan(w->s, p), ST_OK);
    plan_encode(p, &bytes);
    CHECK_STATUS(plan_decode(&decoded, bytes.data, bytes.size, &bounds), ST_OK);
    plan_close(&decoded);
    strbuf_close(&bytes);
    take_pages(w, p);
    check_sharing(w, p);
    for (uint32_t i = 0; i < p->span_count; i++) {
        const plan_span *s = &p->span[i];
        CHECK(s->position == w->next_position[s->slot]); /* every position once, in order */
        w->next_position[s->slot] += s->count;
        check_pages(w, s);
        for (uint32_t row = 0; row < s->count; row++) {
            runner_result result = {.span = i, .row = row, .drawn = s->draw && row + 1 == s->count};
            if (!result.drawn && s->logits != PLAN_LOGITS_ALL) continue;
            /* The request is told by its first token: prompts are (id + position) mod VOCAB. */
            uint32_t id = w->slot_request[s->slot] =
                s->position == 0 ? p->tokens[s->first_input] : w->slot_request[s->slot];
            uint32_t position = s->position + row + 1;
            result.sample.token = (id * 7 + position) % VOCAB;
            CHECK_STATUS(sched_take_result(w->s, &result), ST_OK);
        }
        if (s->position == 0) w->slot_request[s->slot] = p->tokens[s->first_input];
    }
    CHECK_STATUS(sched_step_done(w->s), ST_OK);
    w->steps++;
    w->now_ns += 1000000 + rnd(w, 3000000);
}

static sampling plain(uint32_t max_tokens) {
    return (sampling){
        .top_p = 1, .repetition_penalty = 1, .logprobs = -1, .prompt_logprobs = -1, .max_tokens = max_tokens};
}

TEST(thousands_of_random_requests) {
    world w;
    plan p = {0};
    uint32_t submitted = 0, cancelled = 0, timed_out = 0, stopped = 0;
    open_world(&w, REQUESTS);
    while (submitted < REQUESTS || w.live > 0) {
        for (uint32_t burst = rnd(&w, 4); burst > 0 && submitted < REQUESTS && submitted < VOCAB * 3;
             burst--) {
            uint32_t id = submitted++;
            if (id >= VOCAB) break; /* ids are told by the first token */
            uint32_t prompt = 1 + rnd(&w, rnd(&w, 10) ? 60 : 400), max_tokens = 1 + rnd(&w, 100);
            sampling params = plain(max_tokens);
            if (rnd(&w, 4) == 0) params.prompt_logprobs = 0;
            if (rnd(&w, 3) == 0) { /* a token it will draw at some point, or never */
                w.r[id].stop_token = (id * 7 + prompt + rnd(&w, 150)) % VOCAB;
                params.stop_token[params.stop_token_count++] = w.r[id].stop_token;
            }
            submit(&w, id, prompt, rnd(&w, 5) == 0 && max_tokens > 1 ? rnd(&w, max_tokens) : 0, params,
                   rnd(&w, 20) == 0 ? 1 + rnd(&w, 100) : 0);
        }
        if (rnd(&w, 6) == 0 && submitted > 0)
            CHECK_STATUS(sched_cancel(w.s, rnd(&w, submitted < VOCAB ? submitted : VOCAB)), ST_OK);
        step(&w, &p);
        if (submitted >= VOCAB) submitted = REQUESTS;
    }
    CHECK(!sched_has_work(w.s) && sched_slabs_used(w.s) == 0 && sched_running(w.s) == 0 &&
          sched_waiting(w.s) == 0);
    for (uint32_t i = 0; i < VOCAB; i++) {
        CHECK(w.r[i].submitted && w.r[i].ended);
        cancelled += !strcmp(w.r[i].reason, "cancelled");
        timed_out += w.r[i].error == ST_TIMEOUT;
        stopped += !strcmp(w.r[i].reason, "stop");
        CHECK(w.r[i].error == ST_OK || w.r[i].error == ST_TIMEOUT);
    }
    CHECK_THAT(cancelled > 10 && timed_out > 5 && stopped > 50, "%u cancelled, %u timed out, %u stopped",
               cancelled, timed_out, stopped);
    plan_close(&p);
    close_world(&w);
}

TEST(a_long_prompt_does_not_stop_a_stream) {
    world w;
    plan p = {0};
    open_world(&w, 2);
    submit(&w, 0, 3, 0, plain(50), 0);
    step(&w, &p);
    submit(&w, 1, 500, 0, plain(5), 0);
    for (int i = 0; i < 20; i++) {
        uint32_t before = w.r[0].tokens;
        step(&w, &p);
        CHECK(w.r[0].tokens == before + 1);
    }
    CHECK(w.r[1].prefilled > 250);
    plan_close(&p);
    close_world(&w);
}

TEST(what_cannot_run_is_refused_with_both_numbers) {
    world w;
    open_world(&w, 3);
    submit(&w, 0, 500, 0, plain(200), 0);
    CHECK(w.r[0].ended && w.r[0].error == ST_INVALID);
    CHECK_SENTENCE("prompt of 500 tokens and max_tokens 200 exceed the context of 600");
    submit(&w, 1, 5, 5, plain(5), 0);
    CHECK(w.r[1].ended && w.r[1].error == ST_INVALID);
    sched_close(w.s);
    sched_options o = {.slots = 1,
                       .rows_max = ROWS,
                       .chunk_max = CHUNK,
                       .context = CONTEXT,
                       .vocab = VOCAB,
                       .window = WINDOW,
                       .uses = {true, true},
                       .slabs = 3,
                       .pages_per_slab = {1, 3},
                       .clock = {clock_of, &w},
                       .sink = {&w, on_started, on_progress, on_prompt, on_token, on_finished}};
    CHECK_STATUS(sched_open(&w.s, &o), ST_OK);
    submit(&w, 2, 500, 0, plain(20), 0);
    CHECK(w.r[2].ended && w.r[2].error == ST_KV_FULL);
    CHECK_SENTENCE("more than all 3 slabs hold");
    close_world(&w);
}

int main(void) {
    RUN(thousands_of_random_requests);
    RUN(a_long_prompt_does_not_stop_a_stream);
    RUN(what_cannot_run_is_refused_with_both_numbers);
    return test_result();
}
