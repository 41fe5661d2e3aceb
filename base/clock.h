/* Monotonic time. Code whose decisions depend on time takes a clock instead of calling the system, so that tests turn
 * the hands themselves. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

typedef struct clock_source {
    uint64_t (*now_ns)(void *context);
    void *context;
} clock_source;

uint64_t clock_now_ns(void);            /* CLOCK_MONOTONIC */
extern const clock_source clock_system; /* the same as a clock_source */

#endif
