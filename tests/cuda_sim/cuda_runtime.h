/* What device code here uses of CUDA, for g++: qualifiers, built-in variables and functions. Kernels run as fibers, one for each
 * thread of a block (block.c); functions that threads meet in are rendezvous of those. */
#ifndef TESTS_CUDA_SIM_CUDA_RUNTIME_H
#define TESTS_CUDA_SIM_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
#include <math.h>
#include <string.h>
#include "rendezvous.h"

#define __global__ __attribute__((unused))
#define __device__ __attribute__((unused))
#define __host__
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

/* ---- meeting ---- */
static inline void __syncthreads(void) { sim_barrier(0, 0); }
static inline void __syncwarp(uint32_t mask = 0xFFFFFFFFu) { sim_meet(SIM_SYNC, mask); }

template <typename T> static inline T sim_shuffle_(enum sim_meeting kind, uint32_t mask, T value, int to, int width) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    sim_exchange *e = sim_lane_exchange;
    memcpy(e->word, &value, sizeof value);
    e->word[2] = (uint32_t)to;
    e->word[3] = (uint32_t)width;
    sim_meet(kind, mask);
    memcpy(&value, e->word, sizeof value);
    return value;
}
template <typename T> static inline T __shfl_sync(uint32_t mask, T value, int lane, int width = 32) {
    return sim_shuffle_(SIM_SHUFFLE, mask, value, lane, width);
}
template <typename T> static inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
    return sim_shuffle_(SIM_SHUFFLE_XOR, mask, value, bits, width);
}
template <typename T> static inline T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32) {
    return sim_shuffle_(SIM_SHUFFLE_UP, mask, value, (int)by, width);
}
template <typename T> static inline T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32) {
    return sim_shuffle_(SIM_SHUFFLE_DOWN, mask, value, (int)by, width);
}
static inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
    sim_lane_exchange->word[0] = predicate != 0;
    sim_meet(SIM_BALLOT, mask);
    return sim_lane_exchange->word[0];
}
static inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

/* ---- memory ---- */
static inline void __threadfence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Each returns what was there before. The threads of a block take turns at them, now and then. */
#define SIM_ATOMICS_(T)                                                                                     \
    static inline T atomicAdd(T *p, T v) { sim_atomic(); return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
    static inline T atomicExch(T *p, T v) { sim_atomic(); return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
    static inline T atomicMax(T *p, T v) {                                                                   \
        sim_atomic();                                                                                        \
        T old = __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                        \
        while (old < v && !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {} \
        return old;                                                                                          \
    }                                                                                                        \
    static inline T atomicOr(T *p, T v) { sim_atomic(); return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
SIM_ATOMICS_(int)
SIM_ATOMICS_(unsigned)
SIM_ATOMICS_(unsigned long long)

/* ---- arithmetic ---- */
static inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
/* Without a call: the compiler may not count on an instruction for it. */
static inline int __popc(unsigned x) {
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    return (int)(((x + (x >> 4)) & 0x0F0F0F0Fu) * 0x01010101u >> 24);
}
static inline int __ffs(int x) { return __builtin_ffs(x); }
/* Bytes of (y, x) picked by the nibbles of s; bit 3 of a nibble spreads the sign of its byte. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned d = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = s >> 4 * i & 15u, byte = (unsigned)(both >> 8 * (nibble & 7u)) & 0xFFu;
        if (nibble & 8u) byte = byte & 0x80u ? 0xFFu : 0u;
        d |= byte << 8 * i;
    }
    return d;
}

#define SIM_MIN_MAX_(T)                                                                                      \
    static inline T min(T a, T b) { return b < a ? b : a; }                                                  \
    static inline T max(T a, T b) { return a < b ? b : a; }
SIM_MIN_MAX_(int)
SIM_MIN_MAX_(unsigned)
SIM_MIN_MAX_(long)
SIM_MIN_MAX_(unsigned long)
SIM_MIN_MAX_(long long)
SIM_MIN_MAX_(unsigned long long)
static inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
static inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
static inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
static inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
#endif
#endif
