/* A GPU on the CPU, for tests: runs the kernels of shard/kernels/cuda, compiled as C++, under the CUDA runtime's own API.
 * This header is for tests that want more than that API.
 *
 * Order:   what is enqueued runs as late as it may: when somebody waits for it, or after CUDA_SIM_LATE_MS (20). So a
 *          synchronisation that is missing shows as wrong data. CUDA_SIM_LAZY=0: at once.
 * Memory:  device memory faults when the host touches it (where the processor has protection keys: at any time; otherwise
 *          while nothing runs); fresh memory and shared memory hold NaN. CUDA_SIM_GUARD=0: no faults. Under AddressSanitizer
 *          it comes from malloc instead, so that kernels' overruns are found.
 * Threads: any. Each stream has a thread of its own that runs its kernels, one block after another.
 * Settings, of the environment: CUDA_SIM_SEED (0: the order in which threads and blocks run), CUDA_SIM_DEVICES (1),
 *          CUDA_SIM_MEMORY (bytes of a device, 4 GiB), CUDA_SIM_CAPABILITY (90), CUDA_SIM_MULTIPROCESSORS (6),
 *          CUDA_SIM_FAIL_AFTER (this many synchronising calls go well, then the device is lost), CUDA_SIM_FORK (0: a process
 *          that was forked by one that had used the device cannot use it, as with the real thing). */
#ifndef TESTS_CUDA_SIM_CUDA_SIM_H
#define TESTS_CUDA_SIM_CUDA_SIM_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The next synchronising call on the calling thread's device returns e, and so does everything after it there, until
 * cudaDeviceReset. */
void cuda_sim_fail_next(cudaError_t e);
/* NCCL on the calling thread's device lost a connection: all ranks of its communicators can ask for the error, and what waits
 * in streams waits on until it is aborted. */
void cuda_sim_nccl_break(void);
/* Device memory that is taken on the calling thread's device. */
size_t cuda_sim_bytes_taken(void);
/* Kernels that have run, in all. */
unsigned long long cuda_sim_launches(void);
/* The host may look at device memory, or may not (the default); of the calling thread. */
void cuda_sim_open_memory(int open);

#ifdef __cplusplus
}
#endif
#endif
