/* Time by a clock that follows a model of costs: what a long prompt does to the streams beside it. */
#include "shard/sched/sched_internal.h"
#include "tests/unit/sched/sched_world.h"

enum { WARM_UP = 12 };
static world w;

/* Streams, then a prompt nearly as long as the context beside them. Calls `look` after each step until the prompt is read. */
static void read_beside_a_stream(uint32_t streams, void (*look)(uint32_t step)) {
    for (uint32_t i = 0; i < streams; i++) submit_plain(&w, i, 3, 590);
    for (uint32_t i = 0; i < 2 * streams; i++) step(&w);
    submit_plain(&w, streams, 550, 1);
    for (uint32_t i = 0; !w.r[streams].tokens && i < 3000; i++) {
        uint32_t before = w.r[0].tokens;
        step(&w);
        CHECK(w.r[0].tokens == before + 1 || w.r[0].ended); /* no step without the stream */
        look(i);
    }
    for (uint32_t i = 0; i <= streams; i++) CHECK_STATUS(sched_cancel(w.s, i), ST_OK);
}

static uint32_t most_rows, least_rows, probes;
static uint64_t decode_ns, all_ns;

static void within_twice(uint32_t i) {
    if (i < WARM_UP) return;
    CHECK_THAT(w.step_ns <= 2 * w.decode_ns, "step %u: %llu ns beside %llu", i, (unsigned long long)w.step_ns,
               (unsigned long long)w.decode_ns);
    if (w.prompt_rows == 0) probes++;
    else if (w.prompt_rows < least_rows) least_rows = w.prompt_rows;
    if (w.prompt_rows > most_rows) most_rows = w.prompt_rows;
}

static void begin(uint64_t row_ns, uint64_t row_depth_ns) {
    open_world(&w, 10, 100, false);
    w.row_ns = row_ns;
    w.row_depth_ns = row_depth_ns;
    most_rows = probes = 0;
    decode_ns = all_ns = 0;
    least_rows = UINT32_MAX;
}

TEST(a_long_prompt_leaves_streams_half_their_speed) {
    begin(200000, 0);
    read_beside_a_stream(1, within_twice);
    CHECK_THAT(most_rows == 4 && least_rows >= 2 && probes > 0, "%u to %u rows, %u probes", least_rows,
               most_rows, probes);
    close_world(&w);
}

TEST(rows_get_fewer_with_depth) {
    begin(50000, 1000); /* a row costs 50 µs at first, 640 µs in the end */
    read_beside_a_stream(3, within_twice);
    CHECK_THAT(most_rows >= 5 && least_rows == 1, "%u to %u rows", least_rows, most_rows);
    close_world(&w);
}

static void one_row(uint32_t i) {
    if (i < WARM_UP) return;
    CHECK(w.prompt_rows <= 1);
    if (w.prompt_rows == 0) probes++;
    else most_rows++;
}

TEST(a_row_that_costs_more_than_a_step_is_taken_alone) {
    begin(3000000, 0);
    read_beside_a_stream(1, one_row);
    CHECK_THAT(most_rows > 25 * probes, "%u steps with a row, %u without", most_rows, probes);
    close_world(&w);
}

static void count_time(uint32_t i) {
    if (i < WARM_UP) return;
    decode_ns += w.decode_ns;
    all_ns += w.step_ns;
}

TEST(prompts_get_the_share_that_was_asked_for) {
    begin(200000, 0);
    w.o.prefill_min_share = 75;
    reopen(&w);
    read_beside_a_stream(1, count_time);
    double share = 1 - (double)decode_ns / (double)all_ns;
    CHECK_THAT(share > 0.7 && share < 0.76, "%.2f", share);
    close_world(&w);
}

static uint32_t late;
static void stand_still(uint32_t i) {
    static const uint64_t minute = 60000000000;
    if (i == 20) w.now_ns += minute;         /* the machine stood still between steps, … */
    if (i == 25) w.stall_mixed_ns = minute;  /* … in a step with rows of the prompt, … */
    if (i == 40) w.stall_decode_ns = minute; /* … and in one that was to measure decoding alone */
    if (i > 26 && w.step_ns < minute && w.step_ns > 2 * w.decode_ns) late++;
}

