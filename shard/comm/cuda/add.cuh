/* Adding in rank order, for the kernels here. */
#ifndef SHARD_COMM_CUDA_ADD_CUH
#define SHARD_COMM_CUDA_ADD_CUH

#include "shard/kernels/cuda/device.cuh"

static __device__ __forceinline__ float add_two(float a, float b) { return a + b; }
static __device__ __forceinline__ float4 add_two(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* load(0) + load(1) + … + load(ranks - 1), added in that order. Loads of eight are under way together: they come from other
 * GPUs, and one behind the other would take as many times as long. */
template <typename T, typename Load> static __device__ __forceinline__ T add_in_order(uint32_t ranks, Load load) {
    enum { TOGETHER = 8 };
    T total = load(0);
    for (uint32_t first = 1; first < ranks; first += TOGETHER) {
        T part[TOGETHER];
        for (uint32_t k = 0; k < TOGETHER; k++)
            if (first + k < ranks) part[k] = load(first + k);
        for (uint32_t k = 0; k < TOGETHER; k++)
            if (first + k < ranks) total = add_two(total, part[k]);
    }
    return total;
}
#endif
