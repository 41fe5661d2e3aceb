#include "shard/comm/cuda/kernels.h"
#include "shard/comm/cuda/add.cuh"

enum { THREADS = 256 };

typedef struct sum_parts {
    const float *parts, *own;
    size_t stride;
    uint32_t own_rank;
} sum_parts;

static __device__ __forceinline__ const float *part_of(const sum_parts &p, uint32_t r) {
    return r == p.own_rank && p.own ? p.own : p.parts + r * p.stride;
}

/* No pointer here is __restrict__: out may be `own`, which each element's thread reads before it writes. */
static __global__ void sum_fours(float *out, sum_parts p, uint32_t ranks, size_t fours) {
    grid_wait();
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= fours) return;
    float4 total = add_in_order<float4>(ranks, [&](uint32_t r) { return ((const float4 *)part_of(p, r))[i]; });
    ((float4 *)out)[i] = total;
}
static __global__ void sum_ones(float *out, sum_parts p, uint32_t ranks, size_t begin, size_t count) {
    grid_wait();
    size_t i = begin + (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    out[i] = add_in_order<float>(ranks, [&](uint32_t r) { return part_of(p, r)[i]; });
}

static uint32_t blocks_for(size_t n) { return (uint32_t)((n + THREADS - 1) / THREADS); }

extern "C" void cuda_comm_sum(cudaStream_t stream, float *out, const float *parts, size_t stride, const float *own,
                              uint32_t own_rank, uint32_t ranks, size_t count) {
    sum_parts p = {parts, own, stride, own_rank};
    bool aligned = ((uintptr_t)out | (uintptr_t)parts | (uintptr_t)own | stride * sizeof *parts) % 16 == 0;
    size_t fours = aligned ? count / 4 : 0;
    LAUNCH(sum_fours, dim3(blocks_for(fours)), dim3(THREADS), 0, stream, out, p, ranks, fours);
    LAUNCH(sum_ones, dim3(blocks_for(count - 4 * fours)), dim3(THREADS), 0, stream, out, p, ranks, 4 * fours, count);
}
