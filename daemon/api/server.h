/* gRPC's C core on a libuv loop. One thread drains the completion queue and hands its events to the loop; everything
 * that decides anything runs there. Calls are dispatched by the path of their method; a connection arrives as a
 * descriptor that acceptor.h has let in.
 *
 * Memory:  server_open allocates; server_close after `stopped`. A call (rpc.h) frees itself when gRPC and its handler
 *          are both done with it.
 * Threads: loop thread only. The completion thread touches nothing but the queue of events.
 * Errors:  a call that cannot be dispatched or read is answered here; handlers see whole, well-formed requests. */
#ifndef DAEMON_API_SERVER_H
#define DAEMON_API_SERVER_H

#include <uv.h>

#include "daemon/api/acceptor.h"
#include "daemon/auth/tls_files.h"
#include "daemon/queue/call.h"

typedef struct server server;

/* A method of the transport itself. The rows of a call_method table become these. */
typedef struct server_method {
    const char *path;
    const ProtobufCMessageDescriptor *request;
    /* handle is called for each message, and with request NULL after the last, where it finishes. It keeps nothing
     * between them: a client that goes away is not announced. */
    bool client_streams;
    bool open; /* without a key, too */
    call_handler *handle;
    void *context; /* the handler's first argument */
} server_method;

STATUS_CHECKED status server_open(server **out, uv_loop_t *loop);
/* After ports with TLS; before the loop runs. */
void server_start(server *s);
/* Before the first connection: every call must show one of these keys, but for methods that are open and the daemon's own
 * user on a Unix socket, who may. They outlive the server. */
void server_set_auth(server *s, auth *keys);
/* Before the first connection. Paths and descriptors must outlive the server. Methods of a core that take a stream of
 * requests are served as ST_UNSUPPORTED. */
void server_add_method(server *s, const server_method *method);
void server_add_core(server *s, const call_method *methods, uint32_t count, void *core);

/* Takes an address for gRPC itself, which encrypts: these connections do not come through the acceptor. The first call
 * gives the certificates, later ones replace them for connections to come. */
void server_set_tls(server *s, const tls_files *files);
STATUS_CHECKED status server_listen_tls(server *s, const char *address, bool public_allowed);

/* How long the first message of a call may take, all of it; 120 s unless set before the start. */
void server_set_message_ms(server *s, uint32_t ms);

/* For the listeners that are gRPC's; good while the server is. */
const acceptor_sink *server_sink(const server *s);

/* Calls that run now, of every kind. */
uint32_t server_call_count(const server *s);
/* No new connection and no new call; calls still running after grace_ms are cancelled. Then `stopped`, once, when the
 * last of them is done. */
void server_stop(server *s, uint32_t grace_ms, void (*stopped)(void *context), void *context);
void server_close(server *s); /* NULL is fine */

#endif
