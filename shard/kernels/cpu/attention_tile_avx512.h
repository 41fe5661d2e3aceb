/* Register tiles of attention with 32 registers: 16 sums of queries × keys, or of queries × registers of o. The order of
 * every sum is that of attention_ref.c. Included by kernels_avx512.c alone. */
#ifndef SHARD_KERNELS_CPU_ATTENTION_TILE_AVX512_H
#define SHARD_KERNELS_CPU_ATTENTION_TILE_AVX512_H

#include "shard/kernels/cpu/cpu_kernels.h"

/* 32 paired bf16: the first 16 elements, and the other 16. One operation each, where widening 16 neighbours takes two. */
LANES_INLINE void pair_load(const uint16_t *p, lanes *low, lanes *high) {
    __m512i both = _mm512_loadu_si512((const void *)p);
    *low = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    *high = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int32_t)0xFFFF0000u)));
}

/* A load that gcc does not repeat in each multiply-add that uses it: two a cycle is all there are. */
LANES_INLINE lanes once_load(const float *p) {
    lanes x = lanes_load(p);
    __asm__("" : "+v"(x));
    return x;
}

#include "shard/kernels/cpu/attention_fetch.h"

/* Sixteen trees at once; y[4·i + j] is the sum of a[i + 4·j]. */
LANES_INLINE lanes lanes_sum_of_sixteen(const lanes a[16]) {
    lanes eight[8], four[4], two[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        eight[i] = lanes_add(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x44),
                             _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xEE));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        four[i] = lanes_add(_mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0x88),
                            _mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0xDD));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = lanes_add(_mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0x44),
                           _mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0xEE));
    return lanes_add(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xDD));
}

/* nq queries (1, 2, 4, 8) against 16 / nq keys from `key` on. */
LANES_INLINE void scores_tile(float *scores, const float *q, size_t q_stride, const kv_run *runs,
                              uint32_t n_runs, uint32_t key, const int nq) {
    const int nk = 16 / nq;
    lanes acc[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) acc[i] = lanes_set(0);
    for (uint32_t r = 0; r < n_runs; r++) {
        size_t stride = runs[r].stride;
        if (runs[r].paired) {
            const uint16_t *x = (const uint16_t *)runs[r].data + key * stride;
            for (uint32_t c = 0; c < runs[r].count; c += 32) {
                fetch_next(runs[r].ahead, (uint32_t)nk);
                lanes low[16], high[16];
                if (nk <= nq) {
#pragma GCC unroll 16
                    for (int j = 0; j < nk; j++) pair_load(x + j * stride + c, &low[j], &high[j]);
#pragma GCC unroll 16
                    for (int i = 0; i < nq; i++) {
                        lanes a = once_load(q + i * q_stride + c), b = once_load(q + i * q_stride + c + 16);
#pragma GCC unroll 16
                        for (int j = 0; j < nk; j++) {
                            acc[i * nk + j] = lanes_fma(a, low[j], acc[i * nk + j]);
                            acc[i * nk + j] = lanes_fma(b, high[j], acc[i * nk + j]);
                        }
                    }
                } else {
                    lanes a[4], b[4];
#pragma GCC unroll 16
                    for (int i = 0; i < nq; i++)
                        a[i] = once_load(q + i * q_stride + c), b[i] = once_load(q + i * q_stride + c + 16);
#pragma GCC unroll 16
                    for (int j = 0; j < nk; j++) {
                        pair_load(x + j * stride + c, &low[0], &high[0]);
#pragma GCC unroll 16
                        for (int i = 0; i < nq; i++) {
                            acc[i * nk + j] = lanes_fma(a[i], low[0], acc[i * nk + j]);
                            acc[i * nk + j] = lanes_fma(b[i], high[0], acc[i * nk + j]);
                        }
                    }
                }
            }
            q += runs[r].count;
        } else {
            const float *x = (const float *)runs[r].data + key * stride;
            for (uint32_t c = 0; c < runs[r].count; c += 16) {
                fetch_next(runs[r].ahead, (uint32_t)nk);
                lanes a[8];
#pragma GCC unroll 16
                for (int i = 0; i < nq; i++) a[i] = once_load(q + i * q_stride + c);
#pragma GCC unroll 16
                for (int j = 0; j < nk; j++) {
                    lanes b = once_load(x + j * stride + c);
#pragma GCC unroll 16
                    for (int i = 0; i < nq; i++) acc[i * nk + j] = lanes_fma(a[i], b, acc[i * nk + j]);
                }
            }
            q += runs[r].count;
        }
    }
    lanes turned[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) turned[(i % 4) * 4 + i / 4] = acc[i];
    float all[16];
    lanes_store(all, lanes_sum_of_sixteen(turned));
#pragma GCC unroll 16
    for (int i = 0; i < nq; i++)
        memcpy(scores + (size_t)i * KV_PAGE_TOKENS + key, all + i * nk, (size_t)nk * sizeof *all);
}

LANES_INLINE void scores_queries(float *scores, const float *q, size_t q_stride, const kv_run *runs,
                                 uint32_t n_runs, uint32_t first, uint32_t last, const int nq) {
    uint32_t nk = 16 / (uint32_t)nq;
    for (uint32_t key = first / nk * nk; key < last; key += nk)
        scores_tile(scores, q, q_stride, runs, n_runs, key, nq);
}

static void vec_scores_page(float *scores, const float *q, size_t q_stride, uint32_t queries,
                            const kv_run *runs, uint32_t n_runs, uint32_t first, uint32_t last) {
    uint32_t nq;
    for (uint32_t t = 0; t < queries; t += nq, q += nq * q_stride, scores += (size_t)nq * KV_PAGE_TOKENS) {
        uint32_t left = queries - t;
        nq = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (nq == 8) scores_queries(scores, q, q_stride, runs, n_runs, first, last, 8);
        else if (nq == 4) scores_queries(scores, q, q_stride, runs, n_runs, first, last, 4);
        else if (nq == 2) scores_queries(scores, q, q_stride, runs, n_runs, first, last, 2);
        else scores_queries(scores, q, q_stride, runs, n_runs, first, last, 1);
    }
}

