/* Recorded steps: CUDA graphs by key (ops.h, replay).
 * Memory:  a graph for each key, until close.
 * Threads: engine thread; only its own calls are recorded.
 * Errors:  a recording that fails is thrown away and leaves c->failed set: half of a step has not run. */
#ifndef SHARD_KERNELS_CUDA_GRAPHS_H
#define SHARD_KERNELS_CUDA_GRAPHS_H

#include "shard/kernels/cuda/cuda_backend.h"

status cuda_graphs_open(cuda_backend *c);
void cuda_graphs_close(cuda_backend *c);
bool cuda_replay(backend *b, uint64_t key);
status cuda_record_begin(backend *b, uint64_t key);
status cuda_record_end(backend *b, bool whole);
void cuda_forget(backend *b);

#endif
