#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "shard/kernels/cpu/pool.h"
#include "tests/test.h"

enum { ITEMS_MAX = 300 };

typedef struct counts {
    uint32_t threads;
    uint32_t seen[ITEMS_MAX]; /* plain on purpose: an item that two threads run is a race that TSan reports */
    uint64_t salt, sum[ITEMS_MAX];
    _Atomic uint32_t bad_thread;
} counts;

static void count_item(void *context, uint32_t item, uint32_t thread) {
    counts *c = context;
    if (thread >= c->threads) atomic_fetch_add(&c->bad_thread, 1);
    c->seen[item]++;
    c->sum[item] = c->salt + item;
}

static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Many short runs: a lost wake-up hangs here (ctest's time limit ends it), an item run twice or not at all,
 * or with the context of another run, shows in the counts. */
static void stress(uint32_t threads, uint32_t spin_us, uint32_t runs) {
    pool *p;
    CHECK_STATUS(pool_open(&p, &(pool_options){.threads = threads, .spin_us = spin_us}), ST_OK);
    CHECK(pool_threads(p) == threads);
    counts two[2] = {{.threads = threads}, {.threads = threads}};
    uint64_t random = threads * 1000 + spin_us;
    int bad = 0;
    for (uint32_t run = 0; run < runs; run++) {
        counts *c =
            &two[run % 2]; /* the context changes from run to run, and the other one must stay untouched */
        uint32_t items =
            next_random(&random) % 4 ? next_random(&random) % 9 : next_random(&random) % ITEMS_MAX;
        memset(c->seen, 0, sizeof c->seen);
        c->salt = run;
        if (next_random(&random) % 64 == 0)
            usleep(next_random(&random) % 200); /* lets spinning workers fall asleep */
        pool_run(p, items, count_item, c);
        for (uint32_t i = 0; i < ITEMS_MAX; i++) {
            if (c->seen[i] != (i < items)) bad++;
            if (i < items && c->sum[i] != run + i) bad++;
        }
        if (atomic_load(&c->bad_thread)) bad++;
    }
    CHECK_THAT(bad == 0, "threads %u spin %u: %d", threads, spin_us, bad);
    pool_close(p);
}

TEST(every_item_runs_once) {
    for (uint32_t threads = 1; threads <= 8; threads++) {
        stress(threads, 0, 3000);
        stress(threads, 20, 3000);
        stress(threads, 200, 1000);
    }
}

enum { UNITS_MAX = 9000 };

typedef struct cover {
    uint32_t seen[UNITS_MAX]; /* plain: units of two ranges at once would be a race */
    _Atomic uint32_t ranges, longest;
} cover;

static void cover_range(void *context, uint32_t begin, uint32_t end, uint32_t thread) {
    (void)thread;
    cover *c = context;
    for (uint32_t i = begin; i < end; i++) c->seen[i]++;
    atomic_fetch_add(&c->ranges, 1);
    uint32_t longest = atomic_load(&c->longest);
    while (end - begin > longest && !atomic_compare_exchange_weak(&c->longest, &longest, end - begin)) {
    }
}

TEST(ranges_cover_every_unit_once) {
    static const uint32_t threads[] = {1, 2, 3, 70}, units[] = {0, 1, 2, 3, 97, 2048, UNITS_MAX};
    static cover c;
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        pool *p;
        CHECK_STATUS(pool_open(&p, &(pool_options){.threads = threads[t], .spin_us = 0}), ST_OK);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            memset(&c, 0, sizeof c);
            pool_run_ranges(p, units[u], cover_range, &c);
            for (uint32_t i = 0; i < UNITS_MAX; i++) CHECK(c.seen[i] == (i < units[u]));
            /* Nobody gets more than its share at once, and no range is so many that handing out costs. */
            CHECK(c.longest <= (units[u] + threads[t] - 1) / threads[t] && c.ranges <= 1024);
        }
        pool_close(p);
    }
}

TEST(opens_and_closes_at_once) {
    for (int i = 0; i < 200; i++) {
        pool *p;
        CHECK_STATUS(pool_open(&p, &(pool_options){.threads = 1 + i % 8, .spin_us = i % 3 * 10}), ST_OK);
        if (i % 2) {
            counts c = {.threads = 8};
            pool_run(p, 5, count_item, &c);
            CHECK(c.seen[0] == 1 && c.seen[4] == 1 && c.seen[5] == 0);
        }
        pool_close(p);
    }
    pool_close(NULL);
}

static void note_cpu(void *context, uint32_t item, uint32_t thread) {
    (void)item;
    ((_Atomic int *)context)[thread] = sched_getcpu();
    usleep(1000); /* so that each thread gets an item */
}

TEST(pins_and_gives_the_cpus_back) {
    cpu_set_t before, during, after;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    pool *p;
    CHECK_STATUS(pool_open(&p, &(pool_options){.threads = 3, .spin_us = 10, .pin = true}), ST_OK);
    CHECK(sched_getaffinity(0, sizeof during, &during) == 0);
    CHECK(CPU_COUNT(&during) == 1);
    int cpus[3], n = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && n < 3; cpu++)
        if (CPU_ISSET(cpu, &before)) cpus[n++] = cpu;
    _Atomic int ran_on[3] = {-1, -1, -1};
    for (int i = 0; i < 20; i++) pool_run(p, 12, note_cpu, ran_on);
    for (int t = 0; t < 3; t++)
        CHECK_THAT(ran_on[t] == cpus[t % CPU_COUNT(&before)] || ran_on[t] == -1, "thread %d ran on CPU %d", t,
                   ran_on[t]);
    CHECK(ran_on[0] != -1);
    pool_close(p);
    CHECK(sched_getaffinity(0, sizeof after, &after) == 0);
    CHECK(CPU_EQUAL(&before, &after));
}

TEST(refuses_absurd_thread_counts) {
    pool *p;
    CHECK_STATUS(pool_open(&p, &(pool_options){.threads = 0}), ST_INVALID);
    CHECK_STATUS(pool_open(&p, &(pool_options){.threads = 513}), ST_INVALID);
    CHECK_SENTENCE("threads is 513, allowed are 1 to 512");
}

static uint64_t cpu_time_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Workers that are not needed sleep: 100 ms of waiting may not cost 100 ms of processor. */
TEST(an_idle_pool_sleeps) {
    pool *p;
    CHECK_STATUS(pool_open(&p, &(pool_options){.threads = 4, .spin_us = 50}), ST_OK);
    counts c = {.threads = 4};
    pool_run(p, 16, count_item, &c);
    usleep(20000);
    uint64_t before = cpu_time_ns();
    usleep(100000);
    uint64_t used = cpu_time_ns() - before;
    CHECK_THAT(used < 10000000, "%llu ns", (unsigned long long)used);
    pool_close(p);
}

int main(void) {
    RUN(every_item_runs_once);
    RUN(ranges_cover_every_unit_once);
    RUN(opens_and_closes_at_once);
    RUN(pins_and_gives_the_cpus_back);
    RUN(refuses_absurd_thread_counts);
    RUN(an_idle_pool_sleeps);
    return test_result();
}
