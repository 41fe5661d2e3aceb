/* A gemmad of gemmactl's own, for a measurement: in a temporary folder, on a socket there, gone afterwards.
 *
 * Memory:  own_daemon_open allocates; own_daemon_close stops the daemon, removes the folder and releases. NULL is fine.
 * Threads: main thread.
 * Errors:  a daemon that does not become ready: its last words. */
#ifndef CTL_OWN_DAEMON_H
#define CTL_OWN_DAEMON_H

#include <stdint.h>
#include "base/status.h"

typedef struct own_daemon own_daemon;

typedef struct own_daemon_options {
    const char *model;         /* a path; or: */
    const char *shape;         /* random weights of a published size */
    uint32_t layers;           /* of the shape; 0: all */
    uint32_t ranks, threads;   /* 0: gemmad's default */
    const char *weights, *kv, *expert_layout; /* NULL: gemmad's default */
    uint32_t context;          /* tokens of one request; 0: gemmad's default */
    uint32_t wait_s;           /* for it to be ready */
} own_daemon_options;

STATUS_CHECKED status own_daemon_open(own_daemon **out, const own_daemon_options *options);
const char *own_daemon_address(const own_daemon *d);
double own_daemon_start_seconds(const own_daemon *d); /* until it was ready */
void own_daemon_close(own_daemon *d);

#endif
