/* Thousands of random requests with priorities, clients, groups, pauses, cancellations and deadlines, in pools large and
 * small, with and without a prefix cache: each ends once, with the right tokens, leaving no page behind. */
#include "tests/unit/sched/sched_world.h"

enum { DOCUMENTS = 6 };

typedef struct totals {
    uint32_t cancelled, timed_out, stopped;
    uint32_t mixed, slow; /* steps */
} totals;

/* A document that others have too, and a tail of its own. */
static uint32_t *make_tokens(world *w, uint32_t n, uint64_t id) {
    uint32_t *tokens = memory_alloc_array(n, sizeof *tokens), document = rnd(w, DOCUMENTS),
             shared = rnd(w, n);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] =
            i < shared ? (document * 97 + i * (document + 3)) % VOCAB : (uint32_t)(id * 13 + i) % VOCAB;
    return tokens;
}

static sched_request random_request(world *w, uint64_t id) {
    static const int32_t priorities[] = {0, 0, 0, 0, 5, -100};
    uint32_t prompt = 1 + rnd(w, rnd(w, 3) ? 60 : 400), max_tokens = 1 + rnd(w, rnd(w, 3) ? 20 : 100);
    sched_request q = {.id = id,
                       .prompt_count = prompt,
                       .token_count = prompt,
                       .priority = w->calm ? 0 : priorities[rnd(w, 6)],
                       .client = rnd(w, 5),
                       .sampling = plain(max_tokens)};
    if (rnd(w, 5) == 0) q.token_count += rnd(w, max_tokens);
    if (rnd(w, 20) == 0) q.deadline_ms = 1 + rnd(w, 400);
    if (rnd(w, 4) == 0) q.sampling.prompt_logprobs = 0;
    if (rnd(w, 8) == 0) q.sampling.repetition_penalty = 1.5f;
    for (uint32_t n = rnd(w, 3) ? 0 : 64; n > 0; n--) /* with so many one is drawn sooner or later */
        q.sampling.stop_token[q.sampling.stop_token_count++] = rnd(w, VOCAB);
    q.tokens = make_tokens(w, q.token_count, id);
    return q;
}

/* One request, or several with the same prompt. Returns the next free id. */
static uint32_t submit_random(world *w, uint32_t id, uint32_t end) {
    sched_request q = random_request(w, id);
    uint32_t copies = rnd(w, 12) ? 1 : 2 + rnd(w, 3);
    if (copies > end - id) copies = end - id;
    if (copies > 1) q.group = id + 1;
    for (uint32_t i = 1; i < copies; i++) {
        sched_request other = q;
        other.id = id + i;
        other.sampling.sample_index = i;
        other.tokens = memory_alloc_array(q.token_count, sizeof *other.tokens);
        memcpy(other.tokens, q.tokens, q.token_count * sizeof *other.tokens);
        submit(w, other);
    }
    submit(w, q);
    return id + copies;
}

static void disturb(world *w, uint32_t submitted) {
    if (submitted == 0) return;
    uint32_t recent = submitted < 50 ? submitted : 50, id = submitted - 1 - rnd(w, recent);
    if (rnd(w, 6) == 0) CHECK_STATUS(sched_cancel(w->s, id), ST_OK);
    for (int i = 0; i < 3 && !w->calm; i++) {
        id = submitted - 1 - rnd(w, recent);
        if (rnd(w, 3) == 0) pause_request(w, id, w->r[id].paused ? false : rnd(w, 3) == 0);
    }
}

/* Where nobody is preempted every stream gets a token in every step, and hardly a step takes twice its time. */
static void step_all_streams(world *w, uint32_t requests, totals *t) {
    static uint32_t before[2500];
    INVARIANT(requests <= sizeof before / sizeof *before);
    for (uint32_t i = 0; i < requests; i++) before[i] = w->r[i].ended ? 0 : w->r[i].drawn;
    step(w);
    for (uint32_t i = 0; i < requests; i++)
        CHECK(!before[i] || w->r[i].drawn == before[i] + 1 || w->r[i].error == ST_TIMEOUT);
    t->mixed += w->decode_rows > 0 && w->prompt_rows > 0;
    t->slow += w->decode_rows > 0 && w->prompt_rows > 0 && w->step_ns > 2 * w->decode_ns;
}

