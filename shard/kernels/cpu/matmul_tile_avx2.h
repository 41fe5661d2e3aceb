/* The register tile of matmul_lanes.h with 16 registers: 3 rows × 2 tokens, two registers an output, 12 in
 * all; 10 loads for 12 multiply-adds. */
#ifndef SHARD_KERNELS_CPU_MATMUL_TILE_AVX2_H
#define SHARD_KERNELS_CPU_MATMUL_TILE_AVX2_H

#include "shard/kernels/weight.h"

enum { TILE_ROWS = 3, TILE_TOKENS = 2 };

/* Eight weights. A plain load of floats would be folded by gcc into both multiply-adds that use it, 16 loads
 * in place of 10 and a quarter of the speed; the lddqu intrinsic is the same load and is not folded. */
LANES_INLINE __m256 tile_load(const void *row, size_t at, weight_type type) {
    const uint16_t *half = (const uint16_t *)row + at;
    if (type == WEIGHT_F32)
        return _mm256_castsi256_ps(
            _mm256_lddqu_si256((const __m256i *)(const void *)((const float *)row + at)));
    __m128i raw = _mm_loadu_si128((const __m128i *)(const void *)half);
    return type == WEIGHT_BF16 ? lanes_widen_bf16(raw) : _mm256_cvtph_ps(raw);
}

/* acc[t · acc_stride + r · 16 …] += w[r][c] · x[t][c] over blocks of 16 columns, lane by lane. */
LANES_INLINE void matmul_tile(float *acc, size_t acc_stride, const float *const x[TILE_TOKENS],
                              const void *const w[TILE_ROWS], uint32_t blocks, weight_type type) {
    float *a0 = acc, *a1 = acc + acc_stride;
    const float *x0 = x[0], *x1 = x[1];
    const void *w0 = w[0], *w1 = w[1], *w2 = w[2];
    lanes s00 = lanes_load(a0), s10 = lanes_load(a0 + 16), s20 = lanes_load(a0 + 32);
    lanes s01 = lanes_load(a1), s11 = lanes_load(a1 + 16), s21 = lanes_load(a1 + 32);
    for (size_t c = 0, end = (size_t)blocks * 16; c < end; c += 16) {
        __m256 u = _mm256_loadu_ps(x0 + c), v = _mm256_loadu_ps(x1 + c), r = tile_load(w0, c, type);
        s00.lo = _mm256_fmadd_ps(u, r, s00.lo), s01.lo = _mm256_fmadd_ps(v, r, s01.lo);
        r = tile_load(w1, c, type);
        s10.lo = _mm256_fmadd_ps(u, r, s10.lo), s11.lo = _mm256_fmadd_ps(v, r, s11.lo);
        r = tile_load(w2, c, type);
        s20.lo = _mm256_fmadd_ps(u, r, s20.lo), s21.lo = _mm256_fmadd_ps(v, r, s21.lo);
        u = _mm256_loadu_ps(x0 + c + 8), v = _mm256_loadu_ps(x1 + c + 8), r = tile_load(w0, c + 8, type);
        s00.hi = _mm256_fmadd_ps(u, r, s00.hi), s01.hi = _mm256_fmadd_ps(v, r, s01.hi);
        r = tile_load(w1, c + 8, type);
        s10.hi = _mm256_fmadd_ps(u, r, s10.hi), s11.hi = _mm256_fmadd_ps(v, r, s11.hi);
        r = tile_load(w2, c + 8, type);
        s20.hi = _mm256_fmadd_ps(u, r, s20.hi), s21.hi = _mm256_fmadd_ps(v, r, s21.hi);
    }
    lanes_store(a0, s00), lanes_store(a0 + 16, s10), lanes_store(a0 + 32, s20);
    lanes_store(a1, s01), lanes_store(a1 + 16, s11), lanes_store(a1 + 32, s21);
}

#endif
