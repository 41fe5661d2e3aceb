/* The kernels of a GPU's exchanges, for the C files here.
 * Threads: any; launches are put on the stream. An error of the launch itself is found by cudaGetLastError. */
#ifndef SHARD_COMM_CUDA_KERNELS_H
#define SHARD_COMM_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* out[i] = part 0 [i] + part 1 [i] + …, added in that order. Part r is parts + r · stride, except part `own_rank`, which is
 * `own` where that is not NULL. out is `own`, or overlaps no part. Fast where all of them are 16-byte aligned. */
void cuda_comm_sum(cudaStream_t stream, float *out, const float *parts, size_t stride, const float *own, uint32_t own_rank,
                   uint32_t ranks, size_t count);

/* A lane takes PEER_LANE_FLOATS before another one is used, so it has room for at least that. */
enum { PEER_RANKS_MAX = 16, PEER_LANES = 32, PEER_LANE_FLOATS = 512 };

/* Windows of all ranks as one of them sees them (peer.cu); passed to kernels by value. */
typedef struct peer_view {
    float *window[PEER_RANKS_MAX];   /* [2, PEER_LANES, lane_floats] */
    uint32_t *flags[PEER_RANKS_MAX]; /* [PEER_LANES, PEER_RANKS_MAX]: the last round that a rank published in a lane */
    uint32_t *rounds;                /* [PEER_LANES] this rank's last round; nobody else sees it */
    const uint32_t *abort_word;      /* host memory */
    uint32_t rank, ranks, lane_floats;
} peer_view;

/* x[count], in place, count ≤ PEER_LANES · lane_floats: the sum over ranks, in rank order. */
void cuda_comm_peer_sum(cudaStream_t stream, const peer_view *view, float *x, size_t count);
/* Nothing but a round in every lane: once it is over, nobody reads this rank's window any more. */
void cuda_comm_peer_meet(cudaStream_t stream, const peer_view *view);

#ifdef __cplusplus
}
#endif
#endif
