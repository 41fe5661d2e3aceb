/* What server.c and rpc.c share.
 * Threads: loop thread, but for server_tag.next, ok and done's reader, which the event queue hands over under its lock. */
#ifndef DAEMON_API_SERVER_INTERNAL_H
#define DAEMON_API_SERVER_INTERNAL_H

#include <grpc/grpc.h>

#include "daemon/api/server.h"

/* A batch that gRPC works on; its address is the tag. `done` runs on the loop. */
typedef struct server_tag {
    void (*done)(void *owner, bool ok);
    void *owner;
    bool ok;
    struct server_tag *next; /* guarded by the event queue's lock */
} server_tag;

/* gRPC tells no call's connection but by the number of its descriptor, and a number may be another connection's by then.
 * What a caller may do must not hang on that, so connections of the daemon's own user, or root, have a gRPC server of
 * their own, and those of everybody else another. */
typedef enum server_origin { FROM_OWNER, FROM_OTHERS, SERVER_ORIGINS } server_origin;

grpc_server *server_handle(server *s, server_origin from);
grpc_completion_queue *server_queue(server *s);
uv_loop_t *server_loop(server *s);
bool server_is_stopping(const server *s);
/* NULL: there is none. */
const server_method *server_find_method(const server *s, const char *path, size_t n);
/* The peer that the connection with this descriptor was added with. */
const char *server_peer(const server *s, int fd);
auth *server_auth(const server *s); /* NULL: nobody is asked for a key */

/* A call whose first message is still to come; part of the call. */
typedef struct server_waiting {
    void (*too_late)(struct server_waiting *w); /* it has waited for too long, and waits no more */
    uint64_t since_ms;
    struct server_waiting *next, **link; /* link NULL: does not wait */
} server_waiting;
void server_wait_begins(server *s, server_waiting *w);
void server_wait_ends(server_waiting *w); /* one that does not wait is fine */

/* ---- rpc.c, as the server sees it ---- */

typedef struct rpc rpc;
/* Asks gRPC for the next call of such connections. */
void rpc_request(server *s, server_origin from);
/* The server counts calls, so that it knows when the last is gone; false: there are too many, and the call shall be
 * refused. */
bool server_call_begins(server *s, server_origin from);
void server_call_ends(server *s);
void server_request_ends(server *s, server_origin from); /* one that was asked for and will not come */

#endif
