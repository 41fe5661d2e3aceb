/* Which CPUs a rank runs on: those that its process may use, sorted by NUMA node, are cut into equal parts for the ranks of
 * the host, so that a rank stays on as few nodes as its threads allow and its memory, first touched by its own threads, lies
 * there.
 *
 * Threads: call before any other thread is started: they inherit it.
 * Errors:  ST_IO when the system refuses. */
#ifndef SHARD_KERNELS_PLACEMENT_H
#define SHARD_KERNELS_PLACEMENT_H

#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct placement {
    bool
        bound; /* false: the host has fewer CPUs than threads, or `bind` was not asked for; the system places them */
    uint32_t cpus;              /* that this process may use now */
    uint32_t first_node, nodes; /* of those it is bound to; nodes 0: unknown */
} placement;

STATUS_CHECKED status placement_bind(placement *out, uint32_t local_rank, uint32_t local_ranks,
                                     uint32_t threads);
/* The same for ranks whose device is on one NUMA node: its CPUs are cut into parts for the `ranks` that are near it, of
 * which this is the index-th. Where the node is not known (below 0) or has too few, nothing is bound. */
STATUS_CHECKED status placement_bind_near(placement *out, int node, uint32_t index, uint32_t ranks, uint32_t threads);
uint32_t placement_cpus(void); /* that this process may use */

#endif
