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
    uint64_t weight_bytes;    /* of this rank, where they are known (model_pack_bytes); 0: by arithmetic */
    kv_type kv;
    uint32_t context;         /* --context; 0: the model's own limit, cut to what fits */
    uint64_t memory_bytes;    /* --memory per rank; 0: chosen */
    uint64_t free_bytes;      /* of this rank: what its host has free / ranks on the host */
    uint64_t device_bytes;    /* free memory of the GPU that this rank computes on, which the plan is then about; 0: host */
    uint64_t device_scratch_bytes; /* what the back end takes there for itself, counted with activations */
    bool whole_memory;        /* KV takes all that may be had, whatever it is for */
    uint32_t slots, rows_max, chunk_max; /* 0: defaults */
} budget_options;

/* A GPU multiplies many rows at once, and is not filled by few; rows of a step may be as many as BUDGET_ROWS_MAX. */
enum { BUDGET_SLOTS = 64, BUDGET_ROWS = 512, BUDGET_ROWS_GPU = 2048, BUDGET_ROWS_MAX = 8192, BUDGET_REQUESTS = 16 };

typedef struct budget {
    uint64_t weight_bytes, activation_bytes, kv_bytes; /* of this rank */
    uint64_t kv_limit;                   /* what this rank has left for kv_bytes */
    uint64_t kv_request_bytes[KV_KINDS]; /* one request of `context` tokens, this rank */
    uint32_t pages_needed[KV_KINDS];
    uint32_t context, slots, rows_max, chunk_max, slabs;
    uint32_t requests_held; /* requests of `context` tokens that have KV at once, at most `slots` */
    uint64_t tokens_held;   /* tokens that have KV at once, when every request but one is of `context` tokens */
    uint32_t window;
    bool context_given, on_device;
    kv_geometry geometry;
} budget;

/* What a rank brings to the common plan. */
typedef struct budget_share {
    uint64_t kv_limit, page_bytes[KV_KINDS];
    uint32_t context, slabs, pages_per_slab[KV_KINDS];
} budget_share;

/* Rows of a step: as asked (0: not), and at least those of a chunk. */
uint32_t budget_step_rows(uint32_t rows_max, uint32_t chunk_max, bool on_device);
STATUS_CHECKED status budget_make(budget *out, const model_config *config, const layout *split,
                                  const budget_options *options);
/* Slabs that one request of `context` tokens takes alone. */
uint64_t budget_request_slabs(const budget *b);
budget_share budget_share_of(const budget *b);
/* Makes the plans of all ranks one: rank 0's pages per slab, as many slabs as every rank can hold, the shortest context of
 * any, cut to these slabs. All ranks hand in the same shares and get the same answer, ST_NO_MEMORY too. */
STATUS_CHECKED status budget_agree(budget *b, const budget_share *shares, uint32_t ranks);
/* The sliding window of a config: 0 when no layer slides. */
uint32_t budget_window(const model_config *config);
/* MemAvailable of this host, or physical memory where the kernel does not say. */
uint64_t budget_free_memory(void);

#endif
