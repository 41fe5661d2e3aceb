/* grpc.reflection, v1 and v1alpha: clients learn the whole contract from the running daemon.
 *
 * Memory:  reflection_open allocates; reflection_close after the server has stopped.
 * Threads: loop thread. */
#ifndef DAEMON_API_REFLECTION_H
#define DAEMON_API_REFLECTION_H

#include "daemon/api/server.h"

typedef struct reflection reflection;

/* Adds its methods to the server. */
STATUS_CHECKED status reflection_open(reflection **out, server *s);
void reflection_close(reflection *r); /* NULL is fine */

#endif
