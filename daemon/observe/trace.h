/* Where a request stands in a trace of its client's, as W3C Trace Context has it: `traceparent`, from gRPC metadata or an
 * HTTP header. It is carried into logs; nothing is sent on to a collector.
 *
 * Threads: any. A zeroed context has no ids. */
#ifndef DAEMON_OBSERVE_TRACE_H
#define DAEMON_OBSERVE_TRACE_H

#include <stdbool.h>
#include <stddef.h>

enum { TRACE_ID_CHARACTERS = 32, TRACE_SPAN_CHARACTERS = 16, TRACE_PARENT_CHARACTERS = 55 };

typedef struct trace_context {
    char trace_id[TRACE_ID_CHARACTERS + 1];    /* lower-case hexadecimal, NUL-terminated, as all three */
    char span_id[TRACE_SPAN_CHARACTERS + 1];   /* of what gemmad does; new for each request */
    char parent_id[TRACE_SPAN_CHARACTERS + 1]; /* of the client's span; "" when it gave none */
    bool sampled;                              /* the client's flag */
} trace_context;

/* Whether [n] bytes are a traceparent; fills the trace's id, the parent and the flag. Unless true, *out is unchanged. */
bool trace_read(trace_context *out, const char *traceparent, size_t n);
/* A context for a request that has just arrived: of the client's trace if it gave a valid one, else of a new one.
 * traceparent NULL: none was given. */
void trace_begin(trace_context *out, const char *traceparent, size_t n);

#endif
