/* How a run meets its threads. `ticket` packs (run, items left): a thread takes an item by lowering the count
 * with a compare-and-swap, which fails for a thread that still believes in an older run. Whoever took an item
 * may read the run's work and context, because the run cannot end before that item is counted in `done`. So a
 * thread that slept through a run never has to be waited for. */
#include "shard/kernels/cpu/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"

enum { POOL_THREADS_MAX = 512, CPUS_MAX = 8192, CACHE_LINE = 64, SPINS_PER_CLOCK = 32 };

typedef struct worker {
    struct pool *pool;
    pthread_t thread;
    uint32_t index;
} worker;

/* glibc's cpu_set_t ends at 1024 CPUs; the *_S macros take a row of them. */
typedef struct cpu_set {
    cpu_set_t parts[CPUS_MAX / CPU_SETSIZE];
} cpu_set;

struct pool {
    uint32_t threads, started; /* started: workers whose pthread exists */
    uint64_t spin_ns;
    worker *workers;
    bool pinned;
    cpu_set caller_cpus; /* given back to the caller's thread at the end */
    /* Written by pool_run before it publishes a ticket, read by a thread that holds an item of that run. */
    pool_work *work;
    void *context;
    uint32_t items;
    /* The words below are spun on or counted by many threads: a cache line each. */
    _Alignas(CACHE_LINE) _Atomic uint64_t ticket; /* run << 32 | items left */
    _Alignas(CACHE_LINE) _Atomic uint32_t run;    /* futex of the workers; raised after the ticket */
    _Atomic uint32_t sleepers;
    _Atomic bool closing;
    _Alignas(CACHE_LINE) _Atomic uint32_t done; /* items of this run that are finished; futex of the caller */
    _Atomic bool caller_sleeps;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
    /* EAGAIN (the word changed) and EINTR are reasons to look again, which every caller does anyway. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, uint32_t count) {
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

/* Spins until the word differs from `seen` or the time is up; true when it differs. */
static bool spin_while(_Atomic uint32_t *word, uint32_t seen, uint64_t spin_ns) {
    if (atomic_load_explicit(word, memory_order_acquire) != seen) return true;
    if (!spin_ns) return false;
    uint64_t end = clock_now_ns() + spin_ns;
    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen) return true;
            relax();
        }
    } while (clock_now_ns() < end);
    return false;
}

/* Takes items until the ticket has none, then counts them at once. */
static void take_items(pool *p, uint32_t thread) {
    uint32_t taken = 0, items = 0;
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    for (;;) {
        uint32_t left = (uint32_t)ticket;
        if (!left) break;
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        items = p->items;
        p->work(p->context, items - left, thread);
        taken++;
        ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    }
    if (!taken) return;
    uint32_t before = atomic_fetch_add(&p->done, taken);
    /* The caller announces its sleep before it looks at `done` for the last time, so either it sees this
     * count or this thread sees the announcement. From here on the run may be over: nothing of it is read. */
    if (before + taken == items && atomic_load(&p->caller_sleeps)) futex_wake(&p->done, 1);
}

static void *worker_main(void *argument) {
    worker *w = argument;
    pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        if (!spin_while(&p->run, seen, p->spin_ns)) {
            atomic_fetch_add(&p->sleepers, 1);
            /* Counted as a sleeper before the look, and pool_run raises `run` before it counts sleepers. */
            while (atomic_load(&p->run) == seen) futex_wait(&p->run, seen);
            atomic_fetch_sub(&p->sleepers, 1);
        }
        seen = atomic_load(&p->run);
        if (atomic_load(&p->closing)) return NULL;
        take_items(p, w->index);
    }
}

static uint32_t count_cpus(const cpu_set *set) {
    uint32_t n = 0;
    for (uint32_t cpu = 0; cpu < CPUS_MAX; cpu++) n += CPU_ISSET_S(cpu, sizeof *set, set->parts) ? 1 : 0;
    return n;
}

static uint32_t nth_cpu(const cpu_set *set, uint32_t n) {
    for (uint32_t cpu = 0; cpu < CPUS_MAX; cpu++)
        if (CPU_ISSET_S(cpu, sizeof *set, set->parts) && n-- == 0) return cpu;
    INVARIANT(!"fewer CPUs than counted");
    return 0;
}

static status pin_thread(pool *p, pthread_t thread, uint32_t index) {
    uint32_t cpu = nth_cpu(&p->caller_cpus, index % count_cpus(&p->caller_cpus));
    cpu_set one;
    CPU_ZERO_S(sizeof one, one.parts);
    CPU_SET_S(cpu, sizeof one, one.parts);
    int error = pthread_setaffinity_np(thread, sizeof one, one.parts);
    errno = error;
    return error ? fail_errno(ST_IO, "bind thread %u of the pool to CPU %u", index, cpu) : ST_OK;
}

