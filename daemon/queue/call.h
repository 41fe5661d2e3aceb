/* One remote call as the request core sees it, whatever brought it (gRPC now, HTTP later, a fake in tests). Messages are
 * protobuf-c structs of proto/gemmad.proto.
 *
 * Memory:  the transport owns the call and frees it after `finish` and after its last callback; `send` packs the message
 *          before it returns.
 * Threads: loop thread only.
 * Life:    handler is called once; the core calls send any number of times and finish exactly once, also after
 *          `cancelled` was called (the result then goes nowhere). */
#ifndef DAEMON_QUEUE_CALL_H
#define DAEMON_QUEUE_CALL_H

#include "base/status.h"
#include "daemon/auth/auth.h"
#include "daemon/observe/trace.h"
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct call call;

typedef struct call_ops {
    void (*send)(call *c, const ProtobufCMessage *message);
    /* ST_OK or the error and its sentence (copied). retry_after_ms > 0 goes with ST_BUSY. */
    void (*finish)(call *c, status st, const char *text, uint32_t retry_after_ms);
    /* Bytes sent and not yet taken by the client. */
    uint64_t (*backlog_bytes)(const call *c);
} call_ops;

struct call {
    const call_ops *ops;
    const char *peer;        /* for logs and fairness: a user, an address, a key's name */
    auth_key *who;           /* held until the call is freed; NULL: may do everything */
    uint32_t retry_after_ms; /* set by the core with ST_BUSY, where it knows better than the queue */
    const char *path;        /* of the rpc or route, for logs; NULL: not known */
    const char *request_id;  /* of the header x-request-id; NULL: none. Counts where the message has no request_id */
    trace_context trace;     /* trace_begin's; zeroed: there is none */
    uint64_t deadline_ms;    /* from arrival; 0: none */
    /* Set by the core in its handler; called at most once, when the client went away or the deadline passed. */
    void (*cancelled)(call *c, void *context, status why /* ST_CANCELLED or ST_TIMEOUT */);
    /* Set by the core as well, or NULL; called whenever the backlog has become less. */
    void (*drained)(call *c, void *context);
    void *context;
};

typedef void call_handler(void *core, call *c, const ProtobufCMessage *request);

/* The table that a transport serves: one row an rpc. */
typedef struct call_method {
    const char *path; /* "/gemmad.v1.Inference/Generate" */
    const ProtobufCMessageDescriptor *request;
    bool client_streams; /* Jobs.Submit: refused as UNIMPLEMENTED for now */
    call_handler *handle;
} call_method;

#endif
