/* What a device gives when its memory is only read: the limit that decode is compared with.
 * Threads: engine thread; waits. */
#ifndef SHARD_KERNELS_CUDA_BANDWIDTH_H
#define SHARD_KERNELS_CUDA_BANDWIDTH_H

#include "shard/kernels/cuda/cuda_backend.h"

/* The best of several ways to read `bytes` at `memory`, a few passes each; kernel is its name. */
status cuda_read_bandwidth(backend *b, const void *memory, uint64_t bytes, double *gb_per_s, char kernel[24]);

#ifdef __cplusplus
extern "C" {
#endif
/* Launcher: every 16 bytes of memory once, `unroll` of them at a time in each thread (1, 4 or 8); their bits go to sink[1]
 * in a way that no compiler can leave out. */
void cuda_read_all(cudaStream_t stream, const void *memory, uint64_t bytes, uint32_t blocks, int unroll, uint32_t *sink);
#ifdef __cplusplus
}
#endif
#endif
