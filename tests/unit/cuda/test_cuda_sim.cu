/* Kernels of test_cuda_sim.c: each does one thing of the dialect, so that what it gives can be said beforehand. */
#include "shard/kernels/cuda/device.cuh"
#include "tests/unit/cuda/test_cuda_sim.h"

/* out[warps, 32, 8]: shuffles and votes of lane values. */
static __global__ void lanes_kernel(const uint32_t *in, uint32_t *out) {
    grid_wait();
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % WARP;
    uint32_t x = in[i], *o = out + (size_t)i * 8;
    o[0] = __shfl_sync(0xFFFFFFFFu, x, (int)(lane * 7 + 3) % WARP);
    o[1] = __shfl_xor_sync(0xFFFFFFFFu, x, 5);
    o[2] = __shfl_down_sync(0xFFFFFFFFu, x, 3);
    o[3] = __shfl_up_sync(0xFFFFFFFFu, x, 2);
    o[4] = __shfl_sync(0xFFFFFFFFu, x, 1, 8);
    o[5] = __ballot_sync(0xFFFFFFFFu, (int)(x & 1));
    o[6] = (uint32_t)__any_sync(0xFFFFFFFFu, x % 64 == 0) | (uint32_t)__all_sync(0xFFFFFFFFu, x % 64 != 0) << 1;
    uint32_t mask = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    o[7] = __shfl_xor_sync(mask, x, 1);
}
extern "C" void sim_lanes(cudaStream_t stream, const uint32_t *in, uint32_t *out, uint32_t blocks, uint32_t threads) {
    LAUNCH(lanes_kernel, blocks, threads, 0, stream, in, out);
}

