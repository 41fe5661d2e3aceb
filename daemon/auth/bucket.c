#include "daemon/auth/bucket.h"

#include <math.h>

static const double minute_ns = 60e9;

static void flow(bucket *b, uint32_t per_minute, uint64_t now_ns) {
    double passed = now_ns > b->at_ns ? (double)(now_ns - b->at_ns) : 0;
    b->at_ns = now_ns;
    b->used -= passed * per_minute / minute_ns;
    if (b->used < 0) b->used = 0;
}

uint32_t bucket_wait_ms(bucket *b, uint32_t per_minute, uint64_t now_ns) {
    if (per_minute == 0) return 0;
    flow(b, per_minute, now_ns);
    double missing = b->used + 1 - per_minute;
    if (missing <= 1e-9) return 0;
    double ms = ceil(missing * minute_ns / per_minute / 1e6);
    return ms < 1 ? 1 : ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

void bucket_take(bucket *b, uint32_t per_minute, double amount, uint64_t now_ns) {
    if (per_minute == 0) return;
    flow(b, per_minute, now_ns);
    b->used += amount;
}
