/* What a long read or write says of itself: a log line with bytes done, bytes in all and GB/s, at most every few seconds.
 *
 * Memory:  the caller's; `what` is borrowed. A zeroed progress is valid and silent.
 * Threads: progress_begin on one; progress_add on any. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>

enum { PROGRESS_SECONDS = 2 };

typedef struct progress {
    const char *what; /* "reading weights"; NULL: silent */
    uint64_t total, begin_ns;
    atomic_uint_fast64_t done, next_ns; /* next_ns: when the next line is due */
} progress;

void progress_begin(progress *p, const char *what, uint64_t total);
void progress_add(progress *p, uint64_t bytes);
/* Bytes and nanoseconds as GB/s; 0 where no time has passed. */
double progress_rate(uint64_t bytes, uint64_t ns);

#endif
