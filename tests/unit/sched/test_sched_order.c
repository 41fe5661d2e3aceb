/* Who goes first, who gives way, who is refused: one situation each. */
#include "tests/unit/sched/sched_world.h"

static world w;

static void run_until_ended(uint64_t id, uint32_t steps_most) {
    uint32_t steps = 0;
    while (!w.r[id].ended && steps++ < steps_most) step(&w);
    CHECK_THAT(w.r[id].ended, "request %u after %u steps", (uint32_t)id, steps);
}

static void run_all(void) {
    for (int steps = 0; w.live > 0 && steps < 100000; steps++) step(&w);
    CHECK(w.live == 0);
}

static uint32_t ended(uint32_t first, uint32_t end) {
    uint32_t n = 0;
    for (uint32_t i = first; i < end; i++) n += w.r[i].ended;
    return n;
}

TEST(what_cannot_run_is_refused_with_both_numbers) {
    open_world(&w, 3, 60, false);
    submit_plain(&w, 0, 500, 200);
    CHECK(w.r[0].ended && w.r[0].error == ST_INVALID);
    CHECK_SENTENCE("prompt of 500 tokens and max_tokens 200 exceed the context of 600");
    submit(&w, (sched_request){.id = 1, .prompt_count = 5, .token_count = 10, .sampling = plain(5)});
    CHECK(w.r[1].ended && w.r[1].error == ST_INVALID);
    w.o.slabs = 3;
    reopen(&w);
    submit_plain(&w, 2, 500, 20);
    CHECK(w.r[2].ended && w.r[2].error == ST_KV_FULL);
    CHECK_SENTENCE("more than all 3 slabs hold");
    close_world(&w);
}

static void submit_of(uint64_t id, uint64_t client, int32_t priority, uint32_t prompt, uint32_t max_tokens) {
    submit(&w, (sched_request){.id = id,
                               .client = client,
                               .priority = priority,
                               .prompt_count = prompt,
                               .sampling = plain(max_tokens)});
}

TEST(a_hundred_requests_do_not_starve_one) {
    open_world(&w, 101, 100, false);
    for (uint32_t i = 0; i < 100; i++) submit_of(i, 1, 0, 40, 30);
    for (int i = 0; i < 5; i++) step(&w);
    submit_of(100, 2, 0, 40, 30);
    run_until_ended(100, 1000);
    /* It waits for one slot and then runs beside the others. */
    CHECK_THAT(ended(0, 100) <= 2 * SLOTS, "%u of the hundred came before", ended(0, 100));
    run_all();
    close_world(&w);
}

TEST(clients_get_equal_shares) {
    open_world(&w, 150, 100, false);
    for (uint32_t i = 0; i < 100; i++) submit_of(i, 1, 0, 40, 20);
    for (uint32_t i = 100; i < 150; i++) submit_of(i, 2, 0, 80, 40); /* twice the work each */
    while (ended(100, 150) < 30) step(&w);
    CHECK_THAT(ended(0, 100) > 45 && ended(0, 100) < 80, "%u small ones beside 30 of twice the size",
               ended(0, 100));
    run_all();
    close_world(&w);
}

TEST(a_client_that_comes_back_has_no_claim_on_the_past) {
    open_world(&w, 120, 100, false);
    submit_of(0, 2, 0, 1, 1); /* seen once, then away */
    for (uint32_t i = 1; i < 50; i++) submit_of(i, 1, 0, 40, 20);
    while (ended(0, 50) < 20) step(&w);
    for (uint32_t i = 50; i < 100; i++) submit_of(i, 2, 0, 40, 20);
    uint32_t before = ended(0, 50);
    while (ended(50, 100) < 20) step(&w);
    CHECK_THAT(ended(0, 50) - before >= 12, "%u of the first client meanwhile", ended(0, 50) - before);
    run_all();
    close_world(&w);
}

TEST(higher_priority_takes_a_slot_from_the_last_of_the_lowest) {
    open_world(&w, 20, 100, false);
    for (uint32_t i = 0; i < SLOTS; i++) submit_of(i, 0, i == 3 ? -100 : 0, 10, 100);
    for (int i = 0; i < 40; i++) step(&w);
    submit_of(10, 0, 0, 10, 5); /* of the same class as most: waits … */
    step(&w);
    CHECK(w.r[10].started && sched_preemptions(w.s) == 1); /* … but for the slot of the lower one */
    submit_of(11, 0, 0, 10, 5);
    step(&w);
    CHECK(!w.r[11].started && sched_preemptions(w.s) == 1);
    submit_of(12, 0, 7, 10, 5);
    step(&w);
    CHECK(w.r[12].started && sched_preemptions(w.s) == 2);
    run_until_ended(12, 50);
    CHECK(!w.r[11].started || w.r[10].ended);
    run_all();
    close_world(&w);
}

