/* The dialect of shard/kernels/cuda/device.cuh on the CPU: the same names and contracts, which stand there. */
#ifndef TESTS_CUDA_SIM_DEVICE_SIM_H
#define TESTS_CUDA_SIM_DEVICE_SIM_H

#include <tuple>
#include <type_traits>
#include "cuda_runtime.h"

#define DYNAMIC_SHARED(name) unsigned char *name = static_cast<unsigned char *>(sim_dynamic_shared())

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    sim_launch_(#kernel, false, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define LAUNCH_TOGETHER(kernel, grid, block, shared_bytes, stream, ...)                                      \
    sim_launch_(#kernel, true, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

template <typename... Parameters> struct sim_call_ {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
    static void one_thread(const void *p) {
        const sim_call_ *c = static_cast<const sim_call_ *>(p);
        std::apply(c->kernel, c->arguments);
    }
};
template <typename... Parameters, typename... Arguments>
static inline void sim_launch_(const char *name, bool together, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                               cudaStream_t stream, Arguments... arguments) {
    static_assert((std::is_trivially_copyable<Parameters>::value && ...), "arguments of kernels are copied as bytes");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    sim_call_<Parameters...> call = {kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)};
    sim_launch launch = {name, sim_call_<Parameters...>::one_thread, grid, block, shared_bytes, sizeof call, together};
    sim_launch_enqueue(&launch, &call, stream);
}

static inline void grid_wait(void) { sim_grid_wait(); }
static inline void grid_release(void) {}
static inline void prefetch_l2(const void *) {}
static inline void prefetch_l2_bytes(const void *global, uint32_t bytes) {
    if ((uintptr_t)global % 16 != 0 || bytes % 16 != 0) sim_die("prefetch_l2_bytes of %p, %u bytes", global, bytes);
}

static inline uint4 load_stream(const void *global) {
    if ((uintptr_t)global % 16 != 0) sim_die("load_stream of %p, which is not 16-byte aligned", global);
    return *static_cast<const uint4 *>(global);
}

static inline uint32_t load_hint(const uint32_t *global) { return __atomic_load_n(global, __ATOMIC_RELAXED); }

static inline void cp_async_16(void *shared, const void *global, bool valid) { sim_copy_async(shared, global, valid); }
static inline void cp_async_commit(void) { sim_copy_commit(); }
template <int left> static inline void cp_async_wait(void) { sim_copy_wait(left); }

static inline uint32_t load_acquire_system(const uint32_t *p) {
    sim_spin();
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void store_release_system(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

static inline float bf16_float(uint16_t x) { return __uint_as_float((uint32_t)x << 16); }
/* Nearest even; NaN becomes the one that the device makes. */
static inline uint32_t sim_bf16_(float x) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFFu;
    return (u + 0x7FFFu + (u >> 16 & 1u)) >> 16;
}
static inline uint32_t bf16_pack(float low, float high) { return sim_bf16_(low) | sim_bf16_(high) << 16; }
static inline float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
static inline float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

/* x + rest, |rest| below half an ulp of x, as a float whose last bit is 1 unless it is exact ("round to odd"), so that
 * rounding it to bf16 rounds once. */
static inline float sim_odd_float_(double x, double rest) {
    float f = (float)x;
    double off = (x - (double)f) + rest; /* of a difference of neighbours: its sign is exact */
    if (off == 0.0 || !(fabs(x) <= 1e300)) return f;
    if (__builtin_isinf(f) || (off < 0.0) == (f > 0.0)) f = nextafterf(f, 0.0f);
    return __uint_as_float(__float_as_uint(f) | 1u);
}
static inline uint32_t sim_bf16_fma_(float a, float b, float c) {
    double p = (double)a * b, s = p + c; /* the product is exact */
    if (!__builtin_isfinite(s)) return sim_bf16_((float)s);
    double t = s - p, rest = (p - (s - t)) + (c - t);
    return sim_bf16_(sim_odd_float_(s, rest));
}
static inline uint32_t bf16_fma2(uint32_t a, uint32_t b, uint32_t c) {
    return sim_bf16_fma_(bf16_low(a), bf16_low(b), bf16_low(c)) |
           sim_bf16_fma_(bf16_high(a), bf16_high(b), bf16_high(c)) << 16;
}
static inline float f16_float(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = x >> 10 & 31u, fraction = x & 1023u;
    if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | fraction << 13);
    if (exponent > 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    float small = (float)fraction * 0x1p-24f;
    return sign ? -small : small;
}

static inline uint32_t bits_and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }
static inline uint32_t bits_not_and_or(uint32_t a, uint32_t b, uint32_t c) { return (~a & b) | c; }

static inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    sim_exchange *e = sim_lane_exchange;
    memcpy(e->word, a, 16);
    memcpy(e->word + 4, b, 8);
    memcpy(e->word + 6, d, 16);
    sim_meet(SIM_MMA_BF16, 0xFFFFFFFFu);
    memcpy(d, e->word + 6, 16);
}
static inline void ldmatrix_x4(uint32_t r[4], const void *shared_row) {
    sim_lane_exchange->address = shared_row;
    sim_meet(SIM_LDMATRIX, 0xFFFFFFFFu);
    memcpy(r, sim_lane_exchange->word, 16);
}
static inline void ldmatrix_x4_trans(uint32_t r[4], const void *shared_row) {
    sim_lane_exchange->address = shared_row;
    sim_meet(SIM_LDMATRIX_TRANS, 0xFFFFFFFFu);
    memcpy(r, sim_lane_exchange->word, 16);
}

static inline void barrier_sync(int id, int threads) {
    if (id < 1 || id > 15 || threads <= 0) sim_die("barrier_sync(%d, %d)", id, threads);
    sim_barrier(id, threads);
}
#endif
