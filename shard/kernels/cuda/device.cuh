/* The part of CUDA that kernels here are written in: what PTX is needed for has a name and a contract in this file (Hopper's
 * products in device_wgmma.cuh), and no other file has inline assembly. tests/cuda_sim gives the same names on the CPU, so
 * that every kernel also runs where no GPU is, one block after another, with its barriers, shuffles and tensor-core fragments
 * as the PTX manual has them.
 *
 * Rules of the dialect, which the simulator holds kernels to:
 * - A kernel is a `__global__ void` function, started with LAUNCH and nothing else.
 * - Every thread calls grid_wait() before it reads what an earlier kernel wrote, before it writes anything, and before it
 *   returns: kernels start while the one before them still runs (programmatic dependent launch). What no kernel writes
 *   (weights) may be read, or fetched into L2 with prefetch_l2, before it.
 * - Static shared memory is `__shared__`, dynamic shared memory DYNAMIC_SHARED.
 * - Warp functions are called by all 32 lanes together, block barriers by all threads of the block.
 * - Compiled with -fmad=false: a fused multiply-add is fmaf where it is written, as on the CPU (docs/numerics.md).
 *
 * Source: PTX ISA 9.0, sections mma.m16n8k16, ldmatrix, cp.async, griddepcontrol. */
#ifndef SHARD_KERNELS_CUDA_DEVICE_CUH
#define SHARD_KERNELS_CUDA_DEVICE_CUH

#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

enum { WARP = 32 };

#ifdef GEMMAD_CUDA_SIM
#include "device_sim.h" /* tests/cuda_sim */
#else

#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

/* Starts a kernel in stream order; it may begin while the one before it ends. An error of the launch itself is found by
 * the next cudaGetLastError. */
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    (launch_prepare_<kernel>(), launch_kernel_(kernel, grid, block, shared_bytes, stream, __VA_ARGS__))

/* The same for a few small blocks that are all on the GPU at once: block i may wait for block i of a launch like it on
 * another GPU, and for no other block. */
#define LAUNCH_TOGETHER LAUNCH

/* Once for each kernel and device. Beyond 48 KiB, what the kernel has of its own included, no shared memory is given that
 * was not asked for: all there is, since a recording may still hold a launch with more than the last one. (What the device
 * keeps of each block for itself is not in `most`, and may be counted as the kernel's own.) And all kernels divide a
 * multiprocessor's memory alike: before it is divided otherwise, it runs empty. */
template <auto kernel> static inline void launch_prepare_(void) {
    static uint64_t prepared; /* devices */
    cudaFuncAttributes own;
    int device = 0, most = 0, kept = 0;
    if (cudaGetDevice(&device) != cudaSuccess || (prepared >> device % 64 & 1)) return;
    if (cudaFuncGetAttributes(&own, kernel) != cudaSuccess) return;
    if (cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return;
    if (cudaDeviceGetAttribute(&kept, cudaDevAttrReservedSharedMemoryPerBlock, device) != cudaSuccess) return;
    most -= (int)own.sharedSizeBytes;
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most + kept) != cudaSuccess) {
        (void)cudaGetLastError();
        (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
    }
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    prepared |= UINT64_C(1) << device % 64;
}

