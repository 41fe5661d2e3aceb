/* Mixture of experts: what its host part and its kernels share.
 *
 * A pair is one (row, k) of ids[n, active]: row · active + k. Activations between an expert's two products and the
 * expert's outputs lie by pair, whatever order they were computed in.
 *
 * Three ways through the experts, with one answer up to rounding:
 *   few    n <= CUDA_STREAM_ROWS: every block finds the hit experts in ids by itself. Up to FUSED_PAIRS pairs, down adds
 *          up as well: two kernels in all
 *   listed pairs are sorted by expert, items of at most 16 pairs; the products of `few`, with its bits, or plain float ones
 *   many   items of MANY_TOKENS pairs, activations rounded to bf16, tiles of tensor cores
 * Else a kernel of its own adds up.
 *
 * Memory:  taken at open; MOE_PASS_ROWS rows at a time go through, which bounds it.
 * Threads: the engine thread. */
#ifndef SHARD_KERNELS_CUDA_MOE_H
#define SHARD_KERNELS_CUDA_MOE_H

#include "shard/kernels/cuda/cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    MOE_PASS_ROWS = 4096,
    LISTED_TOKENS = CUDA_STREAM_ROWS,
    MANY_TOKENS = 128,
    HIT_PAIRS_MAX = 256,    /* of a call that goes the way of few */
    HIT_EXPERTS_MAX = 1024, /* own ones, likewise */
    FUSED_PAIRS = 32, /* beyond, down's blocks would walk through too many experts one after the other */
    MOE_ACTIVE_MAX = 64,
};
#define MOE_NONE UINT32_MAX

/* One of an expert's matrices, of all own experts. */
typedef struct expert_matrix {
    const unsigned char *base;         /* of own expert 0; expert e is at base + e · stride … */
    uint64_t stride;
    const unsigned char *const *table; /* … or, where not NULL, at table[e]: device memory [own_count] */
    uint32_t rows, cols;
    weight_type type;
} expert_matrix;

/* Pairs of one expert: sorted[begin …]. */
typedef struct expert_item {
    uint32_t expert, begin, count; /* own expert */
} expert_item;

/* Which experts have which rows of this call. */
typedef struct expert_source {
    const uint32_t *ids;     /* [pairs] */
    uint32_t pairs, active;
    uint32_t own_begin, own_count;
    uint32_t items_max;      /* items that there can be, from n alone */
    const expert_item *items; /* [*item_count], with `listed` and `many` */
    const uint32_t *item_count, *sorted;
    bool one_row;            /* item i is pair i, in the order of ids[active]: of one row, and no list */
} expert_source;

/* Matrices that tensor cores take (fragments.cuh). */
static inline bool moe_fragments_fit(weight_type type, uint32_t cols) {
    return weight_in_strips(type) || (type == WEIGHT_BF16 && cols % 8 == 0);
}

/* ---- moe_route.cu ---- */
/* logits[n, experts] is scratch. */
void moe_route_launch(cudaStream_t stream, const moe_layer *m, const float *h, uint32_t n, const uint32_t *row_count,
                      float *logits, uint32_t *ids, float *weights);

/* ---- moe_group.cu ---- */
/* Sorts s's pairs by own expert, and inside by row; items of at most `tokens` pairs. counts[own_count] is scratch. */
void moe_group_launch(cudaStream_t stream, const expert_source *s, uint32_t tokens, uint32_t *counts, uint32_t *sorted,
                      expert_item *items, uint32_t *item_count);
/* y[n, hidden] = Σ weights[pair] · y_pair[pair, hidden] over a row's own experts, in id order; own_count 0: zeros. */
void moe_combine_launch(cudaStream_t stream, const expert_source *s, const float *weights, const float *y_pair, float *y,
                        uint32_t n, uint32_t hidden);

/* ---- moe_experts.cu ---- */
/* act[pair, act_stride] = gelu(G x) · U x; x[row, hidden]. s->items NULL: few. With one_row, `down` is on its way to the
 * second cache when this ends. */
void moe_gate_up_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *gate, const expert_matrix *up,
                        const expert_matrix *down, const float *x, float *act, uint32_t act_stride);
/* Few and fused: y[n, hidden]. */
void moe_down_few_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down, const float *act,
                         uint32_t act_stride, const float *weights, float *y, uint32_t n);
/* y_pair[pair, hidden]; s->items NULL: few. */
void moe_down_pairs_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down, const float *act,
                           uint32_t act_stride, float *y_pair);

/* ---- moe_plain.cu: any type and shape, listed ---- */
void moe_plain_gate_up_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *gate,
                              const expert_matrix *up, const float *x, float *act, uint32_t act_stride);
void moe_plain_down_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down, const float *act,
                           uint32_t act_stride, float *y_pair);

/* ---- moe_experts_many.cu ---- */
void moe_many_gate_up_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *gate,
                             const expert_matrix *up, const uint16_t *x, uint32_t x_stride, uint16_t *act,
                             uint32_t act_stride);
void moe_many_down_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down, const uint16_t *act,
                          uint32_t act_stride, float *y_pair);

/* Device memory that cuda_moe_open takes. */
uint64_t cuda_moe_bytes(const cuda_backend_options *o);

#ifdef __cplusplus
}
#endif
#endif
