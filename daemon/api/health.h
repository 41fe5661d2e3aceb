/* grpc.health.v1.Health: Check and Watch of the whole daemon ("") and of gemmad.v1.Inference, both SERVING while the state
 * word is "ready".
 *
 * Memory:  health_open allocates; health_close after the server has stopped.
 * Threads: loop thread. */
#ifndef DAEMON_API_HEALTH_H
#define DAEMON_API_HEALTH_H

#include "daemon/api/server.h"

typedef struct health health;

/* Adds its methods to the server. state is asked at every Check and health_changed; see core_state. */
void health_open(health **out, server *s, const char *(*state)(void *context), void *context);
/* Tells those who watch, if it is news to them. */
void health_changed(health *h);
/* Says NOT_SERVING from now on and ends the watches, which no client would. */
void health_stop(health *h);
void health_close(health *h); /* NULL is fine */

#endif
