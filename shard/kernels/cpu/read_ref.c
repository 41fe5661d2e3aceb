#define READ_VECTOR 16 /* every 64-bit machine has vectors of so many bytes, or the compiler splits them */
#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/read_lanes.h"

const read_kernel read_kernels_ref[3] = {{"plain forward", read_forward},
                                         {"plain 4 streams", read_four_streams},
                                         {"plain prefetching", read_prefetching}};

static void add(read_kernel *out, uint32_t *n, const read_kernel *three) {
    for (int i = 0; i < 3; i++) out[(*n)++] = three[i];
}

uint32_t read_kernels(read_kernel out[READ_KERNELS_MAX]) {
    uint32_t n = 0;
    add(out, &n, read_kernels_ref);
#if defined(__x86_64__) && !defined(GEMMAD_SCALAR_ONLY)
    if (cpu_kernels_avx2()) add(out, &n, read_kernels_avx2);
    if (cpu_kernels_avx512()) add(out, &n, read_kernels_avx512);
#endif
    return n;
}
