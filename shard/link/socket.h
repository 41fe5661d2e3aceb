/* Dialling gemmad.
 * Errors:  ST_INVALID for an address that is none, ST_UNAVAILABLE when nobody listens, ST_TIMEOUT. */
#ifndef SHARD_LINK_SOCKET_H
#define SHARD_LINK_SOCKET_H

#include <stdint.h>
#include "base/status.h"

/* A connected, non-blocking, close-on-exec socket. address: "unix:/path", "host:port" or "[v6]:port". */
STATUS_CHECKED status link_dial(const char *address, uint64_t deadline_ns, int *fd);
/* Until one of poll's events, or ST_TIMEOUT. deadline_ns UINT64_MAX: for ever. */
STATUS_CHECKED status link_wait_io(int fd, short events, uint64_t deadline_ns, short *happened);

#endif
