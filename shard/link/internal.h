/* What link.c, send.c and heartbeat.c share; nobody else includes this. */
#ifndef SHARD_LINK_INTERNAL_H
#define SHARD_LINK_INTERNAL_H

#include <pthread.h>
#include "proto/engine_check.h"
#include "proto/frame.h"
#include "shard/link/link.h"

enum {
    LINK_QUEUE_BYTES = 2 * LIMIT_MESSAGE_BYTES,
    LINK_FRAME_BYTES =
        1 << 20, /* lists are cut into frames of about this size: gemmad unpacks one in its loop */
    LINK_TIMEOUT_MS = 10000,
    LINK_HEARTBEAT_MS = 1000,
};

struct link {
    char *address;
    uint8_t secret[LIMIT_SECRET_BYTES];
    uint64_t timeout_ns, start_unix_ms;
    engine_bounds bounds;
    frame_reader reader; /* engine thread */
    uint64_t last_id;    /* of a submit on this connection: ids grow, so none comes twice */
    uint64_t grace_ms;

    bool ready; /* hello below has been said, and is said again after a reconnect */
    char build_id[65], layout[64], checkpoint_hash[65];
    uint32_t requests_max;

    pthread_mutex_t lock;
    int fd; /* changed by the engine thread with the lock held; -1: not connected */
    bool
        proven; /* guarded by lock: gemmad has answered hello on this connection; no heartbeat comes before */
    frame_writer writer;  /* guarded by lock */
    link_rank_info *rank; /* [rank_count], guarded by lock */
    uint32_t rank_count;  /* guarded by lock */

    pthread_t thread;
    bool beating, stop; /* stop guarded by lock */
    pthread_cond_t stopped;
    const link_progress *progress;
};

/* Queues one frame and tries to write it. */
status link_queue(link_connection *l, const engine_frame *f);
/* Writes what the socket takes. With the lock held. */
status link_write_locked(link_connection *l);
/* Queues a heartbeat, unless so much waits already that gemmad hears from us anyway. */
status link_beat(link_connection *l);

#endif
