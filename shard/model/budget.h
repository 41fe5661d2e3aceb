/* What an engine takes of memory, planned before a byte of weights is read and printed: weights, activations, KV by kind,
 * and how many tokens and requests that holds.
 *
 * Threads: pure functions.
 * Errors:  ST_LAYOUT or ST_NO_MEMORY with both numbers when a rank cannot hold the model and one request. */
#ifndef SHARD_MODEL_BUDGET_H
#define SHARD_MODEL_BUDGET_H

#include "shard/model/runner.h"

typedef struct budget_options {
    weights_choice choice;    /* --weights */
    const checkpoint *files;  /* NULL: not at hand, and all matrices are stored as … */
    weight_type stored;
    uint64_t weight_bytes;    /* of this rank, where they are known (a pack's file); 0: by arithmetic */
    kv_type kv;
    uint32_t context;         /* --context; 0: the model's own limit, cut to what fits */
    uint64_t memory_bytes;    /* --memory per rank; 0: chosen */
    uint64_t free_bytes;      /* of this rank: what its host has free / ranks on the host */
    uint32_t slots, rows_max, chunk_max; /* 0: defaults */
} budget_options;

enum { BUDGET_SLOTS = 64, BUDGET_ROWS = 512, BUDGET_REQUESTS = 16 };

typedef struct budget {
    uint64_t weight_bytes, activation_bytes, kv_bytes; /* of this rank */
    uint64_t kv_request_bytes[KV_KINDS]; /* one request of `context` tokens, this rank */
    uint32_t pages_needed[KV_KINDS];
    uint32_t context, slots, rows_max, chunk_max, slabs;
    kv_geometry geometry;
} budget;

STATUS_CHECKED status budget_make(budget *out, const model_config *config, const layout *split,
                                  const budget_options *options);
/* Takes over what the ranks agreed on: rank 0's pages per slab, the shortest context and the fewest slabs of any. */
void budget_agree(budget *b, const uint32_t pages_per_slab[KV_KINDS], uint32_t context, uint32_t slabs, uint32_t window);
/* The sliding window of a config: 0 when no layer slides. */
uint32_t budget_window(const model_config *config);
/* MemAvailable of this host, or physical memory where the kernel does not say. */
uint64_t budget_free_memory(void);

#endif
