/* TLS for gRPC's own ports: credentials whose certificates may be replaced while connections are open. New connections
 * get the new ones, and those that are open stay. TLS 1.2 or later, as gRPC has it.
 *
 * Memory:  tls_open copies the files; tls_close after the grpc_server that uses its ports is destroyed.
 * Threads: loop thread; gRPC asks for certificates on threads of its own. */
#ifndef DAEMON_API_TLS_H
#define DAEMON_API_TLS_H

#include <grpc/grpc.h>

#include "base/status.h"
#include "daemon/auth/tls_files.h"

typedef struct tls tls;

void tls_open(tls **out, const tls_files *files);
void tls_replace(tls *t, const tls_files *files);
/* One more port of the server, before it is started: "127.0.0.1:50051". ST_IO. */
STATUS_CHECKED status tls_add_port(tls *t, grpc_server *server, const char *address);
void tls_close(tls *t); /* NULL is fine */

#endif