status pool_open(pool **out, const pool_options *options) {
    status st = ST_OK;
    if (options->threads < 1 || options->threads > POOL_THREADS_MAX)
        return fail(ST_INVALID, "threads is %u, allowed are 1 to %d", options->threads, POOL_THREADS_MAX);
    pool *p = aligned_alloc(CACHE_LINE, sizeof *p);
    INVARIANT(p);
    *p = (pool){.threads = options->threads, .spin_ns = (uint64_t)options->spin_us * 1000};
    p->workers = memory_alloc_array(p->threads, sizeof *p->workers);
    if (options->pin) {
        if (sched_getaffinity(0, sizeof p->caller_cpus, p->caller_cpus.parts) < 0) {
            st = fail_errno(ST_IO, "read the CPUs this process may use");
            goto fail;
        }
        TRY_OR_FAIL(pin_thread(p, pthread_self(), 0));
        p->pinned = true;
    }
    while (p->started < p->threads - 1) {
        worker *w = &p->workers[p->started];
        *w = (worker){.pool = p, .index = p->started + 1};
        int error = pthread_create(&w->thread, NULL, worker_main, w);
        if (error) {
            errno = error;
            st = fail_errno(ST_NO_MEMORY, "start thread %u of %u", w->index, p->threads);
            goto fail;
        }
        p->started++;
        if (options->pin) TRY_OR_FAIL(pin_thread(p, w->thread, w->index));
    }
    *out = p;
    return ST_OK;
fail:
    pool_close(p);
    return st;
}

void pool_close(pool *p) {
    if (!p) return;
    atomic_store(&p->closing, true);
    atomic_fetch_add(&p->run, 1);
    futex_wake(&p->run, POOL_THREADS_MAX);
    for (uint32_t i = 0; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    /* The thread that opened the pool may go on to other work: it gets its CPUs back. A failure leaves it
     * bound, which is slower and nothing else. */
    if (p->pinned) (void)sched_setaffinity(0, sizeof p->caller_cpus, p->caller_cpus.parts);
    free(p->workers);
    free(p);
}

uint32_t pool_threads(const pool *p) { return p->threads; }

void pool_run(pool *p, uint32_t items, pool_work *work, void *context) {
    /* One item or one thread: waking anyone costs more than it gives. */
    if (items <= 1 || p->threads == 1) {
        for (uint32_t i = 0; i < items; i++) work(context, i, 0);
        return;
    }
    p->work = work;
    p->context = context;
    p->items = items;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint32_t run = atomic_load_explicit(&p->run, memory_order_relaxed) + 1;
    atomic_store_explicit(&p->ticket, (uint64_t)run << 32 | items, memory_order_release);
    atomic_store(&p->run, run);
    uint32_t sleepers = atomic_load(&p->sleepers);
    if (sleepers) futex_wake(&p->run, sleepers < items - 1 ? sleepers : items - 1);
    take_items(p, 0);
    uint32_t done;
    while ((done = atomic_load(&p->done)) != items) {
        if (spin_while(&p->done, done, p->spin_ns)) continue;
        atomic_store(&p->caller_sleeps, true);
        if ((done = atomic_load(&p->done)) != items) futex_wait(&p->done, done);
        atomic_store_explicit(&p->caller_sleeps, false, memory_order_relaxed);
    }
}

/* Where even that many do not suffice, the last ones are equal. */
enum { RANGES_MAX = 1024 };

typedef struct ranges {
    pool_range_work *work;
    void *context;
    uint32_t begin[RANGES_MAX + 1];
} ranges;

static void run_range(void *context, uint32_t item, uint32_t thread) {
    const ranges *r = context;
    r->work(r->context, r->begin[item], r->begin[item + 1], thread);
}

void pool_run_ranges(pool *p, uint32_t units, pool_range_work *work, void *context) {
    if (units == 0) return;
    if (p->threads == 1) {
        work(context, 0, units, 0);
        return;
    }
    ranges r; /* not zeroed: it is long, and a step has hundreds */
    r.work = work;
    r.context = context;
    uint32_t count = 0, at = 0;
    while (at < units) {
        uint32_t left = units - at, take = (left + 2 * p->threads - 1) / (2 * p->threads);
        uint32_t even = (left + RANGES_MAX - count - 1) / (RANGES_MAX - count);
        if (take < even) take = even;
        r.begin[count++] = at;
        at += take;
    }
    r.begin[count] = units;
    pool_run(p, count, run_range, &r);
}