/* 5 slabs: two requests of 150 positions fit beside each other, three do not. */
TEST(the_first_keeps_its_pages) {
    open_world(&w, 3, 5, false);
    for (uint32_t i = 0; i < 3; i++) submit_plain(&w, i, 10, 190);
    run_all();
    CHECK_THAT(sched_preemptions(w.s) > 0, "%u", (uint32_t)sched_preemptions(w.s));
    close_world(&w);
    open_world(&w, 3, 5, false);
    for (uint32_t i = 0; i < 3; i++) submit_plain(&w, i, 10, 190);
    uint32_t steps = 0;
    for (; !w.r[0].ended; steps++) step(&w);
    CHECK_THAT(steps <= 200, "%u steps for 190 tokens of the first", steps);
    run_all();
    close_world(&w);
}

TEST(a_paused_stream_waits_and_goes_on) {
    open_world(&w, 2, 60, false);
    submit_plain(&w, 0, 20, 50);
    for (int i = 0; i < 5; i++) step(&w);
    uint32_t before = w.r[0].tokens;
    pause_request(&w, 0, true);
    CHECK(before > 0 && !sched_has_work(w.s) && sched_paused(w.s) == 1 && sched_running(w.s) == 1);
    for (int i = 0; i < 5; i++) step(&w);
    CHECK(w.r[0].tokens == before && w.p.span_count == 0);
    pause_request(&w, 0, false);
    CHECK(sched_has_work(w.s) && sched_paused(w.s) == 0);
    step(&w);
    CHECK(w.r[0].tokens == before + 1 && sched_preemptions(w.s) == 0);
    run_all();
    close_world(&w);
}

TEST(paused_streams_keep_nobody_out) {
    open_world(&w, SLOTS + 1, 60, false);
    for (uint32_t i = 0; i < SLOTS; i++) submit_of(i, 0, 5, 10, 50);
    for (int i = 0; i < 5; i++) step(&w);
    for (uint32_t i = 0; i < SLOTS; i++) pause_request(&w, i, true);
    submit_of(SLOTS, 0, 0, 10, 5);
    CHECK(sched_has_work(w.s));
    run_until_ended(SLOTS, 20);
    CHECK(sched_preemptions(w.s) == 1 && sched_paused(w.s) == SLOTS && sched_waiting(w.s) == 1);
    for (uint32_t i = 0; i < SLOTS; i++) pause_request(&w, i, false);
    run_all();
    close_world(&w);
}

static void submit_group(uint32_t first, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        sched_request q = {.id = first + i, .group = 9, .prompt_count = 200, .sampling = plain(5)};
        q.token_count = 200;
        q.tokens = memory_alloc_array(200, sizeof *q.tokens);
        for (uint32_t k = 0; k < 200; k++) q.tokens[k] = k;
        submit(&w, q);
    }
}

TEST(one_of_a_group_computes_the_prompt) {
    for (int cached = 0; cached < 2; cached++) {
        open_world(&w, 4, 60, cached);
        submit_group(0, 3);
        submit_plain(&w, 3, 5, 5); /* is not held up */
        step(&w);
        CHECK(w.r[0].started && !w.r[1].started && !w.r[2].started && w.r[3].started);
        while (!w.r[0].tokens) step(&w);
        step(&w);
        CHECK(w.r[1].started && w.r[2].started && w.r[0].cached == 0);
        CHECK(w.r[1].cached == (cached ? 192 : 0) && w.r[2].cached == w.r[1].cached);
        run_all();
        close_world(&w);
    }
}

TEST(when_the_reader_of_a_group_goes_another_reads) {
    open_world(&w, 3, 60, false);
    submit_group(0, 3);
    step(&w);
    CHECK_STATUS(sched_cancel(w.s, 0), ST_OK);
    step(&w);
    CHECK(w.r[0].ended && w.r[1].started && !w.r[2].started);
    run_all();
    close_world(&w);
}

TEST(who_leaves_frees_pages_before_the_next_plan) {
    open_world(&w, 2, 60, false);
    submit_plain(&w, 0, 300, 50);
    submit(&w, (sched_request){.id = 1, .prompt_count = 300, .sampling = plain(50), .deadline_ms = 1000});
    for (int i = 0; i < 5; i++) step(&w);
    CHECK(w.r[1].started && sched_pages_used(w.s) > 0 && sched_pages_used(w.s) <= sched_pages_total(w.s));
    CHECK_STATUS(sched_cancel(w.s, 0), ST_OK);
    w.now_ns += 2000000000;
    step(&w);
    CHECK(w.p.span_count == 0 && sched_pages_used(w.s) == 0 && w.r[1].error == ST_TIMEOUT);
    close_world(&w);
}

TEST(a_hit_leaves_the_last_token_to_compute) {
    open_world(&w, 4, 60, true);
    for (uint32_t i = 0; i < 4; i++) {
        sched_request q = {.id = i, .prompt_count = i == 2 ? 129 : 128, .sampling = plain(70)};
        q.token_count = q.prompt_count;
        q.tokens = memory_alloc_array(q.token_count, sizeof *q.tokens);
        for (uint32_t k = 0; k < q.token_count; k++) q.tokens[k] = k;
        if (i == 3) q.sampling.prompt_logprobs = 0;
        submit(&w, q);
        run_all();
    }
    /* The first left points at 64 (its prompt's) and 192 (its answer's), the third one at 128. */
    CHECK(w.r[0].cached == 0 && w.r[1].cached == 64 && w.r[2].cached == 64);
    CHECK(w.r[3].cached == 0 && w.r[3].prompt_logprobs == 127);
    CHECK(w.points >= 3);
    close_world(&w);
}

