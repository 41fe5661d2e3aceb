#include "daemon/queue/call_id.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>

#include "base/invariant.h"

void call_id_make(char id[CALL_ID_BYTES]) {
    uint8_t random[12];
    /* So few bytes always come, once the system has started. */
    INVARIANT(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    int n = snprintf(id, CALL_ID_BYTES, "call_");
    for (unsigned i = 0; i < sizeof random; i++)
        n += snprintf(id + n, CALL_ID_BYTES - (size_t)n, "%02x", random[i]);
}
