/* What the kernels of attention share: where a page lies, which query heads read a KV head, and the merging
 * of partial sums. */
#ifndef SHARD_KERNELS_CUDA_ATTENTION_PAGE_CUH
#define SHARD_KERNELS_CUDA_ATTENTION_PAGE_CUH

#include "shard/kernels/cuda/attention.h"
#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cpu/ref_math.h"

/* As kv_head_page of ops.h. */
static __device__ __forceinline__ unsigned char *attention_page(const attention_call &c, uint32_t page,
                                                                uint32_t kv_head) {
    return c.base + (uint64_t)(page / c.pages_per_slab) * c.slab_bytes +
           (uint64_t)(page % c.pages_per_slab) * c.page_bytes + c.layer_offset + kv_head * c.head_bytes;
}
static __device__ __forceinline__ uint32_t attention_page_id(const attention_call &c, uint32_t slot, uint32_t page) {
    return c.pages[(size_t)slot * c.rows.pages_per_slot + page];
}

/* Local query heads begin … begin + count - 1 of group `unit % groups` of local KV head `unit / groups`. */
typedef struct attention_heads {
    uint32_t kv_head, begin, count;
} attention_heads;
static __device__ __forceinline__ attention_heads attention_unit_heads(const attention_call &c, uint32_t unit) {
    attention_heads u;
    u.kv_head = unit / c.groups;
    uint32_t from = (c.first_kv + u.kv_head) * c.heads_per_kv, to = from + c.heads_per_kv;
    if (from < c.first_head) from = c.first_head;
    if (to > c.first_head + c.heads) to = c.first_head + c.heads;
    u.begin = from + unit % c.groups * c.group;
    u.count = u.begin < to ? to - u.begin : 0;
    if (u.count > c.group) u.count = c.group;
    u.begin -= c.first_head; /* meaningless without heads */
    return u;
}

/* Keys that a row sees: first … position. */
static __device__ __forceinline__ uint32_t attention_first_key(const attention_call &c, uint32_t position) {
    return c.window && position + 1 > c.window ? position + 1 - c.window : 0;
}

/* The launch's items. */
static __device__ __forceinline__ void attention_launch_items(const attention_call &c, uint32_t *begin,
                                                              uint32_t *end) {
    uint32_t rows = c.decode_only ? *c.lists.decode_rows : *c.lists.rows, from = c.first_row, to = from + c.row_count;
    if (from > rows) from = rows;
    if (to > rows) to = rows;
    *begin = c.lists.row_items[from];
    *end = c.lists.row_items[to];
}