TEST(a_conversation_goes_on_behind_its_answer) {
    open_world(&w, 2, 60, true);
    uint32_t *tokens = memory_alloc_array(300, sizeof *tokens), n = 100;
    sched_request q = {.id = 0, .prompt_count = n, .token_count = n, .sampling = plain(100)};
    q.tokens = memory_alloc_array(n, sizeof *tokens);
    submit(&w, q);
    uint64_t hash = 0;
    for (uint32_t i = 0; i < n; i++) hash = mix(hash, 0);
    for (uint32_t i = n; i < 200; i++) { /* what it is going to answer */
        tokens[i] = draw(hash, w.r[0].seed);
        hash = mix(hash, tokens[i]);
    }
    run_all();
    submit(&w, (sched_request){
                   .id = 1, .prompt_count = 300, .token_count = 300, .tokens = tokens, .sampling = plain(5)});
    run_all();
    CHECK_THAT(w.r[1].cached == 192, "%u", w.r[1].cached);
    close_world(&w);
}

TEST(the_cache_is_not_emptied_for_one_who_waits_all_the_same) {
    open_world(&w, 4, 8, true);
    submit_plain(&w, 0, 130, 1);
    run_all();
    CHECK(w.points == 1);
    submit_plain(&w, 1, 300, 250); /* takes most of the pool */
    for (int i = 0; i < 60; i++) step(&w);
    CHECK(w.r[1].tokens > 0 && w.points > 1);
    uint32_t points = w.points;
    submit_plain(&w, 2, 500, 50); /* has to wait for it, whatever the cache gave */
    for (int i = 0; i < 5; i++) step(&w);
    CHECK(!w.r[2].started && w.points == points);
    submit_of(3, 0, 1, 60, 1); /* fits */
    step(&w);
    CHECK(w.r[3].started);
    run_all();
    close_world(&w);
}

/* Somebody who does not give his pages back stands for pages scattered over slabs. */
typedef struct hoard {
    uint32_t page[3];
    bool refuses;
} hoard;
static bool give_back(void *c, kv_kind kind, uint32_t n) {
    hoard *h = c;
    (void)kind, (void)n;
    if (h->refuses) return false;
    kv_pages_release(sched_pages(w.s), KV_SLIDING, h->page, 3);
    h->refuses = true;
    return true;
}

TEST(alone_and_without_a_page_it_starts_over_alone) {
    for (int paused = 0; paused < 2; paused++) {
        hoard h = {.refuses = true};
        open_world(&w, 2, 5, false);
        w.o.prefix = (sched_prefix){.context = &h, .reclaim = give_back};
        reopen(&w);
        for (int i = 0; i < 3; i++) CHECK(kv_pages_take_one(sched_pages(w.s), KV_SLIDING, &h.page[i]));
        submit_plain(&w, 0, 60, 300);
        for (int i = 0; i < 100 && sched_preemptions(w.s) == 0; i++) step(&w);
        CHECK(sched_preemptions(w.s) == 1 && w.r[0].tokens > 0 && w.p.span_count == 0);
        for (int i = 0; i < 3; i++) step(&w);
        CHECK(w.p.span_count == 0 && sched_running(w.s) == 0 && sched_has_work(w.s));
        h.refuses = false;
        submit_of(1, 0, 1, 5, 5); /* not even this one may come between */
        for (int i = 0; i < 10; i++) step(&w);
        CHECK(!w.r[1].started && sched_running(w.s) == 1);
        if (paused) {
            pause_request(&w, 0, true);
            run_until_ended(1, 20);
            pause_request(&w, 0, false);
        }
        run_until_ended(0, 400);
        run_all();
        close_world(&w);
    }
}

int main(void) {
    RUN(what_cannot_run_is_refused_with_both_numbers);
    RUN(a_hundred_requests_do_not_starve_one);
    RUN(clients_get_equal_shares);
    RUN(a_client_that_comes_back_has_no_claim_on_the_past);
    RUN(higher_priority_takes_a_slot_from_the_last_of_the_lowest);
    RUN(the_first_keeps_its_pages);
    RUN(a_paused_stream_waits_and_goes_on);
    RUN(paused_streams_keep_nobody_out);
    RUN(one_of_a_group_computes_the_prompt);
    RUN(when_the_reader_of_a_group_goes_another_reads);
    RUN(who_leaves_frees_pages_before_the_next_plan);
    RUN(a_hit_leaves_the_last_token_to_compute);
    RUN(a_conversation_goes_on_behind_its_answer);
    RUN(the_cache_is_not_emptied_for_one_who_waits_all_the_same);
    RUN(alone_and_without_a_page_it_starts_over_alone);
    return test_result();
}
