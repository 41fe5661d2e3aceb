/* Figures of all ranks as one.
 *
 * Threads: engine thread; collective. */
#ifndef SHARD_BENCH_OVER_RANKS_H
#define SHARD_BENCH_OVER_RANKS_H

#include "shard/comm/comm.h"

/* The largest, of figures that are not negative: the slowest rank's time is everybody's. */
STATUS_CHECKED status over_ranks_most(comm *ranks, double mine, double *out);
STATUS_CHECKED status over_ranks_sum(comm *ranks, double mine, double *out);
STATUS_CHECKED status over_ranks_sum_bytes(comm *ranks, uint64_t mine, uint64_t *out);

#endif
