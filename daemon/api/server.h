/* The gRPC transport: serves a table of call_methods over the gRPC C core, on sockets that libuv watches and accepts.
 *
 * Memory:  server_open allocates; server_close releases, after `stopped`. The method table and core are the caller's.
 * Threads: loop thread only. One thread of the server's own drains the completion queue and hands events to the loop.
 * Errors:  server_listen: ST_IN_USE (a live socket or port), ST_IO (permissions, full disk, path too long), ST_INVALID (an
 *          address that cannot be read), each naming the address. */
#ifndef DAEMON_API_SERVER_H
#define DAEMON_API_SERVER_H

#include <uv.h>
#include "daemon/queue/call.h"

typedef struct server server;

typedef struct server_options {
    uv_loop_t *loop;
    const call_method *methods;
    uint32_t method_count;
    void *core;                          /* handed to every method's handler */
    const char *(*state)(void *core);    /* "ready" is SERVING for the health service, all else NOT_SERVING */
} server_options;

STATUS_CHECKED status server_open(server **out, const server_options *options);
/* "unix:/path" (made with mode 0600; a socket file that no live process holds is replaced; only this user and root are
 * let in) or "host:port". May be called several times. */
STATUS_CHECKED status server_listen(server *s, const char *address);
/* The state may have changed: health watchers hear of it. */
void server_state_changed(server *s);
/* No new connections or calls; running calls get a second to end, then are cancelled. */
void server_stop(server *s, void (*stopped)(void *context), void *context);
void server_close(server *s);

#endif
