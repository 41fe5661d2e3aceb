/* The GPU as the engine sees it (shard/model/gpu.h), over CUDA. */
#ifndef SHARD_GPU_CUDA_PROVIDER_H
#define SHARD_GPU_CUDA_PROVIDER_H

#include "shard/model/gpu.h"

const gpu_provider *gpu_cuda(void);
/* "CUDA 13.0", or "CUDA 13.0 without NCCL": what it was built with. Asks no driver. Main thread. */
const char *gpu_cuda_built(void);

#endif
