/* The dialect of shard/kernels/cuda/device_wgmma.cuh on the CPU: the same names and contracts, which stand there. */
#ifndef TESTS_CUDA_SIM_WGMMA_SIM_H
#define TESTS_CUDA_SIM_WGMMA_SIM_H

#include "wgmma.h"

enum { WGMMA_HERE = 1 };

static inline void fence_proxy_async(void) { sim_wgmma_fence_proxy(); }
static inline void wgmma_fence(void) { sim_wgmma_fence(); }
static inline void wgmma_commit(void) { sim_wgmma_commit(); }
template <int left> static inline void wgmma_wait(void) { sim_wgmma_wait(left); }
template <int count> static inline void wgmma_hold(float (&d)[count]) { sim_wgmma_hold(d, count); }
template <int count> static inline void wgmma_hold(uint32_t (&a)[count]) { sim_wgmma_hold(a, count); }

static inline unsigned char *shared_align_1024(unsigned char *shared) {
    return shared + ((0u - sim_shared_address(shared)) & 1023u);
}
static inline uint64_t wgmma_matrix(const void *shared, uint32_t leading, uint32_t stride) {
    if (leading % 16 != 0 || stride % 16 != 0 || leading >> 18 || stride >> 18)
        sim_die("wgmma_matrix: %u or %u bytes apart", leading, stride);
    return (uint64_t)((sim_shared_address(shared) & 0x3FFFFu) >> 4) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}
template <bool ALONG_N> static inline void wgmma_n64(float (&d)[32], uint64_t a, uint64_t b) {
    sim_wgmma_call call = {64, ALONG_N, false, a, b};
    sim_wgmma(&call, d, nullptr);
}
template <bool ALONG_N> static inline void wgmma_n256(float (&d)[128], const uint32_t (&a)[4], uint64_t b) {
    sim_wgmma_call call = {256, ALONG_N, true, 0, b};
    sim_wgmma(&call, d, a);
}
#endif
