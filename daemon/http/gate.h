/* Who may come in over HTTP: keys, and what browsers must not be made to do.
 *
 * A page from anywhere can make a browser on this machine send requests to the loopback. So without keys a request on a
 * loopback address must name it in Host by an address or as localhost, which a page on a name of its own cannot
 * (DNS rebinding); what may change something must come from a page of ours, if it comes from a page; and no answer
 * allows other pages to read it (there are no CORS headers). Unix sockets are out of browsers' reach.
 *
 * Memory:  gate_open sets the server's gate; the gate lives as long as the server, gate_close after it.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_GATE_H
#define DAEMON_HTTP_GATE_H

#include "daemon/auth/auth.h"
#include "daemon/http/http.h"

typedef struct gate gate;

/* keys NULL: nobody is asked for one. */
void gate_open(gate **out, http_server *s, auth *keys);
/* The key of an admitted exchange; NULL: may do everything. The exchange holds it. */
auth_key *gate_key(const http_exchange *x);
void gate_close(gate *g); /* NULL is fine */

/* Whether a Host header ("localhost:8000", "[::1]") names this machine's loopback. */
bool gate_is_loopback_host(const char *host);
/* Whether an Origin header is of the same host and port as Host. */
bool gate_is_same_origin(const char *origin, const char *host);

#endif
