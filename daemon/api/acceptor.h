/* Lets clients in. libuv accepts; a connection on a Unix socket must come from this process's user or root; what does
 * not begin as HTTP/2 does is closed here, as is who says nothing for a while. Then gRPC gets the descriptor, and a
 * duplicate of it is watched only to know when the connection is gone, since LIMIT_CONNECTIONS counts all listeners.
 *
 * Memory:  acceptor_open allocates; acceptor_close after `stopped`.
 * Threads: loop thread.
 * Errors:  a connection that is refused is closed with a log line, and nothing else happens. */
#ifndef DAEMON_API_ACCEPTOR_H
#define DAEMON_API_ACCEPTOR_H

#include "daemon/api/address.h"
#include "base/strbuf.h"
#include "daemon/api/server.h"

typedef struct acceptor acceptor;

typedef struct acceptor_limits {
    uint32_t connections; /* 0: LIMIT_CONNECTIONS */
    uint32_t greeting_ms; /* for the first 24 bytes; 0: 10 s */
} acceptor_limits;

STATUS_CHECKED status acceptor_open(acceptor **out, uv_loop_t *loop, server *s, const acceptor_limits *limits);
/* address_listen, and clients from now on (when the loop runs). */
STATUS_CHECKED status acceptor_listen(acceptor *a, const char *address, bool public_allowed);
/* Where it listens, separated by ", ". */
void acceptor_describe(const acceptor *a, strbuf *out);
uint32_t acceptor_connection_count(const acceptor *a);
/* Closes listeners and connections that gRPC does not have yet, and forgets the others. */
void acceptor_stop(acceptor *a, void (*stopped)(void *context), void *context);
void acceptor_close(acceptor *a); /* NULL is fine */

#endif
