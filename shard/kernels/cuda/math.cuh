/* exp, tanh and gelu as kernels/cpu/ref_math.h defines them, operation by operation: the same bits on every device.
 * A change there is a change here; tests/unit/cuda/test_cuda_rows.c holds them together. */
#ifndef SHARD_KERNELS_CUDA_MATH_CUH
#define SHARD_KERNELS_CUDA_MATH_CUH

#include "shard/kernels/cpu/math_constants.h"
#include "shard/kernels/cuda/device.cuh"

/* exp(x) = 2^k · exp(r), as two exact factors of 2; below -103.97 it is 0. */
static __device__ __forceinline__ float math_exp(float x) {
    x = x > EXP_LOWEST ? x : EXP_LOWEST;
    x = x < EXP_HIGHEST ? x : EXP_HIGHEST;
    float shifted = fmaf(x, LOG2_E, ROUND_SHIFT);
    float n = shifted - ROUND_SHIFT;
    int k = (int)(__float_as_uint(shifted) - __float_as_uint(ROUND_SHIFT));
    float r = fmaf(n, -LN2_HIGH, x);
    r = fmaf(n, -LN2_LOW, r);
    float q = fmaf(EXP_Q4, r, EXP_Q3);
    q = fmaf(q, r, EXP_Q2);
    q = fmaf(q, r, EXP_Q1);
    q = fmaf(q, r, EXP_Q0);
    float p = fmaf(q, r * r, r) + 1.0f;
    int half = k >> 1;
    float first = __uint_as_float((uint32_t)(half + 127) << 23);
    float second = __uint_as_float((uint32_t)(k - half + 127) << 23);
    return p * first * second;
}

static __device__ __forceinline__ float math_softmax_exp(float x) { return x < SOFTMAX_LOWEST ? 0.0f : math_exp(x); }

static __device__ __forceinline__ float math_tanh(float x) {
    uint32_t sign = __float_as_uint(x) & 0x80000000u;
    float a = __uint_as_float(__float_as_uint(x) & 0x7FFFFFFFu);
    float s = a * a;
    float p = fmaf(TANH_P4, s, TANH_P3);
    p = fmaf(p, s, TANH_P2);
    p = fmaf(p, s, TANH_P1);
    p = fmaf(p, s, TANH_P0);
    float near = fmaf(p * s, a, a);
    float far = 1.0f - 2.0f / (math_exp(a + a) + 1.0f);
    return __uint_as_float(__float_as_uint(a < TANH_NEAR ? near : far) | sign);
}

/* 0.5 x (1 + tanh u) = x / (1 + exp(-2u)) */
static __device__ __forceinline__ float math_gelu(float x) {
    float cube = x * x * x;
    float u = fmaf(GELU_CUBE, cube, x);
    return x / (1.0f + math_exp(u * GELU_MINUS_2_SQRT_2_PI));
}
#endif
