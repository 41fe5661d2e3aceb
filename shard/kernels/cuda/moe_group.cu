/* Which pairs belong to which expert, and the sum over a row's experts. Sorting is the same whatever order blocks run in:
 * a block has an expert, and finds its pairs in their order. */
#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cuda/moe.h"

enum { COUNT_THREADS = 256, SORT_THREADS = 1024, COMBINE_THREADS = 256, COMBINE_PIECE = COMBINE_THREADS * 4 };

static __global__ void group_count_kernel(uint32_t *counts, expert_source s) {
    __shared__ uint32_t total;
    if (threadIdx.x == 0) total = 0;
    grid_release();
    grid_wait();
    __syncthreads();
    uint32_t mine = 0, id = s.own_begin + blockIdx.x;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < s.pairs; i += COUNT_THREADS) mine += s.ids[i] == id;
    if (mine) atomicAdd(&total, mine);
    __syncthreads();
    if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

/* Expert blockIdx.x: its place behind those before it, its pairs in order, its items. */
static __global__ void __launch_bounds__(SORT_THREADS)
    group_sort_kernel(const uint32_t *counts, expert_source s, uint32_t tokens, uint32_t *sorted, expert_item *items,
                      uint32_t *item_count) {
    __shared__ uint32_t pairs_before, items_before, warp_count[2][SORT_THREADS / WARP];
    if (threadIdx.x == 0) pairs_before = items_before = 0;
    grid_release();
    grid_wait();
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < blockIdx.x; e += SORT_THREADS) {
        atomicAdd(&pairs_before, counts[e]);
        atomicAdd(&items_before, (counts[e] + tokens - 1) / tokens);
    }
    __syncthreads();
    uint32_t begin = pairs_before, count = counts[blockIdx.x], item_total = (count + tokens - 1) / tokens;
    for (uint32_t i = threadIdx.x; i < item_total; i += SORT_THREADS) {
        uint32_t at = i * tokens;
        expert_item item = {blockIdx.x, begin + at, count - at < tokens ? count - at : tokens};
        items[items_before + i] = item;
    }
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) *item_count = items_before + item_total;
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, id = s.own_begin + blockIdx.x, buffer = 0;
    for (uint32_t base = 0; base < s.pairs; base += SORT_THREADS, buffer ^= 1) {
        uint32_t pair = base + threadIdx.x;
        bool mine = pair < s.pairs && s.ids[pair] == id;
        uint32_t votes = __ballot_sync(0xFFFFFFFFu, mine);
        if (lane == 0) warp_count[buffer][warp] = (uint32_t)__popc(votes);
        __syncthreads();
        /* Every warp makes the sums for itself; a warp one piece ahead writes the other buffer. */
        uint32_t hits = warp_count[buffer][lane], sum = hits;
        for (int d = 1; d < WARP; d *= 2) {
            uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, d);
            if (lane >= (uint32_t)d) sum += other;
        }
        uint32_t before = __shfl_sync(0xFFFFFFFFu, sum - hits, (int)warp);
        if (mine) sorted[begin + before + (uint32_t)__popc(votes & ((1u << lane) - 1))] = pair;
        begin += __shfl_sync(0xFFFFFFFFu, sum, WARP - 1);
    }
}

extern "C" void moe_group_launch(cudaStream_t stream, const expert_source *s, uint32_t tokens, uint32_t *counts,
                                 uint32_t *sorted, expert_item *items, uint32_t *item_count) {
    LAUNCH(group_count_kernel, dim3(s->own_count), dim3(COUNT_THREADS), 0, stream, counts, *s);
    LAUNCH(group_sort_kernel, dim3(s->own_count), dim3(SORT_THREADS), 0, stream, counts, *s, tokens, sorted, items,
           item_count);
}

/* A block has COMBINE_PIECE elements of a row. */
static __global__ void __launch_bounds__(COMBINE_THREADS, 4)
    combine_kernel(expert_source s, const float *weights, const float *y_pair, float *y,
                   uint32_t hidden, bool vector) {
    __shared__ uint32_t id[MOE_ACTIVE_MAX], pair_of[MOE_ACTIVE_MAX], own;
    __shared__ float weight_of[MOE_ACTIVE_MAX];
    grid_release();
    if (threadIdx.x == 0) own = 0;
    grid_wait();
    uint32_t pair = blockIdx.x * s.active + threadIdx.x, mine = MOE_NONE;
    if (threadIdx.x < s.active) id[threadIdx.x] = mine = s.ids[pair] - s.own_begin;
    __syncthreads();
    if (threadIdx.x < s.active && mine < s.own_count) {
        uint32_t place = 0;
        for (uint32_t k = 0; k < s.active; k++) place += id[k] < mine || (id[k] == mine && k < threadIdx.x);
        pair_of[place] = pair;
        weight_of[place] = weights[pair];
        atomicAdd(&own, 1u);
    }
    __syncthreads();
    float *to = y + (size_t)blockIdx.x * hidden;
    uint32_t count = own;
    uint32_t begin = blockIdx.y * COMBINE_PIECE;
    if (vector) {
        uint32_t i = begin + threadIdx.x * 4;
        if (i >= hidden) return;
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
        for (uint32_t k = 0; k < count; k++) {
            float4 v = *(const float4 *)(y_pair + (size_t)pair_of[k] * hidden + i);
            float w = weight_of[k];
            sum = make_float4(fmaf(w, v.x, sum.x), fmaf(w, v.y, sum.y), fmaf(w, v.z, sum.z), fmaf(w, v.w, sum.w));
        }
        *(float4 *)(to + i) = sum;
    } else {
        for (uint32_t i = begin + threadIdx.x; i < hidden && i < begin + COMBINE_PIECE; i += COMBINE_THREADS) {
            float sum = 0;
            for (uint32_t k = 0; k < count; k++) sum = fmaf(weight_of[k], y_pair[(size_t)pair_of[k] * hidden + i], sum);
            to[i] = sum;
        }
    }
}

extern "C" void moe_combine_launch(cudaStream_t stream, const expert_source *s, const float *weights, const float *y_pair,
                                   float *y, uint32_t n, uint32_t hidden) {
    bool vector = hidden % 4 == 0 && (((uintptr_t)y | (uintptr_t)y_pair) & 15) == 0;
    LAUNCH(combine_kernel, dim3(n, (hidden + COMBINE_PIECE - 1) / COMBINE_PIECE), dim3(COMBINE_THREADS), 0, stream,
           *s, weights, y_pair, y, hidden, vector);
}
