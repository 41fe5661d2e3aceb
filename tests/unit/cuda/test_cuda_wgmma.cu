/* Kernels of test_cuda_wgmma.c: a product as device_wgmma.cuh has it, whose operands are laid out here element by element, by
 * what stands there and not by what attention does. */
#include "shard/kernels/cuda/device_wgmma.cuh"
#include "tests/unit/cuda/test_cuda_wgmma.h"

enum { LEFT_BLOCK = 64 * 128, LEFT_BYTES = 2 * LEFT_BLOCK }; /* 64 rows of 64, and a warpgroup's */

/* Where an element of a line lies: the line's 128 bytes begin at a multiple of 128, eight lines at one of 1024. */
static __device__ __forceinline__ uint32_t in_line(uint32_t line, uint32_t element) {
    return ((element / 8) ^ (line % 8)) * 16 + element % 8 * 2;
}
static __device__ __forceinline__ uint32_t right_at(const wgmma_case &c, uint32_t k, uint32_t column) {
    if (c.along_n) return column / 64 * c.leading + k / 8 * c.stride + k % 8 * 128 + in_line(k, column % 64);
    return k / 64 * (c.columns / 8 * c.stride) + column / 8 * c.stride + column % 8 * 128 + in_line(column, k % 64);
}

/* The left operand by copies, the right one by stores. */
static __device__ __forceinline__ void load(const wgmma_case &c, unsigned char *shared, const uint16_t *a, const uint16_t *b) {
    for (uint32_t i = threadIdx.x; i < 128 * c.depth / 8; i += blockDim.x) {
        uint32_t row = i / (c.depth / 8), k = i % (c.depth / 8) * 8;
        uint32_t at = row / 64 * LEFT_BYTES + k / 64 * LEFT_BLOCK + row % 64 * 128 + in_line(row, k % 64);
        cp_async_16(shared + at, a + 8 * i, true);
    }
    cp_async_commit();
    for (uint32_t i = threadIdx.x; i < c.depth * c.columns; i += blockDim.x) {
        uint32_t k = c.along_n ? i / c.columns : i % c.depth, column = c.along_n ? i % c.columns : i / c.depth;
        *(uint16_t *)(shared + 2 * LEFT_BYTES + right_at(c, k, column)) = b[i];
    }
    cp_async_wait<0>();
}

template <uint32_t columns, bool along_n, int fault>
static __device__ __forceinline__ void multiply(const wgmma_case &c, unsigned char *shared, const uint16_t *a, float *d) {
    uint32_t group = threadIdx.x / WARPGROUP, row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4, pair = threadIdx.x % 4 * 2;
    float sum[columns / 2];
#pragma unroll
    for (uint32_t i = 0; i < columns / 2; i++) sum[i] = d[(row + i / 2 % 2 * 8) * columns + i / 4 * 8 + pair + i % 2];
    for (uint32_t k = 0; k < c.depth; k += 16) {
        uint32_t right = along_n ? k / 8 * c.stride : k / 64 * (columns / 8 * c.stride) + k % 64 * 2;
        uint64_t b = wgmma_matrix(shared + 2 * LEFT_BYTES, along_n ? c.leading : 16, c.stride);
        b = wgmma_further(b, right);
        wgmma_hold(sum);
        if constexpr (columns == 64) {
            if constexpr (fault != WGMMA_FAULT_FENCE) wgmma_fence();
            uint64_t left = wgmma_matrix(shared + group * LEFT_BYTES + k / 64 * LEFT_BLOCK + k % 64 * 2, 16, 1024);
            wgmma_n64<along_n>(sum, left, b);
        } else {
            uint32_t left[4];
#pragma unroll
            for (uint32_t i = 0; i < 4; i++) left[i] = *(const uint32_t *)(a + (row + i % 2 * 8) * c.depth + k + i / 2 * 8 + pair);
            wgmma_hold(left);
            wgmma_fence();
            wgmma_n256<along_n>(sum, left, b);
        }
        wgmma_commit();
        if constexpr (fault == WGMMA_FAULT_OVERWRITE) *(uint16_t *)(shared + 2 * LEFT_BYTES + threadIdx.x % 8 * 128) = 0x4000;
        if constexpr (fault == WGMMA_FAULT_WAIT) break;
        wgmma_wait<0>();
        wgmma_hold(sum);
    }
#pragma unroll
    for (uint32_t i = 0; i < columns / 2; i++) d[(row + i / 2 % 2 * 8) * columns + i / 4 * 8 + pair + i % 2] = sum[i];
    if constexpr (fault == WGMMA_FAULT_WAIT) wgmma_wait<0>();
}

template <uint32_t columns, bool along_n, int fault>
static __global__ void __launch_bounds__(256, 1) product_kernel(const wgmma_case c, const uint16_t *a, const uint16_t *b, float *d) {
    DYNAMIC_SHARED(memory);
    grid_wait();
    if (!WGMMA_HERE) return;
    unsigned char *shared = shared_align_1024(memory);
    load(c, shared, a, b);
    if constexpr (fault != WGMMA_FAULT_PROXY) fence_proxy_async();
    __syncthreads();
    if constexpr (fault == WGMMA_FAULT_STORE) {
        *(uint16_t *)(shared + 2 * LEFT_BYTES + threadIdx.x % 8 * 128) = 0x4000;
        __syncthreads();
    }
    multiply<columns, along_n, fault>(c, shared, a, d);
}

template <uint32_t columns, bool along_n, int fault = WGMMA_FAULT_NONE>
static void launch(cudaStream_t stream, const wgmma_case *c, const uint16_t *a, const uint16_t *b, float *d) {
    uint32_t right = along_n ? (columns / 64 - 1) * c->leading + c->depth / 8 * c->stride : 2 * columns / 8 * c->stride;
    LAUNCH((product_kernel<columns, along_n, fault>), 1, 256, 1024 + 2 * LEFT_BYTES + right, stream, *c, a, b, d);
}

extern "C" void wgmma_product(cudaStream_t stream, const wgmma_case *c, const uint16_t *a, const uint16_t *b, float *d) {
#ifdef GEMMAD_CUDA_SIM
    if (c->fault == WGMMA_FAULT_FENCE) launch<64, false, WGMMA_FAULT_FENCE>(stream, c, a, b, d);
    else if (c->fault == WGMMA_FAULT_PROXY) launch<64, false, WGMMA_FAULT_PROXY>(stream, c, a, b, d);
    else if (c->fault == WGMMA_FAULT_STORE) launch<64, false, WGMMA_FAULT_STORE>(stream, c, a, b, d);
    else if (c->fault == WGMMA_FAULT_OVERWRITE) launch<64, false, WGMMA_FAULT_OVERWRITE>(stream, c, a, b, d);
    else if (c->fault == WGMMA_FAULT_WAIT) launch<64, false, WGMMA_FAULT_WAIT>(stream, c, a, b, d);
    else
#endif
    if (c->columns == 64 && c->along_n) launch<64, true>(stream, c, a, b, d);
    else if (c->columns == 64) launch<64, false>(stream, c, a, b, d);
    else if (c->along_n) launch<256, true>(stream, c, a, b, d);
    else launch<256, false>(stream, c, a, b, d);
}
