/* Launchers of test_cuda_sim.cu. */
#ifndef TESTS_UNIT_CUDA_TEST_CUDA_SIM_H
#define TESTS_UNIT_CUDA_TEST_CUDA_SIM_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sim_fault {
    SIM_FAULT_NONE,
    SIM_FAULT_NO_WAIT,
    SIM_FAULT_DIVERGED_SHUFFLE,
    SIM_FAULT_MIXED,
    SIM_FAULT_BARRIER,
    SIM_FAULT_BARRIER_PLACES,
    SIM_FAULT_LDMATRIX,
    SIM_FAULT_COPY,
    SIM_FAULT_LOAD,
    SIM_FAULT_OVERRUN
};

void sim_lanes(cudaStream_t stream, const uint32_t *in, uint32_t *out, uint32_t blocks, uint32_t threads);
void sim_reverse(cudaStream_t stream, const float *in, float *out, uint32_t blocks, uint32_t threads, bool barrier);
void sim_sums(cudaStream_t stream, const float *in, float *out, uint32_t blocks, uint32_t threads);
void sim_product(cudaStream_t stream, const uint16_t *a, const uint16_t *b, float *d);
void sim_copies(cudaStream_t stream, const void *in, void *out, uint32_t threads);
void sim_bf16(cudaStream_t stream, const float *in, uint32_t *pack, const uint32_t *abc, uint32_t *fma, uint32_t n);
void sim_f16(cudaStream_t stream, float *out);
void sim_step(cudaStream_t stream, uint32_t *x, uint32_t times, uint32_t add);
void sim_halves(cudaStream_t stream, const float *in, float *out, uint32_t rounds);
void sim_count(cudaStream_t stream, uint32_t *counts, uint32_t buckets, uint32_t blocks, uint32_t threads);
void sim_flags(cudaStream_t stream, uint32_t *own, const uint32_t *other, uint32_t first, uint32_t until);
void sim_wrong(cudaStream_t stream, uint32_t *out, int fault);
void sim_too_much(cudaStream_t stream, uint32_t *x, uint32_t threads, uint32_t shared_bytes);

#ifdef __cplusplus
}
#endif
#endif