/* Rows that a recorded step is filled up with: zeros, by all blocks of the launch. */
static __device__ __forceinline__ void attention_fill(const attention_call &c) {
    if (!c.fill) return;
    uint32_t count = *c.rows.count, end = count < 64 ? count + count / 2 + 1 : count;
    if (end > c.rows_max) end = c.rows_max;
    size_t dim = (size_t)c.heads * c.head_dim;
    for (size_t i = count * dim + (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < end * dim;
         i += (size_t)gridDim.x * blockDim.x)
        c.y[i] = 0.0f;
}

/* ---- partial sums: [group, head_dim] of o, [group] of m, [group] of l ---- */

static __device__ __forceinline__ float *attention_partial(const attention_call &c, uint32_t slot) {
    return c.partials + (size_t)slot * c.partial_floats;
}

typedef struct attention_merge {
    float share[ATTENTION_GROUP][WARP]; /* of each part */
    float m[ATTENTION_GROUP], l[ATTENTION_GROUP];
    uint32_t last;
} attention_merge;

/* out[heads, dim] of four, or single, dimensions at a time: Σ share · o, times scale of the head. */
static __device__ __forceinline__ void attention_merge_rows(const attention_call &c, const attention_merge *s,
                                                            uint32_t slot, uint32_t apart, uint32_t parts,
                                                            uint32_t heads, float *out, bool finish) {
    uint32_t dim = c.head_dim;
    size_t step = (size_t)apart * c.partial_floats;
    const float *first = attention_partial(c, slot);
    if (dim % 4) {
        for (uint32_t i = threadIdx.x; i < heads * dim; i += blockDim.x) {
            float sum = 0.0f;
            for (uint32_t p = 0; p < parts; p++) sum = fmaf(s->share[i / dim][p], first[p * step + i], sum);
            out[i] = finish ? sum * (1.0f / s->l[i / dim]) : sum;
        }
        return;
    }
    for (uint32_t i = 4 * threadIdx.x; i < heads * dim; i += 4 * blockDim.x) {
        const float *share = s->share[i / dim];
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (uint32_t begin = 0; begin < parts; begin += ATTENTION_MERGE) {
            float4 o[ATTENTION_MERGE];
#pragma unroll
            for (uint32_t p = 0; p < ATTENTION_MERGE; p++)
                if (begin + p < parts) o[p] = *(const float4 *)(first + (begin + p) * step + i);
#pragma unroll
            for (uint32_t p = 0; p < ATTENTION_MERGE; p++) {
                if (begin + p >= parts) continue;
                float w = share[begin + p];
                sum.x = fmaf(w, o[p].x, sum.x);
                sum.y = fmaf(w, o[p].y, sum.y);
                sum.z = fmaf(w, o[p].z, sum.z);
                sum.w = fmaf(w, o[p].w, sum.w);
            }
        }
        if (finish) {
            float scale = 1.0f / s->l[i / dim];
            sum.x *= scale, sum.y *= scale, sum.z *= scale, sum.w *= scale;
        }
        *(float4 *)(out + i) = sum;
    }
}

/* Parts in slots slot, slot + apart, … become one in `slot`, or, with y, the answer. A warp a head, a lane a
 * part. */
static __device__ __forceinline__ void attention_merge_parts(const attention_call &c, attention_merge *s,
                                                             uint32_t slot, uint32_t apart, uint32_t parts,
                                                             uint32_t heads, float *y) {
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (warp < heads) {
        const float *stats =
            attention_partial(c, slot + (lane < parts ? lane : 0) * apart) + (size_t)c.group * c.head_dim;
        float m = lane < parts ? stats[warp] : -INFINITY, l = lane < parts ? stats[c.group + warp] : 0.0f;
        float largest = warp_max(m), factor = ref_softmax_exp(m - largest);
        float sum = warp_sum(l * factor);
        s->share[warp][lane] = factor;
        if (lane == 0) s->m[warp] = largest, s->l[warp] = sum;
    }
    __syncthreads();
    float *out = attention_partial(c, slot);
    attention_merge_rows(c, s, slot, apart, parts, heads, y ? y : out, y != NULL);
    if (!y && threadIdx.x < heads) {
        out[(size_t)c.group * c.head_dim + threadIdx.x] = s->m[threadIdx.x];
        out[(size_t)c.group * c.head_dim + c.group + threadIdx.x] = s->l[threadIdx.x];
    }
}

/* True in all threads of the block that is the last of `expected` to come here. What the others wrote can be
 * read then, and the counter is 0 again. */
static __device__ __forceinline__ bool attention_arrive(attention_merge *s, uint32_t *counter, uint32_t expected) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        s->last = atomicAdd(counter, 1u) == expected - 1;
        if (s->last) atomicExch(counter, 0u);
    }
    __syncthreads();
    __threadfence();
    return s->last != 0;
}

/* After the block has written the partial sums of an item of more than one split. begin: the launch's first
 * item. By all threads of a block of at least ATTENTION_GROUP warps; s is free again after the block's next
 * barrier. */
static __device__ __forceinline__ void attention_merge_item(const attention_call &c, attention_merge *s,
                                                            const attention_item &item, uint32_t begin, uint32_t unit,
                                                            const attention_heads &u) {
    uint32_t units = c.kv_heads * c.groups, run = item.split / ATTENTION_MERGE,
             runs = (item.splits - 1) / ATTENTION_MERGE + 1;
    uint32_t first = (item.first - begin) * units + unit, slot = first + run * ATTENTION_MERGE * units;
    uint32_t parts = item.splits - run * ATTENTION_MERGE;
    if (parts > ATTENTION_MERGE) parts = ATTENTION_MERGE;
    float *y = c.y + ((size_t)item.row * c.heads + u.begin) * c.head_dim;
    if (!attention_arrive(s, &c.counters[slot], parts)) return;
    attention_merge_parts(c, s, slot, units, parts, u.count, runs == 1 ? y : NULL);
    if (runs == 1) return;
    if (!attention_arrive(s, &c.counters[first + units], runs)) return;
    attention_merge_parts(c, s, first, ATTENTION_MERGE * units, runs, u.count, y);
}

#endif