typedef struct setting {
    uint32_t slabs;
    bool cached, calm; /* calm: one class, no pauses: nobody is preempted but for pages */
} setting;

static void run_world(uint32_t requests, setting set, uint64_t *preemptions, uint32_t *hits, totals *t) {
    world *w = memory_alloc(sizeof *w);
    uint32_t submitted = 0, steps = 0, still = 0;
    open_world(w, requests, set.slabs, set.cached);
    w->calm = set.calm;
    w->row_depth_ns = 1000;
    while (submitted < requests || w->live > 0) {
        for (uint32_t burst = rnd(w, 3); burst > 0 && submitted < requests && w->live < 60; burst--)
            submitted = submit_random(w, submitted, requests);
        if (submitted < requests) disturb(w, submitted);
        else
            for (uint32_t i = 0; i < requests; i++) /* readers come back in the end */
                if (w->r[i].paused) pause_request(w, i, false);
        if (set.calm && set.slabs == SLABS_MAX) step_all_streams(w, requests, t);
        else step(w);
        /* Whatever has not been paused goes on, but for the step in which one lays its scattered pages down. */
        still = w->decode_rows + w->prompt_rows == 0 && sched_has_work(w->s) ? still + 1 : 0;
        CHECK(still < 2);
        if (++steps > requests * 200) break;
    }
    CHECK_THAT(w->live == 0, "%u of %u left after %u steps", w->live, requests, steps);
    for (uint32_t i = 0; i < requests; i++) {
        CHECK(w->r[i].submitted && w->r[i].ended);
        t->cancelled += !strcmp(w->r[i].reason, "cancelled");
        t->timed_out += w->r[i].error == ST_TIMEOUT;
        t->stopped += !strcmp(w->r[i].reason, "stop");
        CHECK(w->r[i].error == ST_OK || w->r[i].error == ST_TIMEOUT);
    }
    *preemptions = sched_preemptions(w->s);
    *hits = w->hits;
    close_world(w);
    free(w);
}

TEST(ten_thousand_random_requests) {
    const uint32_t n = TEST_SANITIZED ? 500 : 2500;
    totals t = {0};
    uint64_t roomy, few, wild, few_wild;
    uint32_t hits, few_hits, none;
    run_world(n, (setting){.slabs = SLABS_MAX, .calm = true}, &roomy, &none, &t);
    run_world(n, (setting){.slabs = 5, .calm = true}, &few, &none, &t);
    run_world(n, (setting){.slabs = 100, .cached = true}, &wild, &hits, &t);
    run_world(n, (setting){.slabs = 5, .cached = true}, &few_wild, &few_hits, &t);
    CHECK_THAT(t.cancelled > n / 20 && t.timed_out > n / 100 && t.stopped > n / 10,
               "%u cancelled, %u timed out, %u stopped", t.cancelled, t.timed_out, t.stopped);
    CHECK_THAT(roomy == 0 && few > 5 && wild > n / 20 && few_wild > n / 20, "%u %u %u %u preempted",
               (uint32_t)roomy, (uint32_t)few, (uint32_t)wild, (uint32_t)few_wild);
    CHECK_THAT(t.mixed > n / 2 && t.slow * 50 < t.mixed, "%u of %u mixed steps took more than twice", t.slow,
               t.mixed);
    CHECK_THAT(hits > n / 20 && few_hits > n / 50, "%u and %u hits", hits, few_hits);
}

int main(void) {
    RUN(ten_thousand_random_requests);
    return test_result();
}
