/* A limit a minute as a bucket: full it holds one minute's worth, and it fills evenly. It may be overdrawn: what a
 * request turns out to need is known when it has run, and the next one waits for it.
 *
 * Threads: one. A zeroed bucket is full. */
#ifndef DAEMON_AUTH_BUCKET_H
#define DAEMON_AUTH_BUCKET_H

#include <stdint.h>

typedef struct bucket {
    double used;    /* of one minute's worth; above it: overdrawn */
    uint64_t at_ns; /* as of this time */
} bucket;

/* 0: at least one is there; else how long until it is. per_minute 0: no limit. */
uint32_t bucket_wait_ms(bucket *b, uint32_t per_minute, uint64_t now_ns);
void bucket_take(bucket *b, uint32_t per_minute, double amount, uint64_t now_ns);

#endif
