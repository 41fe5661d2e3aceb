/* When a client that found a queue full should come again: places come free at the pace of the last starts, and
 * each client that was turned away is told a later one.
 *
 * Threads: one. A zeroed estimate is valid. */
#ifndef DAEMON_QUEUE_RETRY_H
#define DAEMON_QUEUE_RETRY_H

#include <stdbool.h>
#include <stdint.h>

enum { RETRY_UNKNOWN_MS = 1000, RETRY_LEAST_MS = 100, RETRY_MOST_MS = 60000 };

typedef struct retry_estimate {
    double interval_ms;  /* between starts while others waited; 0: not measured */
    uint64_t started_ms; /* the last start; 0: none, or the queue was empty since */
    uint32_t refused;    /* and not yet made up for by places that came free */
} retry_estimate;

/* A request has begun; `others_wait` in the same queue. now_ms is that of any clock that only goes forward. */
void retry_started(retry_estimate *r, uint64_t now_ms, bool others_wait);
/* Turns one away. */
uint32_t retry_after_ms(retry_estimate *r, uint64_t now_ms);

#endif
