/* The arithmetic of kernels, one element at a time: what the *_ref.c files and those of kernels/cuda are written with, and
 * what the vector files (lanes_math.h) repeat operation by operation. A change here is a change there.
 *
 * Every function is a fixed sequence of IEEE operations in float (plus bit moves), so it gives the same bits
 * wherever it is compiled.
 *
 * Memory:  none.
 * Threads: any. */
#ifndef SHARD_KERNELS_CPU_REF_MATH_H
#define SHARD_KERNELS_CPU_REF_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "shard/kernels/cpu/math_constants.h"
#include "shard/kernels/host_device.h"

enum { LANES = 16 };

HOST_DEVICE_INLINE uint32_t ref_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

HOST_DEVICE_INLINE float ref_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* As the x86 instructions: b when either is NaN or both are zeros. */
HOST_DEVICE_INLINE float ref_max(float a, float b) { return a > b ? a : b; }
HOST_DEVICE_INLINE float ref_min(float a, float b) { return a < b ? a : b; }

HOST_DEVICE_INLINE float ref_from_bf16(uint16_t x) { return ref_float((uint32_t)x << 16); }

/* l[j] += l[j+8], then +4, +2, +1. l is used up. */
HOST_DEVICE_INLINE float ref_tree(float l[LANES]) {
    for (int j = 0; j < 8; j++) l[j] += l[j + 8];
    for (int j = 0; j < 4; j++) l[j] += l[j + 4];
    for (int j = 0; j < 2; j++) l[j] += l[j + 2];
    return l[0] + l[1];
}

/* exp(x) = 2^k · exp(r), k = round(x / ln 2), |r| ≤ ln 2 / 2. The error of the polynomial is 2^-28.3, of all
 * below 1 ulp. Clamping puts x where k stays in -150 … 128; below -103.97 the true value rounds to 0 and so
 * does this one. 2^k is applied as two factors, because one float does not reach down to the subnormals; the
 * first is exact. */
HOST_DEVICE_INLINE float ref_exp(float x) {
    x = ref_max(EXP_LOWEST, x);
    x = ref_min(EXP_HIGHEST, x);
    float shifted = fmaf(x, LOG2_E, ROUND_SHIFT);
    float n = shifted - ROUND_SHIFT;
    int32_t k = (int32_t)(ref_bits(shifted) - ref_bits(ROUND_SHIFT));
    float r = fmaf(n, -LN2_HIGH, x);
    r = fmaf(n, -LN2_LOW, r);
    float q = fmaf(EXP_Q4, r, EXP_Q3);
    q = fmaf(q, r, EXP_Q2);
    q = fmaf(q, r, EXP_Q1);
    q = fmaf(q, r, EXP_Q0);
    float p = fmaf(q, r * r, r) + 1.0f;
    int32_t half = k >> 1;
    float first = ref_float((uint32_t)(half + 127) << 23);
    float second = ref_float((uint32_t)(k - half + 127) << 23);
    return p * first * second;
}

HOST_DEVICE_INLINE float ref_softmax_exp(float x) { return x < SOFTMAX_LOWEST ? 0.0f : ref_exp(x); }

/* Near 0 an odd polynomial (1 - 2/(e+1) would cancel), elsewhere from exp. Both work on |x|; the sign is put
 * back as a bit, which keeps -0. */
HOST_DEVICE_INLINE float ref_tanh(float x) {
    uint32_t sign = ref_bits(x) & 0x80000000u;
    float a = ref_float(ref_bits(x) & 0x7FFFFFFFu);
    float s = a * a;
    float p = fmaf(TANH_P4, s, TANH_P3);
    p = fmaf(p, s, TANH_P2);
    p = fmaf(p, s, TANH_P1);
    p = fmaf(p, s, TANH_P0);
    float near = fmaf(p * s, a, a);
    float far = 1.0f - 2.0f / (ref_exp(a + a) + 1.0f);
    return ref_float(ref_bits(a < TANH_NEAR ? near : far) | sign);
}

/* 0.5 x (1 + tanh u) = x / (1 + exp(-2u)): one exp instead of a tanh, and no cancellation for negative x. */
HOST_DEVICE_INLINE float ref_gelu(float x) {
    float cube = x * x * x;
    float u = fmaf(GELU_CUBE, cube, x);
    return x / (1.0f + ref_exp(u * GELU_MINUS_2_SQRT_2_PI));
}

#endif
