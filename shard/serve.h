/* `gemmad-shard serve`: one rank of an engine. Rank 0 is the leader: it talks to gemmad and plans steps; the others follow
 * plans.
 *
 * Errors: the process exit code: 0 drained, 1 failure, 3 model or layout refused, EXIT_WATCHDOG when stuck. */
#ifndef SHARD_SERVE_H
#define SHARD_SERVE_H

#include "shard/model/instance.h"

typedef struct serve_options {
    const char *link, *secret_file; /* leader only */
    instance_options instance;      /* ranks filled in by serve */
    uint32_t prefill_min_share;     /* percent; see sched_options */
} serve_options;

/* Runs as every rank; ranks is open. A failure is logged here: once others hear of it, the launcher may end this process. */
STATUS_CHECKED status serve_rank(comm *ranks, const serve_options *options);

/* Seconds that a layer of a step, or a rank without its leader, may take. A layer of 512 rows at the end of 262,144 tokens
 * takes about 40 on two slow cores. */
enum { SERVE_LAYER_SECONDS = 100, SERVE_KEEPALIVE_SECONDS = 10, SERVE_LEADERLESS_SECONDS = 30 };

#endif
