/* Where an expert's matrix lies, for kernels. */
#ifndef SHARD_KERNELS_CUDA_MOE_PLACES_CUH
#define SHARD_KERNELS_CUDA_MOE_PLACES_CUH

#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cuda/moe.h"

static __device__ __forceinline__ const unsigned char *expert_data(const expert_matrix &m, uint32_t expert) {
    return m.table ? m.table[expert] : m.base + expert * m.stride;
}
#endif
