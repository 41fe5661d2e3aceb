/* The register tile of the blocked product with 16 registers: 3 rows × 2 tokens, two registers an output, 12 in all;
 * 10 loads for 12 multiply-adds, both ports of which stay busy. */
#ifndef SHARD_KERNELS_CPU_MATMUL_TILE_AVX2_H
#define SHARD_KERNELS_CPU_MATMUL_TILE_AVX2_H

enum { TILE_ROWS = 3, TILE_TOKENS = 2 };

/* acc[t · acc_stride + r · 16 …] += w[r · w_stride + c] · x[t][c], blocks of 16 columns, lane by lane. */
static inline void matmul_tile(float *acc, size_t acc_stride, const float *const x[TILE_TOKENS], const float *w,
                               size_t w_stride, uint32_t blocks) {
    float *a0 = acc, *a1 = acc + acc_stride;
    const float *x0 = x[0], *x1 = x[1];
    const float *w0 = w, *w1 = w + w_stride, *w2 = w + 2 * w_stride;
    lanes s00 = lanes_load(a0), s10 = lanes_load(a0 + 16), s20 = lanes_load(a0 + 32);
    lanes s01 = lanes_load(a1), s11 = lanes_load(a1 + 16), s21 = lanes_load(a1 + 32);
    for (size_t c = 0, end = (size_t)blocks * 16; c < end; c += 16) {
        __m256 u = _mm256_loadu_ps(x0 + c), v = _mm256_loadu_ps(x1 + c), r = _mm256_loadu_ps(w0 + c);
        s00.lo = _mm256_fmadd_ps(u, r, s00.lo), s01.lo = _mm256_fmadd_ps(v, r, s01.lo);
        r = _mm256_loadu_ps(w1 + c);
        s10.lo = _mm256_fmadd_ps(u, r, s10.lo), s11.lo = _mm256_fmadd_ps(v, r, s11.lo);
        r = _mm256_loadu_ps(w2 + c);
        s20.lo = _mm256_fmadd_ps(u, r, s20.lo), s21.lo = _mm256_fmadd_ps(v, r, s21.lo);
        u = _mm256_loadu_ps(x0 + c + 8), v = _mm256_loadu_ps(x1 + c + 8), r = _mm256_loadu_ps(w0 + c + 8);
        s00.hi = _mm256_fmadd_ps(u, r, s00.hi), s01.hi = _mm256_fmadd_ps(v, r, s01.hi);
        r = _mm256_loadu_ps(w1 + c + 8);
        s10.hi = _mm256_fmadd_ps(u, r, s10.hi), s11.hi = _mm256_fmadd_ps(v, r, s11.hi);
        r = _mm256_loadu_ps(w2 + c + 8);
        s20.hi = _mm256_fmadd_ps(u, r, s20.hi), s21.hi = _mm256_fmadd_ps(v, r, s21.hi);
    }
    lanes_store(a0, s00), lanes_store(a0 + 16, s10), lanes_store(a0 + 32, s20);
    lanes_store(a1, s01), lanes_store(a1 + 16, s11), lanes_store(a1 + 32, s21);
}

#endif
