/* Launchers of test_cuda_wgmma.cu. */
#ifndef TESTS_UNIT_CUDA_TEST_CUDA_WGMMA_H
#define TESTS_UNIT_CUDA_TEST_CUDA_WGMMA_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a kernel does wrong: the last one leaves NaN, the others end the simulator's process. */
enum wgmma_fault {
    WGMMA_FAULT_NONE,
    WGMMA_FAULT_FENCE,
    WGMMA_FAULT_PROXY,         /* copies without fence_proxy_async */
    WGMMA_FAULT_STORE,         /* a store after it */
    WGMMA_FAULT_OVERWRITE,     /* while products are under way */
    WGMMA_FAULT_WAIT
};

/* d[128, columns] += a[128, depth] · b, by two warpgroups; columns 64 or, with a in registers, 256; depth a multiple of 16 up to
 * 128. b: along K [columns, depth], along N [depth, columns]. Bytes between eight lines, and between 64 columns along N. */
typedef struct wgmma_case {
    uint32_t columns, depth;
    bool along_n;
    uint32_t stride, leading;
    enum wgmma_fault fault;
} wgmma_case;

void wgmma_product(cudaStream_t stream, const wgmma_case *c, const uint16_t *a, const uint16_t *b, float *d);

#ifdef __cplusplus
}
#endif
#endif
