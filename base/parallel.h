/* The same work on many items, shared out over threads one item at a time.
 *
 * Threads: the caller works too; when the system refuses threads, fewer do the same work.
 * Errors:  the first failure ends the work early, and its sentence is the caller's to read, whichever thread it happened on. */
#ifndef BASE_PARALLEL_H
#define BASE_PARALLEL_H

#include "base/status.h"
#include <stdint.h>

enum { PARALLEL_THREADS_MAX = 64 };

/* How many threads there are at most where so many are asked for. */
uint32_t parallel_threads(uint32_t threads);
STATUS_CHECKED status parallel_run(uint32_t threads, uint32_t count, status (*body)(void *context, uint32_t item),
                                   void *context);
/* The body is told which thread it runs on, from 0 on and below parallel_threads(threads), for what each has its own
 * of. */
STATUS_CHECKED status parallel_run_numbered(uint32_t threads, uint32_t count,
                                            status (*body)(void *context, uint32_t item, uint32_t thread),
                                            void *context);

#endif
