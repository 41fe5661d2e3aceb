/* Lets clients in, for every protocol. libuv accepts; a connection on a Unix socket must come from this process's user or
 * root, unless keys are asked for; what does not begin as the listener's protocol does is closed here, as is who says
 * nothing for a while. Then the listener's sink gets the descriptor, and a duplicate of it is watched, to know when the
 * client has left, since LIMIT_CONNECTIONS counts all listeners.
 *
 * Memory:  acceptor_open allocates; acceptor_close after `stopped`. Sinks and their texts are the caller's and stay.
 * Threads: loop thread.
 * Errors:  a connection that is refused is closed with a log line, and nothing else happens. */
#ifndef DAEMON_API_ACCEPTOR_H
#define DAEMON_API_ACCEPTOR_H

#include <uv.h>

#include "base/strbuf.h"
#include "daemon/api/address.h"

typedef struct acceptor acceptor;
typedef struct acceptor_connection acceptor_connection;

typedef enum acceptor_verdict { ACCEPTOR_MORE, ACCEPTOR_TAKE, ACCEPTOR_REFUSE } acceptor_verdict;
enum { ACCEPTOR_LOOK_BYTES = 24 }; /* that a sink may see before it decides */

/* Who gets the connections of a listener. */
typedef struct acceptor_sink {
    const char *protocol; /* for the log: "HTTP/2" */
    const char *option;   /* for the sentence of an address that cannot be taken: "--listen" */
    /* The first n bytes, 1 … ACCEPTOR_LOOK_BYTES, which stay in the socket. */
    acceptor_verdict (*look)(const char *seen, size_t n);
    /* The descriptor is the sink's from now on, to be closed by it. peer names the client for logs and as the owner of its
     * requests: the same for two connections of one user. What it returns is given to `left`. */
    void *(*take)(void *context, int fd, const char *peer, acceptor_connection *c);
    /* The client has left, or its writing end is closed; the acceptor_connection is gone. NULL: nobody wants to know. */
    void (*left)(void *context, void *taken);
    bool unix_only; /* what comes over TCP would be plaintext where TLS is asked for */
    void *context;
} acceptor_sink;

typedef struct acceptor_limits {
    uint32_t connections; /* of all; half of it of one stranger; 0: LIMIT_CONNECTIONS */
    uint32_t greeting_ms; /* for the bytes that a sink looks at; 0: 10 s */
    mode_t socket_mode;   /* of Unix sockets; 0: 0600 */
    bool other_users;     /* are asked for a key, and may therefore connect to a Unix socket */
} acceptor_limits;

STATUS_CHECKED status acceptor_open(acceptor **out, uv_loop_t *loop, const acceptor_limits *limits);
/* address_listen, and clients from now on (when the loop runs). */
STATUS_CHECKED status acceptor_listen(acceptor *a, const char *address, bool public_allowed,
                                      const acceptor_sink *sink);
/* Where it listens for a sink, NULL for all, separated by ", ". */
void acceptor_describe(const acceptor *a, const acceptor_sink *sink, strbuf *out);
uint32_t acceptor_connection_count(const acceptor *a);
/* On a Unix socket, from this process's user or root. */
bool acceptor_is_owner(const acceptor_connection *c);
/* The sink is done with a connection whose client has not left. What the client still sends is thrown away for two seconds
 * at most, so that no reset overtakes the answer; `left` is not called. */
void acceptor_end_connection(acceptor_connection *c);
/* Closes listeners and connections that no sink has yet, and forgets the others without a word. */
void acceptor_stop(acceptor *a, void (*stopped)(void *context), void *context);
void acceptor_close(acceptor *a); /* NULL is fine */

#endif