/* Sums of blocks by way of shared memory; with_barrier false forgets the barrier between writing and reading. */
template <bool with_barrier> static __global__ void reverse_kernel(const float *in, float *out) {
    __shared__ float tile[256];
    grid_wait();
    tile[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    if (with_barrier) __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
extern "C" void sim_reverse(cudaStream_t stream, const float *in, float *out, uint32_t blocks, uint32_t threads, bool barrier) {
    if (barrier) LAUNCH(reverse_kernel<true>, blocks, threads, 0, stream, in, out);
    else LAUNCH(reverse_kernel<false>, blocks, threads, 0, stream, in, out);
}

static __global__ void sums_kernel(const float *in, float *out) {
    __shared__ float scratch[33];
    grid_wait();
    float x = in[blockIdx.x * blockDim.x + threadIdx.x];
    float sum = block_sum(x, scratch), most = block_max(x, scratch);
    out[(blockIdx.x * blockDim.x + threadIdx.x) * 2] = sum;
    out[(blockIdx.x * blockDim.x + threadIdx.x) * 2 + 1] = most;
}
extern "C" void sim_sums(cudaStream_t stream, const float *in, float *out, uint32_t blocks, uint32_t threads) {
    LAUNCH(sums_kernel, blocks, threads, 0, stream, in, out);
}

/* d[16, 8] += a[16, 16] · b[16, 8]: a by ldmatrix, b[k][n] by ldmatrix transposed, all staged with cp_async. */
static __global__ void product_kernel(const uint16_t *a, const uint16_t *b, float *d) {
    DYNAMIC_SHARED(shared);
    uint16_t *sa = reinterpret_cast<uint16_t *>(shared), *sb = sa + 16 * 16;
    unsigned lane = threadIdx.x;
    grid_wait();
    cp_async_16(sa + lane * 8, a + lane * 8, true);
    if (lane < 16) cp_async_16(sb + lane * 8, b + lane * 8, true);
    else cp_async_16(sb + lane * 8, b, false);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    uint32_t fa[4], fb[4];
    ldmatrix_x4(fa, sa + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix_x4_trans(fb, sb + lane * 8);
    float sum[4];
    for (unsigned i = 0; i < 4; i++) sum[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
    mma_bf16(sum, fa, fb);
    for (unsigned i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}
extern "C" void sim_product(cudaStream_t stream, const uint16_t *a, const uint16_t *b, float *d) {
    LAUNCH(product_kernel, 1, WARP, 2 * 32 * 16, stream, a, b, d);
}

/* out[threads]: what lies in shared memory before the wait, after a wait that leaves the second group, and after the last. */
static __global__ void copies_kernel(const uint4 *in, uint4 *out) {
    DYNAMIC_SHARED(shared);
    uint4 *own = reinterpret_cast<uint4 *>(shared) + threadIdx.x * 2;
    grid_wait();
    cp_async_16(&own[0], &in[threadIdx.x * 2], true);
    cp_async_commit();
    cp_async_16(&own[1], &in[threadIdx.x * 2 + 1], true);
    cp_async_commit();
    out[threadIdx.x * 4] = own[0];
    cp_async_wait<1>();
    out[threadIdx.x * 4 + 1] = own[0];
    out[threadIdx.x * 4 + 2] = own[1];
    cp_async_wait<0>();
    out[threadIdx.x * 4 + 3] = own[1];
}
extern "C" void sim_copies(cudaStream_t stream, const void *in, void *out, uint32_t threads) {
    LAUNCH(copies_kernel, 1, threads, threads * 32, stream, static_cast<const uint4 *>(in), static_cast<uint4 *>(out));
}

static __global__ void bf16_kernel(const float *in, uint32_t *pack, const uint32_t *abc, uint32_t *fma, uint32_t n) {
    grid_wait();
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        pack[i] = bf16_pack(in[2 * i], in[2 * i + 1]);
        fma[i] = bf16_fma2(abc[3 * i], abc[3 * i + 1], abc[3 * i + 2]);
    }
}
extern "C" void sim_bf16(cudaStream_t stream, const float *in, uint32_t *pack, const uint32_t *abc, uint32_t *fma, uint32_t n) {
    LAUNCH(bf16_kernel, 2, 64, 0, stream, in, pack, abc, fma, n);
}

static __global__ void f16_kernel(float *out) {
    grid_wait();
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = f16_float((uint16_t)i);
}
extern "C" void sim_f16(cudaStream_t stream, float *out) { LAUNCH(f16_kernel, 256, 256, 0, stream, out); }

/* x = x · times + add: for orders of work. */
static __global__ void step_kernel(uint32_t *x, uint32_t times, uint32_t add) {
    grid_wait();
    *x = *x * times + add;
}
extern "C" void sim_step(cudaStream_t stream, uint32_t *x, uint32_t times, uint32_t add) {
    LAUNCH(step_kernel, 1, 1, 0, stream, x, times, add);
}

/* Halves of a block that do not wait for each other: each turns its rounds of 128 around, the second twice as many. */
static __global__ void halves_kernel(const float *in, float *out, uint32_t rounds) {
    __shared__ float slots[2][128];
    grid_wait();
    unsigned half = threadIdx.x / 128, i = threadIdx.x % 128;
    for (uint32_t r = half * rounds; r < rounds + half * 2 * rounds; r++) {
        slots[half][i] = in[r * 128 + i];
        barrier_sync(1 + (int)half, 128);
        out[r * 128 + i] = slots[half][127 - i];
        barrier_sync(1 + (int)half, 128);
    }
}
extern "C" void sim_halves(cudaStream_t stream, const float *in, float *out, uint32_t rounds) {
    LAUNCH(halves_kernel, 1, 256, 0, stream, in, out, rounds);
}

static __global__ void count_kernel(uint32_t *counts, uint32_t buckets) {
    grid_wait();
    atomicAdd(&counts[threadIdx.x % buckets], 1u);
    atomicMax(&counts[buckets], blockIdx.x * blockDim.x + threadIdx.x);
}
extern "C" void sim_count(cudaStream_t stream, uint32_t *counts, uint32_t buckets, uint32_t blocks, uint32_t threads) {
    LAUNCH(count_kernel, blocks, threads, 0, stream, counts, buckets);
}

/* Two streams that count each other up to `until` by flags. */
static __global__ void flags_kernel(uint32_t *own, const uint32_t *other, uint32_t first, uint32_t until) {
    grid_wait();
    if (threadIdx.x == 0)
        for (uint32_t i = first; i < until; i++) {
            store_release_system(own, i + 1);
            while (load_acquire_system(other) < i + 1) {
            }
        }
    __syncthreads();
}
extern "C" void sim_flags(cudaStream_t stream, uint32_t *own, const uint32_t *other, uint32_t first, uint32_t until) {
    LAUNCH(flags_kernel, 1, 64, 0, stream, own, other, first, until);
}

/* What the simulator must not let pass; on a GPU some of these hang. */
static __global__ void wrong_kernel(uint32_t *out, int fault) {
    DYNAMIC_SHARED(shared);
    if (fault == SIM_FAULT_NO_WAIT && threadIdx.x == 40) return;
    grid_wait();
    unsigned lane = threadIdx.x % WARP;
    uint32_t r[4];
    switch (fault) {
    case SIM_FAULT_DIVERGED_SHUFFLE:
        if (lane < 20) out[lane] = __shfl_xor_sync(0xFFFFFFFFu, lane, 1);
        break;
    case SIM_FAULT_MIXED:
        if (lane < 20) out[lane] = __shfl_xor_sync(0xFFFFFFFFu, lane, 1);
        else __syncwarp();
        break;
    case SIM_FAULT_BARRIER:
        if (threadIdx.x < 32) __syncthreads();
        break;
    case SIM_FAULT_BARRIER_PLACES:
        if (threadIdx.x < 32) __syncthreads();
        else barrier_sync(1, 64);
        break;
    case SIM_FAULT_LDMATRIX: ldmatrix_x4(r, shared + lane * 24); out[lane] = r[0]; break;
    case SIM_FAULT_COPY: cp_async_16(shared + 8, out, true); break;
    case SIM_FAULT_LOAD: out[lane] = load_stream(out + 1).x; break;
    case SIM_FAULT_OVERRUN: out[256] = 1; break;
    default: out[threadIdx.x] = 0; break;
    }
}
extern "C" void sim_wrong(cudaStream_t stream, uint32_t *out, int fault) {
    LAUNCH(wrong_kernel, 1, 64, 1024, stream, out, fault);
}
extern "C" void sim_too_much(cudaStream_t stream, uint32_t *x, uint32_t threads, uint32_t shared_bytes) {
    LAUNCH(step_kernel, 1, threads, shared_bytes, stream, x, 1, 0);
}
