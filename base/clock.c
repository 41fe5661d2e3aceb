#include "base/clock.h"

#include <time.h>

uint64_t clock_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t system_now(void *context) {
    (void)context;
    return clock_now_ns();
}

const clock_source clock_system = {system_now, 0};
