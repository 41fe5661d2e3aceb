/* How fast the ranks read memory together, of hosts or of GPUs: the best of several ways of reading.
 *
 * Threads: engine thread; collective.
 * Errors:  ST_NO_MEMORY when nothing can be taken to read. */
#ifndef SHARD_BENCH_BANDWIDTH_H
#define SHARD_BENCH_BANDWIDTH_H

#include "shard/comm/comm.h"
#include "shard/kernels/cpu/pool.h"
#include "shard/model/gpu.h"

typedef struct bandwidth {
    double gb_per_s;      /* of all ranks, 1e9 bytes */
    uint64_t bytes;       /* read in one pass by all ranks */
    char kernel[24];      /* the best way */
    bool of_weights;      /* the weights' own memory was read */
} bandwidth;

enum { BANDWIDTH_GIB = 4, BANDWIDTH_GPU_GIB = 8 };

/* Each rank reads [bytes] of weights where all ranks' together are `least` or more; else memory taken for it, that
 * much together, or half of what is free. least 0: BANDWIDTH_GIB. weights may be NULL. only: the name of the one way to
 * try, NULL for all. */
STATUS_CHECKED status bandwidth_measure(bandwidth *out, comm *ranks, pool *threads, const void *weights,
                                        uint64_t bytes, uint64_t least, const char *only);
/* Of GPUs: each rank reads [bytes] of weights there where those are `least` or more; else memory taken for it, that much, or
 * what part of it is to be had. least 0: BANDWIDTH_GPU_GIB. b: the back end itself, not what is around it. */
STATUS_CHECKED status bandwidth_measure_gpu(bandwidth *out, comm *ranks, const gpu_provider *gpu, backend *b,
                                            const void *weights, uint64_t bytes, uint64_t least);

#endif
