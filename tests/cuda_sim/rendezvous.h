/* How kernels' code reaches the simulator: who a thread is, and where threads of a block wait for each other. */
#ifndef TESTS_CUDA_SIM_RENDEZVOUS_H
#define TESTS_CUDA_SIM_RENDEZVOUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a lane brings to a meeting of its warp, and what it takes from it. */
typedef struct sim_exchange {
    uint32_t word[12];
    const void *address;
} sim_exchange;

enum sim_meeting {
    SIM_SYNC,
    SIM_SHUFFLE,      /* word[0…1] value, word[2] lane or distance, word[3] width */
    SIM_SHUFFLE_XOR,
    SIM_SHUFFLE_UP,
    SIM_SHUFFLE_DOWN,
    SIM_BALLOT,       /* word[0] */
    SIM_MMA_BF16,     /* word[0…3] a, word[4…5] b, word[6…9] d */
    SIM_LDMATRIX,     /* address; word[0…3] */
    SIM_LDMATRIX_TRANS,
    SIM_MEETINGS
};

extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
extern __thread sim_exchange *sim_lane_exchange;

/* Returns when all lanes of the mask have come; then their exchanges hold the results. */
void sim_meet(enum sim_meeting kind, uint32_t mask);
/* threads 0: all of the block. */
void sim_barrier(int id, int threads);
/* Lets other threads, of the block and of the machine, go on. */
void sim_spin(void);
/* At every atomic operation: now and then somebody else goes on. */
void sim_atomic(void);
void sim_grid_wait(void);
void *sim_dynamic_shared(void);
void sim_copy_async(void *shared, const void *global, bool valid);
void sim_copy_commit(void);
void sim_copy_wait(int left);
/* Ends the process with a sentence that names kernel, block and thread. */
__attribute__((noreturn, format(printf, 1, 2))) void sim_die(const char *format, ...);

/* A kernel with its arguments. */
typedef struct sim_launch {
    const char *name;
    void (*call)(const void *arguments);   /* one thread's work */
    dim3 grid, block;
    size_t shared_bytes;
    size_t argument_bytes;
    bool together;                         /* LAUNCH_TOGETHER */
} sim_launch;
/* Checks the launch as CUDA does and enqueues it; arguments are copied. An error is kept for cudaGetLastError. */
void sim_launch_enqueue(const sim_launch *launch, const void *arguments, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
