/* Hopper's products of a warpgroup (wgmma), beside device.cuh: 128 threads, warps 4w … 4w + 3 of a block, multiply matrices
 * in shared memory while they go on. Only sm_90a has them: a kernel that uses them has its code in `if (WGMMA_HERE)`.
 *
 * Order (PTX ISA 9.0, sections wgmma.fence, wgmma.commit_group, wgmma.wait_group, wgmma.mma_async, proxies):
 * - Products, fences, commits and waits are called by all threads of a warpgroup alike.
 * - wgmma_hold of every register array of the product, then wgmma_fence, stand between what wrote those registers (the sums,
 *   and a left operand in registers) and the first product; products of one shape into the same sums need none in between.
 * - Sums are undefined, and neither they nor a left operand may be touched, until wgmma_commit closed the products' group and
 *   wgmma_wait has waited for it; then comes wgmma_hold of the sums.
 * - Products read shared memory through another proxy: a thread that wrote there (stores, and copies after cp_async_wait) calls
 *   fence_proxy_async before the barrier that lets products read. Products that have been waited for have read.
 *
 * Matrices in shared memory (sections "Matrix descriptor", "Shared memory matrix layout", "Strides"; swizzling mode 128 bytes):
 * a brick is eight lines of 128 bytes, at a multiple of 1024 bytes of shared memory; 16-byte chunk c of line r lies in chunk
 * c ^ r of that line (bits 4 … 6 of the address are exchanged by bits 7 … 9).
 * - Along K ("K-major"): a line is a row of the left, or a column of the right operand, and its 64 elements go along K; the next
 *   eight lines are `stride` bytes further; `leading` is not used. A product's 16 elements of K are 32 bytes of a line: its
 *   descriptor begins 0, 32, 64 or 96 bytes into the brick.
 * - Along N ("MN-major", of the right operand): a line is one step of K, and its 64 elements are columns; the next eight steps
 *   of K are `stride` bytes further, the next 64 columns `leading` bytes.
 *
 * Sums: with w = warp % 4, g = lane / 4 and t = lane % 4, d[4j + e] is row 16w + g + 8 (e / 2), column 8j + 2t + e % 2. */
#ifndef SHARD_KERNELS_CUDA_DEVICE_WGMMA_CUH
#define SHARD_KERNELS_CUDA_DEVICE_WGMMA_CUH

#include "shard/kernels/cuda/device.cuh"

enum { WARPGROUP = 128 };

#ifdef GEMMAD_CUDA_SIM
#include "wgmma_sim.h" /* tests/cuda_sim */
#else

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
enum { WGMMA_HERE = 1 };
#define WGMMA_ASM_(...) asm volatile(__VA_ARGS__)
#else
enum { WGMMA_HERE = 0 };
#define WGMMA_ASM_(...) __trap()
#endif

static __device__ __forceinline__ void fence_proxy_async(void) {
    WGMMA_ASM_("fence.proxy.async.shared::cta;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_fence(void) { WGMMA_ASM_("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void wgmma_commit(void) { WGMMA_ASM_("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Until at most `left` of the groups are under way. */
template <int left> static __device__ __forceinline__ void wgmma_wait(void) {
    WGMMA_ASM_("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}
/* No instruction: the compiler moves nothing that reads or writes these registers across it. */
template <int count> static __device__ __forceinline__ void wgmma_hold(float (&d)[count]) {
#pragma unroll
    for (int i = 0; i < count; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int count> static __device__ __forceinline__ void wgmma_hold(uint32_t (&a)[count]) {
#pragma unroll
    for (int i = 0; i < count; i++) asm volatile("" : "+r"(a[i])::"memory");
}

/* The first address from `shared` on that is a multiple of 1024 of shared memory. */
static __device__ __forceinline__ unsigned char *shared_align_1024(unsigned char *shared) {
    return shared + ((0u - shared_address_(shared)) & 1023u);
}

/* A descriptor: start address, leading and stride, each divided by 16 in 14 bits from bits 0, 16 and 32 on; bits 49 … 51, the
 * base offset, 0 as bricks begin at multiples of 1024; bits 62, 63: 1 is 128-byte swizzling. Multiples of 16 below 2^18. */
static __device__ __forceinline__ uint64_t wgmma_matrix(const void *shared, uint32_t leading, uint32_t stride) {
    return (uint64_t)((shared_address_(shared) & 0x3FFFFu) >> 4) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

#define WGMMA_4_(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_16_(d, i) WGMMA_4_(d, i), WGMMA_4_(d, i + 4), WGMMA_4_(d, i + 8), WGMMA_4_(d, i + 12)
#define WGMMA_64_(d, i) WGMMA_16_(d, i), WGMMA_16_(d, i + 16), WGMMA_16_(d, i + 32), WGMMA_16_(d, i + 48)

/* d[64, 64] += a[64, 16] · b[16, 64]; a along K, b along K or, with ALONG_N, along N. */
template <bool ALONG_N> static __device__ __forceinline__ void wgmma_n64(float (&d)[32], uint64_t a, uint64_t b) {
    WGMMA_ASM_("{ .reg .pred add; setp.ne.b32 add, 1, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
               "}, %32, %33, add, 1, 1, 0, %34; }"
               : WGMMA_16_(d, 0), WGMMA_16_(d, 16)
               : "l"(a), "l"(b), "n"((int)ALONG_N));
}

/* d[64, 256] += a[64, 16] · b[16, 256]; a in registers, as mma_bf16 has it, of the warp's 16 rows. */
template <bool ALONG_N>
static __device__ __forceinline__ void wgmma_n256(float (&d)[128], const uint32_t (&a)[4], uint64_t b) {
    WGMMA_ASM_("{ .reg .pred add; setp.ne.b32 add, 1, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
               "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
               "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
               "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
               "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
               "}, {%128, %129, %130, %131}, %132, add, 1, 1, %133; }"
               : WGMMA_64_(d, 0), WGMMA_64_(d, 64)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ALONG_N));
}
#endif /* GEMMAD_CUDA_SIM */

/* The warpgroup's number, as a value that compilers know to be one for a warp: descriptors made of it need no lane's registers. */
static __device__ __forceinline__ uint32_t wgmma_group(void) { return __shfl_sync(0xFFFFFFFFu, threadIdx.x / WARPGROUP, 0); }

/* The descriptor of a matrix like it, `bytes` further. */
static __device__ __forceinline__ uint64_t wgmma_further(uint64_t matrix, uint32_t bytes) { return matrix + (bytes >> 4); }

#endif
