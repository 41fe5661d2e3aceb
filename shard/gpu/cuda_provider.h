/* The GPU as the engine sees it (shard/model/gpu.h), over CUDA. */
#ifndef SHARD_GPU_CUDA_PROVIDER_H
#define SHARD_GPU_CUDA_PROVIDER_H

#include "shard/model/gpu.h"

const gpu_provider *gpu_cuda(void);

#endif
