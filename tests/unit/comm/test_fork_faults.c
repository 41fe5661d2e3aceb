/* Ranks that die, leave or give up in every place: the others get ST_PEER within a second, and the run's
 * sentence names the rank and how it ended. Injected from a table, in processes; threads only where a
 * thread can do it. */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "shard/comm/comm.h"
#include "tests/test.h"

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#else
#define UNDER_TSAN 0
#endif

typedef enum fault { KILLED, EXITS, ABORTS, FAILS, LEAVES } fault;
typedef enum place { IN_REDUCE, IN_GATHER, IN_ALL_TO_ALL, IN_WAIT, IN_BARRIER } place;

typedef struct scene {
    fault fault;
    place place;
    uint32_t rank;
    uint32_t after; /* exchanges before it happens */
} scene;

static void sleep_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static status happen(comm *c, fault f) {
    switch (f) {
    case KILLED: kill(getpid(), SIGKILL); break;
    case EXITS: _exit(3);
    case ABORTS: comm_abort(c); return ST_OK;
    case FAILS: return fail(ST_FORMAT, "layer 3 is broken");
    case LEAVES: return ST_OK;
    }
    return ST_OK;
}

static status exchange(comm *c, place p, float *x, size_t count) {
    size_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = 1000;
    char *in = (char *)x, *out = (char *)x + 8000;
    switch (p) {
    case IN_REDUCE: return comm_all_reduce(c, x, count);
    case IN_GATHER: return comm_all_gather(c, in, 1000, out);
    case IN_ALL_TO_ALL: return comm_all_to_all_v(c, in, bytes, out, bytes);
    case IN_WAIT:
        if (comm_rank(c) != 0) return comm_wait(c, -1);
        sleep_ms(1);
        return comm_wake(c);
    case IN_BARRIER: return comm_barrier(c);
    }
    return ST_INTERNAL;
}

static uint64_t *struck_ns; /* when it happened; shared by the ranks */

static status body(comm *c, void *context) {
    scene *s = context;
    enum { COUNT = 40000 };
    float *x = memory_alloc_array(COUNT, sizeof *x);
    status st = ST_OK;
    for (uint32_t i = 0; st == ST_OK && i < 200000; i++) {
        if (comm_rank(c) == s->rank && i == s->after) {
            sleep_ms(30); /* so that the others are asleep in it */
            *struck_ns = clock_now_ns();
            st = happen(c, s->fault);
            break;
        }
        st = exchange(c, s->place, x, COUNT);
    }
    free(x);
    if (comm_rank(c) == s->rank) return st;
    if (st != ST_PEER) return fail(ST_INTERNAL, "rank %u got %s", comm_rank(c), status_name(st));
    return st;
}

static void play(fault f, place p, bool threads, uint32_t rank, status want, const char *sentence) {
    scene s = {.fault = f, .place = p, .rank = rank, .after = 20};
    status st =
        comm_fork_run(&(comm_fork_options){.ranks = 4, .threads = threads, .slot_bytes = 4096}, body, &s);
    uint64_t ms = (clock_now_ns() - *struck_ns) / 1000000;
    CHECK_THAT(st == want, "fault %d place %d: %s (%s)", f, p, status_name(st), status_text());
    CHECK_SENTENCE(sentence);
    CHECK_THAT(ms < 1500, "fault %d place %d: %llu ms", f, p, (unsigned long long)ms);
}

TEST(a_killed_rank_is_named) {
    for (place p = IN_REDUCE; p <= IN_BARRIER; p++)
        play(KILLED, p, false, 2, ST_PEER, "rank 2: ended by signal 9 (Killed)");
}
TEST(an_exit_is_named) {
    for (place p = IN_REDUCE; p <= IN_BARRIER; p++)
        play(EXITS, p, false, 1, ST_PEER, "rank 1: exited with code 3");
}
TEST(a_failure_is_named) {
    for (int threads = UNDER_TSAN; threads <= 1; threads++)
        for (place p = IN_REDUCE; p <= IN_BARRIER; p++) {
            play(FAILS, p, threads, 3, ST_FORMAT, "rank 3: layer 3 is broken");
            play(FAILS, p, threads, 0, ST_FORMAT, "rank 0: layer 3 is broken");
        }
}
TEST(giving_up_is_heard) {
    for (int threads = UNDER_TSAN; threads <= 1; threads++)
        for (place p = IN_REDUCE; p <= IN_BARRIER; p++)
            play(ABORTS, p, threads, 3, ST_PEER, ": rank 3 failed or gave up");
}
TEST(leaving_early_is_heard) {
    for (int threads = UNDER_TSAN; threads <= 1; threads++)
        for (place p = IN_REDUCE; p <= IN_BARRIER; p++)
            if (p != IN_WAIT)
                play(LEAVES, p, threads, 2, ST_PEER, "rank 2 of this host left before the exchange");
    play(LEAVES, IN_WAIT, true, 0, ST_PEER, "rank 0 of this host left before the exchange");
}

/* A SIGKILL at any moment of a stream of all-reduces, from outside. */
typedef struct victim {
    volatile pid_t *pid;
    long delay_us;
} victim;
static void *kill_later(void *argument) {
    victim *v = argument;
    struct timespec t = {.tv_nsec = v->delay_us * 1000};
    while (*v->pid == 0) sleep_ms(1);
    nanosleep(&t, NULL);
    kill(*v->pid, SIGKILL);
    return NULL;
}
static status stream(comm *c, void *context) {
    victim *v = context;
    enum { COUNT = 30000 };
    float *x = memory_alloc_array(COUNT, sizeof *x);
    pthread_t killer;
    if (comm_rank(c) == 2) *v->pid = getpid();
    if (comm_rank(c) == 0 && pthread_create(&killer, NULL, kill_later, v)) abort();
    status st = ST_OK;
    while (st == ST_OK) st = comm_all_reduce(c, x, COUNT);
    if (comm_rank(c) == 0) pthread_join(killer, NULL);
    free(x);
    return st;
}
TEST(killed_at_any_moment) {
    volatile pid_t *pid = mmap(NULL, sizeof *pid, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(pid != MAP_FAILED);
    for (long i = 0; i < 20; i++) {
        victim v = {.pid = pid, .delay_us = i * 137};
        *pid = 0;
        uint64_t start = clock_now_ns();
        CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 4, .spin_us = i % 2 ? 50 : 0}, stream, &v),
                     ST_PEER);
        CHECK_SENTENCE("rank 2: ended by signal 9");
        CHECK(clock_now_ns() - start < 1500000000);
    }
    munmap((void *)pid, sizeof *pid);
}

static status work_without_end(comm *c, void *context) {
    (void)context;
    if (comm_rank(c) == 1) return fail(ST_INVALID, "no");
    if (comm_rank(c) == 2)
        for (;;) pause();
    return comm_barrier(c);
}
TEST(a_stuck_rank_is_killed_after_a_failure) {
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 3}, work_without_end, NULL), ST_INVALID);
    CHECK_SENTENCE("rank 1: no");
}

int main(void) {
    struck_ns = mmap(NULL, sizeof *struck_ns, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (struck_ns == MAP_FAILED) return 1;
    if (!UNDER_TSAN) {
        RUN(a_killed_rank_is_named);
        RUN(an_exit_is_named);
        RUN(killed_at_any_moment);
        RUN(a_stuck_rank_is_killed_after_a_failure);
    } else {
        test_skipped += 4;
    }
    RUN(a_failure_is_named);
    RUN(giving_up_is_heard);
    RUN(leaving_early_is_heard);
    return test_result();
}