TEST(a_machine_that_stood_still_is_forgotten) {
    begin(200000, 0);
    late = 0;
    read_beside_a_stream(1, stand_still);
    CHECK(w.stall_mixed_ns == 0 && w.stall_decode_ns == 0);
    CHECK_THAT(late == 0, "%u", late);
    close_world(&w);
}

TEST(without_streams_prompts_get_whole_chunks) {
    begin(3000000, 1000);
    submit_plain(&w, 0, 500, 1);
    submit_plain(&w, 1, 500, 1);
    for (int i = 0; i < 10; i++) {
        step(&w);
        CHECK(w.prompt_rows == ROWS && w.p.span_count == 2);
    }
    while (w.live) step(&w);
    close_world(&w);
}

/* Decoding was measured too slow, so that the first rows seem to cost nothing; chunks double, but not for long. */
TEST(rows_that_seemed_free_do_not_run_away) {
    step_budget b = {0};
    double ns = budget_for_prompts(&b, 1, 10);
    uint64_t now = 1, decode = 1000000, row = 25000;
    CHECK(ns == 0);
    budget_step_begin(&b, now);
    budget_count_rows(&b, 0, 1, true);
    budget_step_done(&b, now += decode * 13 / 10);
    uint32_t position = 0, most = 0;
    for (int i = 0; i < 100; i++) {
        ns = budget_for_prompts(&b, 1, 10);
        uint32_t rows = budget_rows(&b, position, 512, &ns);
        if (rows > most) most = rows;
        budget_step_begin(&b, now);
        budget_count_rows(&b, 0, 1, true);
        if (rows) budget_count_rows(&b, position, rows, false);
        budget_step_done(&b, now += decode + rows * row);
        position += rows;
        if (i > 40) CHECK_THAT(rows == 0 || (rows > 25 && rows <= 40), "step %d: %u rows", i, rows);
    }
    CHECK_THAT(most <= 80, "%u rows", most);
}

TEST(a_short_prompt_does_not_slow_the_next) {
    begin(10000, 0);
    submit_plain(&w, 0, 3, 500);
    for (int i = 0; i < 3; i++) step(&w);
    submit_plain(&w, 1, 8 + 16 + 5, 1);
    static const uint32_t rows[] = {8, 16, 5};
    for (int i = 0; i < 3; i++) {
        step(&w);
        CHECK_THAT(w.prompt_rows == rows[i], "%u", w.prompt_rows);
    }
    submit_plain(&w, 2, 100, 1);
    step(&w);
    CHECK_THAT(w.prompt_rows == CHUNK, "%u", w.prompt_rows);
    while (w.live) step(&w);
    close_world(&w);
}

TEST(chunks_can_be_fixed) {
    begin(3000000, 0);
    submit_plain(&w, 0, 3, 500);
    for (int i = 0; i < 3; i++) step(&w);
    submit_plain(&w, 1, 300, 1);
    for (uint32_t chunk = 1; chunk <= CHUNK; chunk++) {
        sched_fix_chunk(w.s, chunk);
        step(&w);
        CHECK(w.prompt_rows == chunk && w.decode_rows == 1);
    }
    while (w.live) step(&w);
    close_world(&w);
}

int main(void) {
    RUN(a_long_prompt_leaves_streams_half_their_speed);
    RUN(rows_get_fewer_with_depth);
    RUN(a_row_that_costs_more_than_a_step_is_taken_alone);
    RUN(prompts_get_the_share_that_was_asked_for);
    RUN(a_machine_that_stood_still_is_forgotten);
    RUN(without_streams_prompts_get_whole_chunks);
    RUN(rows_that_seemed_free_do_not_run_away);
    RUN(a_short_prompt_does_not_slow_the_next);
    RUN(chunks_can_be_fixed);
    return test_result();
}
