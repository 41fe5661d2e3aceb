/* The register tile of matmul_lanes.h with 32 registers: 4 rows × 4 tokens, one register an output; 8 loads
 * for 16 multiply-adds. Contract as in matmul_tile_avx2.h. */
#ifndef SHARD_KERNELS_CPU_MATMUL_TILE_AVX512_H
#define SHARD_KERNELS_CPU_MATMUL_TILE_AVX512_H

#include "shard/kernels/weight.h"

enum { TILE_ROWS = 4, TILE_TOKENS = 4 };

/* Sixteen weights. With registers to spare gcc keeps the load in one (compare matmul_tile_avx2.h). */
LANES_INLINE lanes tile_load(const void *row, size_t at, weight_type type) {
    if (type == WEIGHT_F32) return lanes_load((const float *)row + at);
    const uint16_t *half = (const uint16_t *)row + at;
    return type == WEIGHT_BF16 ? lanes_load_bf16(half) : lanes_load_f16(half);
}

LANES_INLINE void matmul_tile(float *acc, size_t acc_stride, const float *const x[TILE_TOKENS],
                              const void *const w[TILE_ROWS], uint32_t blocks, weight_type type) {
    float *a0 = acc, *a1 = a0 + acc_stride, *a2 = a1 + acc_stride, *a3 = a2 + acc_stride;
    const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    const void *w0 = w[0], *w1 = w[1], *w2 = w[2], *w3 = w[3];
    lanes s00 = lanes_load(a0), s10 = lanes_load(a0 + 16);
    lanes s20 = lanes_load(a0 + 32), s30 = lanes_load(a0 + 48);
    lanes s01 = lanes_load(a1), s11 = lanes_load(a1 + 16);
    lanes s21 = lanes_load(a1 + 32), s31 = lanes_load(a1 + 48);
    lanes s02 = lanes_load(a2), s12 = lanes_load(a2 + 16);
    lanes s22 = lanes_load(a2 + 32), s32 = lanes_load(a2 + 48);
    lanes s03 = lanes_load(a3), s13 = lanes_load(a3 + 16);
    lanes s23 = lanes_load(a3 + 32), s33 = lanes_load(a3 + 48);
    for (size_t c = 0, end = (size_t)blocks * 16; c < end; c += 16) {
        lanes t0 = lanes_load(x0 + c), t1 = lanes_load(x1 + c);
        lanes t2 = lanes_load(x2 + c), t3 = lanes_load(x3 + c);
        lanes r = tile_load(w0, c, type);
        s00 = lanes_fma(t0, r, s00), s01 = lanes_fma(t1, r, s01);
        s02 = lanes_fma(t2, r, s02), s03 = lanes_fma(t3, r, s03);
        r = tile_load(w1, c, type);
        s10 = lanes_fma(t0, r, s10), s11 = lanes_fma(t1, r, s11);
        s12 = lanes_fma(t2, r, s12), s13 = lanes_fma(t3, r, s13);
        r = tile_load(w2, c, type);
        s20 = lanes_fma(t0, r, s20), s21 = lanes_fma(t1, r, s21);
        s22 = lanes_fma(t2, r, s22), s23 = lanes_fma(t3, r, s23);
        r = tile_load(w3, c, type);
        s30 = lanes_fma(t0, r, s30), s31 = lanes_fma(t1, r, s31);
        s32 = lanes_fma(t2, r, s32), s33 = lanes_fma(t3, r, s33);
    }
    lanes_store(a0, s00), lanes_store(a0 + 16, s10), lanes_store(a0 + 32, s20), lanes_store(a0 + 48, s30);
    lanes_store(a1, s01), lanes_store(a1 + 16, s11), lanes_store(a1 + 32, s21), lanes_store(a1 + 48, s31);
    lanes_store(a2, s02), lanes_store(a2 + 16, s12), lanes_store(a2 + 32, s22), lanes_store(a2 + 48, s32);
    lanes_store(a3, s03), lanes_store(a3 + 16, s13), lanes_store(a3 + 32, s23), lanes_store(a3 + 48, s33);
}

#endif
