/* Paged attention: what the host (attention.c) and the kernels (attention_*.cu) share.
 *
 * A row's context is cut at absolute pages into splits, whose number and ends follow from the row's position and the window
 * alone. An item is one split of one row; for each item and each KV head, a unit of up to ATTENTION_GROUP of its query heads
 * is a block's work, and leaves (m, l, o). Whoever ends last merges ATTENTION_MERGE neighbours, and the last of those merges
 * all of them, always in order: a row's bits depend on nothing but what it sees.
 *
 * Lists are made once for all layers of a page table, by cuda_attention_plan: rows are listed in an order of their own, those
 * that only decode first, then those of prefill spans, for layers that the kernels of tiles do not take.
 *
 * Memory:  pointers are device memory; a call is passed to kernels by value and holds nothing that differs between two steps
 *          that are replayed for each other.
 * Threads: the engine thread. */
#ifndef SHARD_KERNELS_CUDA_ATTENTION_H
#define SHARD_KERNELS_CUDA_ATTENTION_H

#include "shard/kernels/cuda/cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    ATTENTION_PAGE = 64,         /* positions of a page */
    ATTENTION_DIM_MAX = 768,     /* of a head: what the float kernel has shared memory for */
    ATTENTION_GROUP = 8,         /* query heads of a unit: with their low halves, the 16 rows of a tensor-core product */
    ATTENTION_MERGE = 8,         /* partial sums merged at once; at most 32 runs of them */
    ATTENTION_TILE = 64,         /* queries (rows · heads) of a prefill tile */
    ATTENTION_TILE_HEADS = 16,   /* of a prefill tile, at most */
    ATTENTION_PREFILL_ROWS = 16  /* spans of so many rows are prefill */
};

typedef struct attention_item {
    uint32_t row, position, slot;
    uint32_t page, pages;        /* index of the first one in the sequence, and how many */
    uint32_t split, splits;      /* of the row */
    uint32_t first;              /* item of the row's split 0 */
} attention_item;

typedef struct attention_span {
    uint32_t row, count, position, slot;
} attention_span;

/* One table's lists as they lie on the device. */
typedef struct attention_lists {
    const uint32_t *decode_rows; /* [1] listed rows that only decode; they come first */
    const uint32_t *rows;        /* [1] all listed rows */
    const uint32_t *row_items;   /* [rows_max + 1] listed row i has items row_items[i] … row_items[i + 1] - 1 */
    const attention_item *items;
    const attention_span *spans; /* of prefill */
} attention_lists;

typedef struct attention_call {
    /* the layer's cache, see kv_view */
    unsigned char *base;
    uint64_t slab_bytes, page_bytes, layer_offset, head_bytes, rows_bytes;
    uint32_t pages_per_slab, kv_heads, head_dim;
    kv_type type;
    bool half_size;
    /* the layer */
    uint32_t heads, first_head, heads_per_kv, first_kv, window, pairs;
    uint32_t group, groups;      /* query heads of a unit, and units of a KV head */
    float eps;
    const float *q_norm, *k_norm; /* [head_dim] */
    const float *cosine, *sine;   /* [rows_max, pairs] */
    const float *offset_cosine, *offset_sine, *page_cosine, *page_sine; /* [64, pairs], [context / 64 + 1, pairs] */
    /* the step */
    cuda_rows rows;
    const uint32_t *pages;       /* the layer's table, [slots, pages_per_slot] */
    uint32_t rows_max;
    float *q, *k, *v;            /* prepare: in place */
    float *y;                    /* [n, heads · head_dim] */
    attention_lists lists;
    uint32_t first_row, row_count; /* listed rows of this launch */
    bool decode_only;            /* of those, only the ones that decode */
    bool fill;                   /* zeros behind the rows that are there */
    uint32_t tile_rows;          /* prefill */
    float *partials;             /* [items of the launch, kv_heads · groups, partial_floats]: o, then m, then l */
    uint32_t *counters;          /* [items of the launch, kv_heads · groups], zeros between launches */
    uint32_t partial_floats;
} attention_call;

/* What a device is to the launchers. */
typedef struct attention_device {
    cudaStream_t stream;
    uint32_t multiprocessors;
    size_t shared_bytes_max;
} attention_device;

/* rows: of the step, which sizes the grid; more are done all the same. */
void attention_prepare_launch(const attention_device *d, const attention_call *c, uint32_t rows);
/* Any width, type and number of rows; for the reference setting and small heads. */
void attention_float_launch(const attention_device *d, const attention_call *c);
/* Tensor cores. False, and nothing is launched, for what they do not take. */
bool attention_decode_launch(const attention_device *d, const attention_call *c);
bool attention_prefill_launch(const attention_device *d, const attention_call *c, uint32_t tiles);
/* The same of prefill on Hopper's products of warpgroups. */
bool attention_wgmma_launch(const attention_device *d, const attention_call *c, uint32_t tiles);
/* Whether the two do; the third: queries of its tile, 0 if it does not. */
bool attention_decode_takes(const attention_device *d, const attention_call *c);
bool attention_prefill_takes(const attention_device *d, const attention_call *c);
uint32_t attention_wgmma_takes(const attention_device *d, const attention_call *c);

/* Device memory that cuda_attention_open takes. */
uint64_t cuda_attention_bytes(const cuda_backend_options *o);

#ifdef __cplusplus
}
#endif
#endif
