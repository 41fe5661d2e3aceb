/* The prefix cache of an engine, as the scheduler asks for it: memory (kv/prefix.h), and behind it the ranks' disks where
 * there is a folder for them (kv/prefix_spill.h).
 *
 * Memory:  sched_cache_open takes the table of nodes; the scheduler that gets the hooks closes the cache.
 * Threads: engine thread of the leader. */
#ifndef SHARD_SCHED_SCHED_CACHE_H
#define SHARD_SCHED_SCHED_CACHE_H

#include "shard/sched/sched.h"

typedef struct sched_cache sched_cache;

/* For a scheduler with these options; in: whose files are there. */
void sched_cache_open(sched_cache **out, const sched_options *options, const instance *in);
/* For sched_options.prefix, once. sched_close closes the cache. */
sched_prefix sched_cache_hooks(sched_cache *c);

typedef struct sched_cache_counts {
    uint64_t queried_tokens, hit_tokens; /* totals */
    uint64_t pages;                      /* nobody runs with them; in pages of the kind whose pages are smaller */
    uint64_t spilled_bytes;              /* on all ranks' disks */
} sched_cache_counts;
/* Walks through the cache. */
sched_cache_counts sched_cache_state(const sched_cache *c);

#endif
