/* The step plan's way from the leader to the ranks: one broadcast of PLAN_FIRST_BYTES, and a second one for plans that are
 * longer (page tables and prompts of long documents).
 *
 * Threads: engine thread; collective. */
#ifndef SHARD_MODEL_PLAN_SEND_H
#define SHARD_MODEL_PLAN_SEND_H

#include "shard/comm/comm.h"
#include "shard/model/plan.h"

enum { PLAN_FIRST_BYTES = 8192 };

typedef struct plan_channel {
    comm *ranks;
    strbuf bytes;
    char first[PLAN_FIRST_BYTES];
} plan_channel;

void plan_channel_close(plan_channel *c);
/* Rank 0. */
STATUS_CHECKED status plan_send(plan_channel *c, const plan *p);
/* The other ranks, after comm_wait or at once. */
STATUS_CHECKED status plan_receive(plan_channel *c, plan *p, const plan_bounds *bounds);

#endif
