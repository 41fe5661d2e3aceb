// link: daemon_core
/* A client's traceparent: what is read has ids of the right form, and reading what was read gives the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "daemon/observe/trace.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
    char *exact = malloc(size ? size : 1); /* so that a byte too far is seen */
    trace_context t = {0}, again = {0};
    memcpy(exact, data, size);
    if (trace_read(&t, exact, size)) {
        char text[TRACE_PARENT_CHARACTERS + 1];
        snprintf(text, sizeof text, "00-%s-%s-%02x", t.trace_id, t.parent_id, t.sampled);
        INVARIANT(trace_read(&again, text, TRACE_PARENT_CHARACTERS));
        INVARIANT(!strcmp(again.trace_id, t.trace_id) && !strcmp(again.parent_id, t.parent_id));
        INVARIANT(again.sampled == t.sampled);
    } else {
        INVARIANT(!t.trace_id[0] && !t.parent_id[0]);
    }
    trace_begin(&t, exact, size);
    INVARIANT(strlen(t.trace_id) == TRACE_ID_CHARACTERS && strlen(t.span_id) == TRACE_SPAN_CHARACTERS);
    free(exact);
    return 0;
}