/* One key's values, weighted for nq queries; w is the first one's weight. */
LANES_INLINE void values_key(lanes *acc, const void *row, const float *w, const int nq, const int nv,
                             const bool paired) {
    lanes x[16];
    if (paired) {
#pragma GCC unroll 16
        for (int j = 0; j < nv; j += 2) pair_load((const uint16_t *)row + 16 * j, &x[j], &x[j + 1]);
    } else {
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++) x[j] = lanes_load((const float *)row + 16 * j);
    }
#pragma GCC unroll 16
    for (int i = 0; i < nq; i++) {
        lanes factor = lanes_set(w[i * KV_PAGE_TOKENS]);
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++) acc[i * nv + j] = lanes_fma(factor, x[j], acc[i * nv + j]);
    }
}

/* nq queries, 16 · nv elements of o from element d of the row on. */
LANES_INLINE void values_tile(float *o, size_t o_stride, const float *rescale, const float *p,
                              const kv_run *v, uint32_t d, uint32_t first, uint32_t last, const int nq,
                              const int nv, const bool paired) {
    const size_t element = paired ? sizeof(uint16_t) : sizeof(float), stride = v->stride * element;
    lanes acc[16];
#pragma GCC unroll 16
    for (int i = 0; i < nq; i++) {
        lanes factor = lanes_set(rescale[i]);
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            acc[i * nv + j] = lanes_mul(lanes_load(o + i * o_stride + d + 16 * j), factor);
    }
    const char *row = (const char *)v->data + first * stride + d * element;
    const uint32_t lines = (uint32_t)((16 * (size_t)nv * element + KV_LINE - 1) / KV_LINE);
    for (uint32_t key = first; key < last; key++, row += stride) {
        if (v->ahead && key % v->ahead->every == 0) fetch_next(v->ahead, lines);
        values_key(acc, row, p + key, nq, nv, paired);
    }
#pragma GCC unroll 16
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++) lanes_store(o + i * o_stride + d + 16 * j, acc[i * nv + j]);
    }
}

LANES_INLINE void values_queries(float *o, size_t o_stride, const float *rescale, const float *p,
                                 const kv_run *v, uint32_t d, uint32_t n, uint32_t first, uint32_t last,
                                 const int nq) {
    const uint32_t wide = 256 / (uint32_t)nq;
    uint32_t end = d + n;
    for (; end - d >= wide; d += wide)
        if (v->paired) values_tile(o, o_stride, rescale, p, v, d, first, last, nq, 16 / nq, true);
        else values_tile(o, o_stride, rescale, p, v, d, first, last, nq, 16 / nq, false);
    for (; d < end; d += v->paired ? 32 : 16)
        if (v->paired) values_tile(o, o_stride, rescale, p, v, d, first, last, nq, 2, true);
        else values_tile(o, o_stride, rescale, p, v, d, first, last, nq, 1, false);
}

/* A strip of 32 elements of all keys lies in the first cache while the eights of queries pass. */
static void vec_values_page(float *o, size_t o_stride, const float *rescale, const float *p, uint32_t queries,
                            const kv_run *v, uint32_t first, uint32_t last) {
    uint32_t eights = queries / 8 * 8, nq;
    kv_run run = *v;
    for (uint32_t d = 0; d < v->count && eights; d += 32) {
        uint32_t n = v->count - d < 32 ? v->count - d : 32;
        run.ahead = v->ahead;
        for (uint32_t t = 0; t < eights; t += 8, run.ahead = NULL) /* the first queries fetch for all */
            values_queries(o + t * o_stride, o_stride, rescale + t, p + (size_t)t * KV_PAGE_TOKENS, &run, d,
                           n, first, last, 8);
    }
    for (uint32_t t = eights; t < queries; t += nq, run.ahead = NULL) {
        uint32_t left = queries - t;
        float *to = o + t * o_stride;
        const float *weights = p + (size_t)t * KV_PAGE_TOKENS;
        nq = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (nq == 4) values_queries(to, o_stride, rescale + t, weights, &run, 0, v->count, first, last, 4);
        else if (nq == 2)
            values_queries(to, o_stride, rescale + t, weights, &run, 0, v->count, first, last, 2);
        else values_queries(to, o_stride, rescale + t, weights, &run, 0, v->count, first, last, 1);
    }
}

static void vec_compose_angles(float *cosine, float *sine, const double *c1, const double *s1,
                               const double *c2, const double *s2, uint32_t n) {
    for (uint32_t i = 0; i < n; i += 8) {
        __mmask8 mask = n - i < 8 ? (__mmask8)((1u << (n - i)) - 1) : 0xFF;
        __m512d a = _mm512_maskz_loadu_pd(mask, c1 + i), b = _mm512_maskz_loadu_pd(mask, s1 + i);
        __m512d c = _mm512_maskz_loadu_pd(mask, c2 + i), d = _mm512_maskz_loadu_pd(mask, s2 + i);
        __m512d x = _mm512_sub_pd(_mm512_mul_pd(a, c), _mm512_mul_pd(b, d));
        __m512d y = _mm512_add_pd(_mm512_mul_pd(b, c), _mm512_mul_pd(a, d));
        _mm256_mask_storeu_ps(cosine + i, mask, _mm512_cvtpd_ps(x));
        _mm256_mask_storeu_ps(sine + i, mask, _mm512_cvtpd_ps(y));
    }
}

#endif
