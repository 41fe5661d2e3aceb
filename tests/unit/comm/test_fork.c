#include <math.h>
#include <time.h>

#include "tests/test.h"
#include "tests/unit/comm/comm_checks.h"

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1 /* it cannot follow memory across processes */
#else
#define UNDER_TSAN 0
#endif

static status exchanges(comm *c, void *context) { return check_exchanges(c, *(size_t *)context, 12); }

static void run_everywhere(bool threads) {
    static const size_t slots[] = {256, 4096, 0};
    for (uint32_t n = 1; n <= 5; n++)
        for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
            size_t slot = slots[i] ? slots[i] : 256 << 10;
            comm_fork_options o = {
                .ranks = n, .threads = threads, .spin_us = i == 1 ? 20 : 0, .slot_bytes = slots[i]};
            CHECK_STATUS(comm_fork_run(&o, exchanges, &slot), ST_OK);
        }
}
TEST(exchanges_between_processes) { run_everywhere(false); }
TEST(exchanges_between_threads) { run_everywhere(true); }

TEST(exchanges_with_oneself) {
    comm *c;
    CHECK_STATUS(comm_self_open(&c), ST_OK);
    CHECK(comm_size(c) == 1 && comm_rank(c) == 0 && comm_where(c).nodes == 1 &&
          comm_where(c).local_ranks == 1);
    CHECK_STATUS(check_exchanges(c, 4096, 12), ST_OK);
    CHECK(comm_statistics(c).calls > 60 && comm_statistics(c).bytes > 400000);
    float x = 1;
    comm_abort(c);
    CHECK_STATUS(comm_all_reduce(c, &x, 1), ST_PEER);
    comm_close(c);
    comm_close(NULL);
}

/* The test above proves something only if another order gives other bits. */
TEST(the_order_of_additions_shows) {
    int differ = 0;
    for (size_t i = 0; i < 1000; i++) {
        float a = checks_float(1, 0, i), b = checks_float(1, 1, i), c = checks_float(1, 2, i);
        differ += checks_bits((a + b) + c) != checks_bits((c + b) + a);
    }
    CHECK_THAT(differ > 100, "%d", differ);
    CHECK(checks_bits(checks_float(1, 0, 5)) == 0x80000000u);
}

static status infinities(comm *c, void *context) {
    (void)context;
    float x[4] = {INFINITY, comm_rank(c) ? -INFINITY : INFINITY, NAN, 3e38f};
    TRY(comm_all_reduce(c, x, 4));
    if (!isinf(x[0]) || !isnan(x[1]) || !isnan(x[2]) || !isinf(x[3]))
        return fail(ST_INTERNAL, "special values lost");
    return ST_OK;
}
TEST(infinities_and_nans_pass) {
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 2, .threads = true}, infinities, NULL), ST_OK);
}

static status statistics(comm *c, void *context) {
    (void)context;
    float x[10] = {0};
    struct timespec t = {.tv_nsec = 50000000};
    TRY(comm_barrier(c));
    comm_stats before = comm_statistics(c);
    if (comm_rank(c) == 1) nanosleep(&t, NULL);
    TRY(comm_all_reduce(c, x, 10));
    comm_stats s = comm_statistics(c);
    if (s.calls - before.calls != 1 || s.bytes - before.bytes != 40)
        return fail(ST_INTERNAL, "%llu calls, %llu bytes", (unsigned long long)s.calls,
                    (unsigned long long)s.bytes);
    if (comm_rank(c) == 0 && s.wait_ns - before.wait_ns < 40000000)
        return fail(ST_INTERNAL, "waited %llu ns", (unsigned long long)(s.wait_ns - before.wait_ns));
    return ST_OK;
}
TEST(statistics_count_calls_bytes_and_waits) {
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 2, .threads = true}, statistics, NULL), ST_OK);
}

static status mismatch(comm *c, void *context) {
    (void)context;
    size_t send[2] = {8, 8}, recv[2] = {8, 8};
    char in[16] = {0}, out[32];
    if (comm_rank(c) == 1) recv[0] = 9;
    return comm_all_to_all_v(c, in, send, out, recv);
}
TEST(counts_that_do_not_fit_are_named) {
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 2, .threads = true}, mismatch, NULL),
                 ST_MISMATCH);
    CHECK_SENTENCE("rank 1: rank 0 sends rank 1 8 bytes, it expects 9");
}

TEST(options_are_checked) {
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 0}, statistics, NULL), ST_INVALID);
    CHECK_SENTENCE("0 ranks");
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 1025}, statistics, NULL), ST_INVALID);
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 64, .slot_bytes = 1}, statistics, NULL),
                 ST_INVALID);
    CHECK_SENTENCE("64 ranks need 2048");
}

int main(void) {
    RUN(exchanges_with_oneself);
    RUN(the_order_of_additions_shows);
    if (UNDER_TSAN) test_skipped++;
    else RUN(exchanges_between_processes);
    RUN(exchanges_between_threads);
    RUN(infinities_and_nans_pass);
    RUN(statistics_count_calls_bytes_and_waits);
    RUN(counts_that_do_not_fit_are_named);
    RUN(options_are_checked);
    return test_result();
}
