/* Inside of the gRPC transport. */
#ifndef DAEMON_API_SERVER_INTERNAL_H
#define DAEMON_API_SERVER_INTERNAL_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include "daemon/api/server.h"
#include "proto/limits.h"

enum { SERVER_PENDING_ACCEPTS = 64, SERVER_BACKLOG = 128, SERVER_STOP_MS = 1000 };

/* The tag of one gRPC batch: called on the loop thread when the batch is done. */
typedef struct tag {
    void (*done)(struct tag *t, bool ok);
    void *owner;
} tag;

typedef struct completion {
    tag *t;
    bool ok;
} completion;

/* Events on their way from the queue's thread to the loop. */
typedef struct completions {
    grpc_completion_queue *cq;
    uv_thread_t thread;
    uv_async_t async;
    uv_mutex_t lock;
    completion *list;        /* guarded by lock */
    size_t count, capacity;  /* guarded by lock */
    bool drained;            /* guarded by lock: the thread has ended */
    bool started;
} completions;

typedef struct connection {
    uint64_t inode;          /* of the socket, so that a reused descriptor is not taken for it */
    char peer[64];
} connection;

typedef struct listener {
    struct listener *next;
    struct server *server;
    uv_poll_t poll;
    uv_timer_t pause;        /* after running out of descriptors */
    int fd;
    bool is_unix;
    char *path;              /* of a Unix socket: removed at close */
} listener;

/* The methods that the transport itself answers; messages of one call may be many (reflection). */
typedef struct own_method {
    const char *path;
    const ProtobufCMessageDescriptor *request;
    void (*handle)(struct server *s, call *c, const ProtobufCMessage *request);
    bool streams;            /* handle is called for every message; the call ends when the client has no more */
} own_method;

typedef struct rpc {
    call base;
    struct server *server;
    struct rpc *next, *previous; /* all live ones */
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    const call_method *method;
    const own_method *own;
    grpc_byte_buffer *received, *sending;
    ProtobufCMessage *request;
    tag arrived, message, sent, closed, finished;
    int cancelled;           /* written by gRPC */
    uint32_t batches;        /* under way */
    bool has_closed, has_status, wants_status, writing, status_sent, told_cancelled;
    grpc_byte_buffer **queue; /* waiting for the write under way */
    size_t queue_first, queue_count, queue_capacity; /* a ring */
    uint64_t queued_bytes;
    grpc_status_code code;
    grpc_slice text;
    grpc_metadata trailer;
    uint32_t trailer_count;
    char peer[64];
} rpc;

struct server {
    server_options o;
    grpc_server *grpc;
    completions events;
    listener *listeners;
    connection *connections; /* by descriptor */
    size_t connection_capacity, connection_count;
    rpc *calls;
    struct watcher *watchers; /* of health */
    uint32_t accepting;      /* rpcs that wait for a call */
    bool stopping;
    tag shutdown;
    uv_timer_t stop_timer;
    bool stop_timer_open;
    uint32_t closing;        /* uv handles still to close */
    void (*stopped)(void *context);
    void *stopped_context;
};

/* completions.c */
status completions_open(completions *c, uv_loop_t *loop, void (*drained)(void *context), void *context);
/* rpc.c */
void rpc_accept(server *s);
void rpc_cancel_all(server *s);
/* listener.c */
const char *listener_peer(server *s, const char *grpc_peer);
void listeners_close(server *s, uv_close_cb closed);
/* health.c, reflection.c */
extern const own_method health_methods[], reflection_methods[];
extern const uint32_t health_method_count, reflection_method_count;
void health_state_changed(server *s);
void health_close(server *s);

#endif
