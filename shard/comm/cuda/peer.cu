/* Short sums over the memory of the other GPUs of a host, in one kernel.
 *
 * Lanes:   block b of a rank meets block b of every other rank and no other block: each has a part of the vector, a part of
 *          the windows and flags of its own. Blocks of one launch never wait for each other, and all PEER_LANES of them fit
 *          on a GPU at once, so each comes to its meeting.
 * Rounds:  in its round k a lane writes half k & 1 of its own window, publishes k to the same lane of every rank, waits until
 *          all have published k there, and reads half k & 1 of all windows. Publishing k says: "my half k & 1 is written, and
 *          I have finished reading every round before k", since the kernel of round k begins after that of round k - 1 has
 *          ended. A half is free again for round k once everybody published k - 1: whoever did has read round k - 2, the last
 *          that used this half. And that is known without waiting, because this lane waited for it in round k - 1.
 *          Numbers live in device memory and are counted there, so that a recorded launch is as good as a new one. Lanes
 *          that a short vector leaves out stand still on every rank alike. Compared in serial arithmetic, as in window.h.
 * Memory:  the flag is stored with release and loaded with acquire, at system scope; the block's barriers before and behind
 *          carry that to and from its other threads (PTX, memory consistency: causality order). Windows are read with plain
 *          loads, through pointers that are not __restrict__: the read-only path could give what the half held before.
 * Abort:   whoever waits looks now and then at a word of host memory. Not 0: all threads of the block leave, and x keeps
 *          partial sums; the host knows, since it wrote the word. */
#include "shard/comm/cuda/kernels.h"
#include "shard/comm/cuda/add.cuh"

enum { NARROW = PEER_LANE_FLOATS / 4, WIDE = 512, LOOKS_BETWEEN_ABORTS = 64 };

static __device__ __forceinline__ bool reached(uint32_t value, uint32_t round) { return value - round < 0x80000000u; }

/* Publishes the round, and waits until all have. False: given up. */
static __device__ __forceinline__ bool lane_meet(const peer_view &v, uint32_t round) {
    __shared__ uint32_t given_up;
    uint32_t lane = blockIdx.x, peer = threadIdx.x;
    if (peer == 0) given_up = 0;
    __syncthreads();
    if (peer < v.ranks) {
        store_release_system(&v.flags[peer][lane * PEER_RANKS_MAX + v.rank], round);
        const uint32_t *theirs = &v.flags[v.rank][lane * PEER_RANKS_MAX + peer];
        for (uint32_t looks = 1; !reached(load_acquire_system(theirs), round); looks++)
            /* Rarely: it is a load across the bus. */
            if (looks % LOOKS_BETWEEN_ABORTS == 0 && load_acquire_system(v.abort_word) != 0) {
                given_up = 1;
                break;
            }
    }
    __syncthreads();
    return given_up == 0;
}

/* share: elements of a lane, a multiple of 4. */
static __global__ void peer_sum(peer_view v, float *x, size_t count, uint32_t share, uint32_t fours_allowed) {
    grid_wait();
    /* All blocks of this launch are on the GPU when the next kernel may come: it takes no place that a lane needs. */
    grid_release();
    uint32_t lane = blockIdx.x, round = v.rounds[lane] + 1;
    size_t begin = (size_t)lane * share, at = ((size_t)(round & 1) * PEER_LANES + lane) * v.lane_floats;
    uint32_t n = (uint32_t)(count - begin < share ? count - begin : share), fours = fours_allowed ? n / 4 : 0;
    x += begin;
    float *mine = v.window[v.rank] + at;
    for (uint32_t i = threadIdx.x; i < fours; i += blockDim.x) ((float4 *)mine)[i] = ((const float4 *)x)[i];
    for (uint32_t i = 4 * fours + threadIdx.x; i < n; i += blockDim.x) mine[i] = x[i];
    if (!lane_meet(v, round)) return;
    for (uint32_t i = threadIdx.x; i < fours; i += blockDim.x)
        ((float4 *)x)[i] = add_in_order<float4>(v.ranks, [&](uint32_t r) { return ((const float4 *)(v.window[r] + at))[i]; });
    for (uint32_t i = 4 * fours + threadIdx.x; i < n; i += blockDim.x)
        x[i] = add_in_order<float>(v.ranks, [&](uint32_t r) { return v.window[r][at + i]; });
    if (threadIdx.x == 0) v.rounds[lane] = round;
}

extern "C" void cuda_comm_peer_sum(cudaStream_t stream, const peer_view *view, float *x, size_t count) {
    if (count == 0) return;
    /* A float4 a thread while that is enough: more lanes are more loads under way. */
    size_t lanes = (count + PEER_LANE_FLOATS - 1) / PEER_LANE_FLOATS;
    if (lanes > PEER_LANES) lanes = PEER_LANES;
    uint32_t share = (uint32_t)(((count + lanes - 1) / lanes + 3) / 4 * 4);
    lanes = (count + share - 1) / share;
    LAUNCH_TOGETHER(peer_sum, dim3((uint32_t)lanes), dim3(share > PEER_LANE_FLOATS ? WIDE : NARROW), 0, stream, *view, x, count, share,
           (uintptr_t)x % 16 == 0);
}

extern "C" void cuda_comm_peer_meet(cudaStream_t stream, const peer_view *view) {
    LAUNCH_TOGETHER(peer_sum, dim3(PEER_LANES), dim3(NARROW), 0, stream, *view, nullptr, 0, 0, 0);
}
