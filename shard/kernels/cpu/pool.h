/* A pool of threads for one rank. Work is a count of independent items; which thread runs an item never changes a
 * result, because an item's sums are its own.
 *
 * Memory:  pool_open allocates and starts threads - 1 threads (the caller is the first); pool_close joins them.
 * Threads: pool_run from one thread at a time, the engine thread. No allocation, lock or system call on the fast path:
 *          workers spin shortly between runs, then sleep on a futex.
 * Options: pin binds thread i to the i-th CPU of the process's affinity mask; spin_us 0 sleeps at once (more runnable
 *          threads than CPUs). */
#ifndef SHARD_KERNELS_CPU_POOL_H
#define SHARD_KERNELS_CPU_POOL_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"

typedef struct pool pool;
typedef struct pool_options {
    uint32_t threads;  /* 1 ... 512 */
    uint32_t spin_us;
    bool pin;
} pool_options;

STATUS_CHECKED status pool_open(pool **out, const pool_options *options);
void pool_close(pool *p);
uint32_t pool_threads(const pool *p);

/* Calls work(context, item, thread) once for each item in 0 ... items-1, thread in 0 ... threads-1; returns when all
 * are done. Items are handed out in order from a shared counter. */
typedef void pool_work(void *context, uint32_t item, uint32_t thread);
void pool_run(pool *p, uint32_t items, pool_work *work, void *context);

/* Calls work(context, begin, end, thread) over ranges that cover 0 … units - 1 in order: long ranges first, so that a thread
 * reads long stretches of memory, short ones last, so that threads finish together. */
typedef void pool_range_work(void *context, uint32_t begin, uint32_t end, uint32_t thread);
void pool_run_ranges(pool *p, uint32_t units, pool_range_work *work, void *context);

#endif
