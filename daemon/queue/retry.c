#include "daemon/queue/retry.h"

void retry_started(retry_estimate *r, uint64_t now_ms, bool others_wait) {
    if (r->started_ms) {
        double interval = (double)(now_ms - r->started_ms);
        r->interval_ms += (interval - r->interval_ms) / (r->interval_ms > 0 ? 8 : 1);
    }
    r->started_ms = others_wait ? now_ms : 0;
    if (!others_wait) r->refused = 0;
    else if (r->refused > 0) r->refused--;
}

uint32_t retry_after_ms(retry_estimate *r, uint64_t now_ms) {
    double interval = r->interval_ms;
    /* Nothing has begun for longer than usual: it will not be faster now. */
    if (r->started_ms && (double)(now_ms - r->started_ms) > interval)
        interval = (double)(now_ms - r->started_ms);
    if (r->refused < UINT32_MAX) r->refused++;
    if (interval <= 0) return RETRY_UNKNOWN_MS;
    double ms = interval * r->refused;
    return ms < RETRY_LEAST_MS ? RETRY_LEAST_MS : ms > RETRY_MOST_MS ? RETRY_MOST_MS : (uint32_t)ms;
}
