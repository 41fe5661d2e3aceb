/* What the kernels of scan do with one part of a row: thread t of warp w holds ids w · 256 + t % 32 + 32 · j of the part,
 * j < SCAN_HELD, so that every load is of 32 neighbours and a warp's ids are in order. */
#ifndef SHARD_KERNELS_CUDA_SCAN_PART_CUH
#define SHARD_KERNELS_CUDA_SCAN_PART_CUH

#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cuda/scan.h"

enum {
    SCAN_WARPS = SCAN_THREADS / WARP,
    SCAN_HELD = SCAN_PART / SCAN_THREADS,
    SCAN_WARP_IDS = WARP * SCAN_HELD
};
static const uint32_t SCAN_NONE = 0xFFFFFFFFu, SCAN_LANES = 0xFFFFFFFFu;
static const uint32_t SCAN_KEY_LOWEST = 0x007FFFFFu; /* of -inf; no float has key 0 */

/* Orders as the logits do: both zeros are one. */
static __device__ __forceinline__ uint32_t scan_key(float x) {
    uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* NaN counts as -inf, as in shard/sample/select.c. */
static __device__ __forceinline__ float scan_clean(float x) { return x == x ? x : -INFINITY; }

/* The j-th index of this thread in the share; it may lie behind its end. */
static __device__ __forceinline__ uint32_t scan_index(int j) {
    return blockIdx.x * SCAN_PART + threadIdx.x / WARP * SCAN_WARP_IDS + threadIdx.x % WARP + WARP * (uint32_t)j;
}

static __device__ __forceinline__ void scan_load(float x[SCAN_HELD], const float *row, uint32_t share) {
    for (int j = 0; j < SCAN_HELD; j++) {
        uint32_t at = scan_index(j);
        x[j] = at < share ? scan_clean(row[at]) : -INFINITY;
    }
}

/* exp((x - max) · factor); two equal infinities as the CPU's exp_sum has them. */
static __device__ __forceinline__ float scan_exp(float x, float max, float factor) {
    float d = (x - max) * factor;
    return ref_exp(d == d ? d : EXP_HIGHEST);
}

static __device__ __forceinline__ const float *scan_source(const scan_memory *m, const scan_item *it, uint32_t row,
                                                           uint32_t candidates) {
    return candidates ? m->adjusted + (size_t)row * m->share : m->logits + (size_t)it->row * m->share;
}

/* Sum of v over the threads before this one, and over all. scratch[SCAN_WARPS] may be used again after it. */
static __device__ __forceinline__ uint32_t scan_before(uint32_t v, uint32_t *scratch, uint32_t *total) {
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, sum = v, before = 0, all = 0;
    for (uint32_t d = 1; d < WARP; d *= 2) {
        uint32_t lower = __shfl_up_sync(SCAN_LANES, sum, d);
        if (lane >= d) sum += lower;
    }
    if (lane == WARP - 1) scratch[warp] = sum;
    __syncthreads();
    for (uint32_t w = 0; w < SCAN_WARPS; w++) {
        if (w < warp) before += scratch[w];
        all += scratch[w];
    }
    __syncthreads();
    *total = all;
    return before + sum - v;
}

#endif
