/* Exchanges of what lies in the memory of GPUs: the calls of comm.h on device pointers, in stream order. A rank with a GPU
 * has two comms: the host's (plans, records of the sampler, agreements) and this one, opened over it.
 *
 * Ways:    nccl    all calls are put on the stream.
 *          peer    short sums in one kernel that reads the other GPUs' memory, where all ranks are on one host and that
 *                  was measured to be faster; the rest by NCCL. NCCL_P2P_DISABLE=1 turns it off.
 *          staged  through pinned host memory and the host's comm: several ranks on one GPU, hosts where NCCL does not work,
 *                  builds without it. Each call waits for the stream and cannot be recorded.
 *          A comm of one rank has nothing to exchange.
 * Sums:    in rank order, as everywhere (comm.h). ncclAllReduce is not used: which order it adds in depends on the
 *          algorithm that NCCL picks for size and topology.
 * Memory:  scratch and windows on the device are taken at open. `ranks` and the stream stay the caller's, and outlive this.
 * Threads: the engine thread, except comm_abort: any. A thread of this comm's own looks every 50 ms whether a rank is gone.
 * Errors:  ST_PEER, with NCCL's own text where there is one, once a rank aborted, left or lost its connection; kernels that
 *          wait for it end first, so that waiting for the stream ends too. What a failed exchange left in buffers is no
 *          result: the host's comm is aborted before kernels are let go, so the next exchange over it says ST_PEER.
 *          comm_close: recorded graphs with calls of this comm are destroyed before it. */
#ifndef SHARD_COMM_CUDA_CUDA_COMM_H
#define SHARD_COMM_CUDA_CUDA_COMM_H

#include "shard/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cuda_comm_options {
    comm *ranks;              /* the host's */
    void *stream;             /* cudaStream_t */
    int device;               /* as CUDA_VISIBLE_DEVICES numbers them; the calling thread's current device afterwards */
    size_t small_floats_max;  /* sums up to this are gathered and added by everyone, longer ones shared out; 0: 16384 */
    size_t large_bytes_max;   /* device scratch; longer sums go in pieces. staged: pinned memory. 0: 32 MiB */
    bool staged, no_peer;
    bool test_shared_device;  /* tests: NCCL and peer memory also for ranks that share a device, and for a lone rank */
    bool test_handles;        /* tests: peer memory by handles of CUDA's even inside one process */
    bool test_without_nccl;   /* tests: as a build without NCCL */
} cuda_comm_options;

/* Collective over o->ranks, with the same sizes and ways everywhere: every rank gets a comm or none does. ST_LAYOUT: two
 * ranks on one device; ST_MISMATCH: ranks whose NCCL, CUDA or NCCL_* settings differ. */
STATUS_CHECKED status cuda_comm_open(comm **out, const cuda_comm_options *o);
/* "nccl", "nccl, short sums through peer memory", … for logs and reports. */
const char *cuda_comm_way(const comm *c);

#ifdef __cplusplus
}
#endif
#endif
