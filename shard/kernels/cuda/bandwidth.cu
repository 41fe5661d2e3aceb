#include "shard/kernels/cuda/bandwidth.h"
#include "shard/kernels/cuda/device.cuh"

enum { READERS = 512 };

template <int unroll> __global__ void __launch_bounds__(READERS) read_all(const uint4 *memory, uint64_t count, uint32_t *sink) {
    grid_wait();
    uint32_t bits = 0;
    uint64_t stride = (uint64_t)gridDim.x * READERS * unroll;
    for (uint64_t at = ((uint64_t)blockIdx.x * unroll) * READERS + threadIdx.x; at < count; at += stride) {
        uint4 v[unroll];
#pragma unroll
        for (int i = 0; i < unroll; i++) {
            uint64_t place = at + (uint64_t)i * READERS;
            v[i] = place < count ? load_stream(memory + place) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < unroll; i++) bits ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
    }
    /* Never so by chance, and the compiler does not know. */
    if (bits == 0x9E3779B9u && count == 1) sink[0] = bits;
}

extern "C" void cuda_read_all(cudaStream_t stream, const void *memory, uint64_t bytes, uint32_t blocks, int unroll,
                              uint32_t *sink) {
    const uint4 *from = (const uint4 *)memory;
    uint64_t count = bytes / sizeof(uint4);
    if (unroll == 8) LAUNCH(read_all<8>, dim3(blocks), dim3(READERS), 0, stream, from, count, sink);
    else if (unroll == 4) LAUNCH(read_all<4>, dim3(blocks), dim3(READERS), 0, stream, from, count, sink);
    else LAUNCH(read_all<1>, dim3(blocks), dim3(READERS), 0, stream, from, count, sink);
}