/* Whether GPUs of this process start kernels early: those that do not may refuse to be asked. */
static inline bool launch_early_(void) {
    static int major;
    int device = 0;
    if (major == 0 && cudaGetDevice(&device) == cudaSuccess)
        (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major >= 9;
}

template <typename... Parameters, typename... Arguments>
static inline void launch_kernel_(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                                  cudaStream_t stream, Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    cudaLaunchAttribute early;
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &early;
    config.numAttrs = launch_early_() ? 1 : 0;
    (void)cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

/* ---- order between kernels ---- */

/* Waits until every kernel before this one in the stream has ended and its writes can be seen. */
static __device__ __forceinline__ void grid_wait(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel may be started from here on; what it may do before its grid_wait is said above. */
static __device__ __forceinline__ void grid_release(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
static __device__ __forceinline__ void prefetch_l2(const void *global) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

/* Of both a multiple of 16; a hint. */
static __device__ __forceinline__ void prefetch_l2_bytes(const void *global, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
#else
    for (uint32_t at = 0; at < bytes; at += 128) prefetch_l2((const char *)global + at);
#endif
}

/* ---- memory ---- */

/* 16 bytes that are read once: they do not stay in the first cache. */
static __device__ __forceinline__ uint4 load_stream(const void *global) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
}

/* A word that a kernel before this one may still write: what it was or what it will be. For hints alone, before grid_wait. */
static __device__ __forceinline__ uint32_t load_hint(const uint32_t *global) {
    uint32_t v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(global));
    return v;
}

static __device__ __forceinline__ uint32_t shared_address_(const void *shared) {
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* Copies 16 bytes to shared memory, or writes zeros where !valid (global is then not read); done after cp_async_wait. */
static __device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address_(shared)), "l"(global), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most `left` of this thread's committed groups are under way. Other threads' copies are seen after a barrier. */
template <int left> static __device__ __forceinline__ void cp_async_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/* Flags between GPUs and blocks. */
static __device__ __forceinline__ uint32_t load_acquire_system(const uint32_t *p) {
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
static __device__ __forceinline__ void store_release_system(uint32_t *p, uint32_t v) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

/* ---- bf16 ---- */

static __device__ __forceinline__ float bf16_float(uint16_t x) { return __uint_as_float((uint32_t)x << 16); }
/* Two floats rounded to nearest even: `low` in the low half. */
static __device__ __forceinline__ uint32_t bf16_pack(float low, float high) {
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
static __device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
static __device__ __forceinline__ float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }
/* Each half of a times that half of b plus that of c, rounded once. */
static __device__ __forceinline__ uint32_t bf16_fma2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
/* binary16 to float, exact. */
static __device__ __forceinline__ float f16_float(uint16_t x) {
    float d;
    asm("cvt.f32.f16 %0, %1;" : "=f"(d) : "h"(x));
    return d;
}

/* 2^x within 2 units of the last place, the hardware's: for weights that become bf16. 0 at -inf; what would be subnormal is 0. */
static __device__ __forceinline__ float exp2_near(float x) {
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

/* ---- bits ---- */

/* (a & b) | c and (~a & b) | c in one instruction, whose operands may all be constants but one: compilers split that. */
static __device__ __forceinline__ uint32_t bits_and_or(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
static __device__ __forceinline__ uint32_t bits_not_and_or(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xAE;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* ---- tensor cores ---- */

/* d[16, 8] += a[16, 16] · b[16, 8] in float32. With g = lane / 4 and t = lane % 4:
 *   a[0] = a(g, 2t…2t+1)  a[1] = a(g+8, 2t…)  a[2] = a(g, 2t+8…)  a[3] = a(g+8, 2t+8…)
 *   b[0] = b(2t…2t+1, g)  b[1] = b(2t+8…, g)
 *   d[0], d[1] = d(g, 2t), d(g, 2t+1)         d[2], d[3] = d(g+8, 2t), d(g+8, 2t+1) */
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four 8 × 8 matrices of 16-bit elements from shared memory: lane i gives the address of row i % 8 of matrix i / 8 (16
 * bytes, aligned); r[m] of lane i is elements 2(i % 4), +1 of row i / 4 of matrix m. */
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address_(shared_row))
                 : "memory");
}
/* The same of the transposed matrices: r[m] is elements (2(i % 4), i / 4) and (2(i % 4) + 1, i / 4). */
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address_(shared_row))
                 : "memory");
}

/* A barrier of some warps of a block: id 1 … 15, threads a multiple of 32. */
static __device__ __forceinline__ void barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
#endif /* GEMMAD_CUDA_SIM */

#ifdef __cplusplus
/* ---- built from the above ---- */

static __device__ __forceinline__ uint16_t bf16_of(float x) { return (uint16_t)(bf16_pack(x, 0.0f) & 0xFFFFu); }
/* x = high + low + rest, |rest| below 2^-17 |x|: two bf16 hold nearly a float. Packs of two values. */
static __device__ __forceinline__ void bf16_split(float x0, float x1, uint32_t *high, uint32_t *low) {
    uint32_t h = bf16_pack(x0, x1);
    *high = h;
    *low = bf16_pack(x0 - bf16_low(h), x1 - bf16_high(h));
}

/* Over each `lanes` neighbours of a warp, the same bits in all of them: a butterfly, j with j + lanes / 2 first. */
template <int lanes> static __device__ __forceinline__ float lanes_sum(float x) {
    for (int d = lanes / 2; d > 0; d /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, d);
    return x;
}
template <int lanes> static __device__ __forceinline__ float lanes_max(float x) {
    for (int d = lanes / 2; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, d));
    return x;
}
static __device__ __forceinline__ float warp_sum(float x) { return lanes_sum<WARP>(x); }
static __device__ __forceinline__ float warp_max(float x) { return lanes_max<WARP>(x); }
/* Over a block of whole warps, at most 1024 threads; scratch[33] is shared memory of the caller's. Holds two barriers, and
 * scratch may be used again after it. */
static __device__ __forceinline__ float block_sum(float x, float *scratch) {
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
    x = warp_sum(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : 0.0f);
    __syncthreads();
    return x;
}
static __device__ __forceinline__ float block_max(float x, float *scratch) {
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
    x = warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_max(lane < warps ? scratch[lane] : -INFINITY);
    __syncthreads();
    return x;
}
#endif
#endif
