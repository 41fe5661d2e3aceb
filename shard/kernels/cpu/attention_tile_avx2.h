/* Register tiles of attention with 16 registers: 12 sums of queries × keys, or of queries × registers of o. Of the 16
 * lanes of a score, eight are summed over the whole key and then the other eight, for want of registers: no sum sees the
 * difference. Included by kernels_avx2.c alone. */
#ifndef SHARD_KERNELS_CPU_ATTENTION_TILE_AVX2_H
#define SHARD_KERNELS_CPU_ATTENTION_TILE_AVX2_H

#include "shard/kernels/cpu/cpu_kernels.h"

/* 16 paired bf16: eight elements, and the eight that stand 16 further on. */
LANES_INLINE void pair_load8(const uint16_t *p, __m256 *low, __m256 *high) {
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)p);
    *low = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    *high = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int32_t)0xFFFF0000u)));
}

LANES_INLINE void pair_load(const uint16_t *p, lanes *low, lanes *high) {
    pair_load8(p, &low->lo, &high->lo);
    pair_load8(p + 16, &low->hi, &high->hi);
}

#include "shard/kernels/cpu/attention_fetch.h"

/* As tile_load of matmul_tile_avx2.h: a load that gcc does not repeat in each multiply-add that uses it. */
LANES_INLINE __m256 once_load8(const float *p) {
    return _mm256_castsi256_ps(_mm256_lddqu_si256((const __m256i *)(const void *)p));
}

/* Lanes 8 · half … 8 · half + 7 of nq queries against nk keys. */
LANES_INLINE void scores_half(__m256 *acc, const float *q, size_t q_stride, const kv_run *runs,
                              uint32_t n_runs, uint32_t key, uint32_t half, const int nq, const int nk) {
#pragma GCC unroll 16
    for (int i = 0; i < nq * nk; i++) acc[i] = _mm256_setzero_ps();
    q += 8 * half;
    for (uint32_t r = 0; r < n_runs; r++) {
        size_t stride = runs[r].stride;
        if (runs[r].paired) {
            const uint16_t *x = (const uint16_t *)runs[r].data + key * stride + 16 * half;
            for (uint32_t c = 0; c < runs[r].count; c += 32) {
                if (half) fetch_next(runs[r].ahead, (uint32_t)nk);
                __m256 a[3], b[3];
#pragma GCC unroll 16
                for (int i = 0; i < nq; i++) a[i] = once_load8(q + i * q_stride + c);
#pragma GCC unroll 16
                for (int j = 0; j < nk; j++) {
                    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)(x + j * stride + c));
                    __m256 low = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
#pragma GCC unroll 16
                    for (int i = 0; i < nq; i++)
                        acc[i * nk + j] = _mm256_fmadd_ps(a[i], low, acc[i * nk + j]);
                }
#pragma GCC unroll 16
                for (int i = 0; i < nq; i++) b[i] = once_load8(q + i * q_stride + c + 16);
#pragma GCC unroll 16
                for (int j = 0; j < nk; j++) {
                    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)(x + j * stride + c));
                    __m256 high =
                        _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int32_t)0xFFFF0000u)));
#pragma GCC unroll 16
                    for (int i = 0; i < nq; i++)
                        acc[i * nk + j] = _mm256_fmadd_ps(b[i], high, acc[i * nk + j]);
                }
            }
        } else {
            const float *x = (const float *)runs[r].data + key * stride + 8 * half;
            for (uint32_t c = 0; c < runs[r].count; c += 16) {
                if (half) fetch_next(runs[r].ahead, (uint32_t)nk);
                __m256 a[3];
#pragma GCC unroll 16
                for (int i = 0; i < nq; i++) a[i] = once_load8(q + i * q_stride + c);
#pragma GCC unroll 16
                for (int j = 0; j < nk; j++) {
                    __m256 b = once_load8(x + j * stride + c);
#pragma GCC unroll 16
                    for (int i = 0; i < nq; i++) acc[i * nk + j] = _mm256_fmadd_ps(a[i], b, acc[i * nk + j]);
                }
            }
        }
        q += runs[r].count;
    }
}

LANES_INLINE void scores_tile(float *scores, const float *q, size_t q_stride, const kv_run *runs,
                              uint32_t n_runs, uint32_t key, const int nq, const int nk) {
    __m256 acc[12], upper[12];
    scores_half(upper, q, q_stride, runs, n_runs, key, 1, nq, nk);
    float kept[12][8];
#pragma GCC unroll 16
    for (int i = 0; i < nq * nk; i++) _mm256_storeu_ps(kept[i], upper[i]);
    __asm__("" ::: "memory"); /* the upper sums wait in memory while the lower ones have the registers */
    scores_half(acc, q, q_stride, runs, n_runs, key, 0, nq, nk);
#pragma GCC unroll 16
    for (int i = 0; i < nq * nk; i++) acc[i] = _mm256_add_ps(acc[i], _mm256_loadu_ps(kept[i]));
#pragma GCC unroll 16
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < nk; j += 4) {
            const __m256 *a = acc + i * nk + j;
            _mm_storeu_ps(scores + (size_t)i * KV_PAGE_TOKENS + key + j,
                          lanes_sum8_of_four(a[0], a[1], a[2], a[3]));
        }
    }
}

LANES_INLINE void scores_queries(float *scores, const float *q, size_t q_stride, const kv_run *runs,
                                 uint32_t n_runs, uint32_t first, uint32_t last, const int nq, const int nk) {
    for (uint32_t key = first / (uint32_t)nk * (uint32_t)nk; key < last; key += (uint32_t)nk)
        scores_tile(scores, q, q_stride, runs, n_runs, key, nq, nk);
}

static void vec_scores_page(float *scores, const float *q, size_t q_stride, uint32_t queries,
                            const kv_run *runs, uint32_t n_runs, uint32_t first, uint32_t last) {
    uint32_t nq;
    for (uint32_t t = 0; t < queries; t += nq, q += nq * q_stride, scores += (size_t)nq * KV_PAGE_TOKENS) {
        uint32_t left = queries - t;
        nq = left >= 3 && left != 4 ? 3 : left >= 2 ? 2 : 1;
        if (nq == 3) scores_queries(scores, q, q_stride, runs, n_runs, first, last, 3, 4);
        else if (nq == 2) scores_queries(scores, q, q_stride, runs, n_runs, first, last, 2, 4);
        else scores_queries(scores, q, q_stride, runs, n_runs, first, last, 1, 8);
    }
}

/* Where register j of a strip of o begins: a paired load gives elements 0 and 16, the next one 8 and 24. */
LANES_INLINE uint32_t strip_at(int j, bool paired) {
    return paired ? 32 * (uint32_t)(j / 4) + 16 * (uint32_t)(j % 2) + 8 * (uint32_t)(j % 4 / 2)
                  : 8 * (uint32_t)j;
}

/* nq queries, 8 · nv elements of o from element d of the row on. */
LANES_INLINE void values_tile(float *o, size_t o_stride, const float *rescale, const float *p,
                              const kv_run *v, uint32_t d, uint32_t first, uint32_t last, const int nq,
                              const int nv, const bool paired) {
    __m256 acc[12];
#pragma GCC unroll 16
    for (int i = 0; i < nq; i++) {
        __m256 factor = _mm256_set1_ps(rescale[i]);
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            acc[i * nv + j] =
                _mm256_mul_ps(_mm256_loadu_ps(o + i * o_stride + d + strip_at(j, paired)), factor);
    }
    for (uint32_t key = first; key < last; key++) {
        if (v->ahead && key % v->ahead->every == 0)
            fetch_next(v->ahead, (uint32_t)nv * (paired ? 4 : 8) * 4 / KV_LINE);
        __m256 factor[3];
#pragma GCC unroll 16
        for (int i = 0; i < nq; i++) factor[i] = _mm256_broadcast_ss(p + i * KV_PAGE_TOKENS + key);
        if (paired) {
            const uint16_t *row = (const uint16_t *)v->data + key * v->stride + d;
#pragma GCC unroll 16
            for (int j = 0; j < nv; j += 2) {
                __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)(row + 8 * j));
                __m256 x = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
#pragma GCC unroll 16
                for (int i = 0; i < nq; i++) acc[i * nv + j] = _mm256_fmadd_ps(factor[i], x, acc[i * nv + j]);
                x = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32((int32_t)0xFFFF0000u)));
#pragma GCC unroll 16
                for (int i = 0; i < nq; i++)
                    acc[i * nv + j + 1] = _mm256_fmadd_ps(factor[i], x, acc[i * nv + j + 1]);
            }
        } else {
            const float *row = (const float *)v->data + key * v->stride + d;
#pragma GCC unroll 16
            for (int j = 0; j < nv; j++) {
                __m256 x = once_load8(row + 8 * j);
#pragma GCC unroll 16
                for (int i = 0; i < nq; i++) acc[i * nv + j] = _mm256_fmadd_ps(factor[i], x, acc[i * nv + j]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < nq; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < nv; j++)
            _mm256_storeu_ps(o + i * o_stride + d + strip_at(j, paired), acc[i * nv + j]);
    }
}

/* n elements from d on, a multiple of 32 but for the end of a float row. */
LANES_INLINE void values_queries(float *o, size_t o_stride, const float *rescale, const float *p,
                                 const kv_run *v, uint32_t d, uint32_t n, uint32_t first, uint32_t last,
                                 const int nq) {
    uint32_t end = d + n;
    for (; end - d >= 32; d += 32)
        if (v->paired) values_tile(o, o_stride, rescale, p, v, d, first, last, nq, 4, true);
        else values_tile(o, o_stride, rescale, p, v, d, first, last, nq, 4, false);
    if (d < end) values_tile(o, o_stride, rescale, p, v, d, first, last, nq, 2, false);
}

/* A strip of 32 elements of all keys lies in the first cache while the queries pass. */
static void vec_values_page(float *o, size_t o_stride, const float *rescale, const float *p, uint32_t queries,
                            const kv_run *v, uint32_t first, uint32_t last) {
    for (uint32_t d = 0; d < v->count; d += 32) {
        uint32_t n = v->count - d < 32 ? v->count - d : 32, nq;
        kv_run run = *v;
        for (uint32_t t = 0; t < queries; t += nq, run.ahead = NULL) { /* the first queries fetch for all */
            uint32_t left = queries - t;
            float *to = o + t * o_stride;
            const float *weights = p + (size_t)t * KV_PAGE_TOKENS;
            nq = left >= 3 && left != 4 ? 3 : left >= 2 ? 2 : 1;
            if (nq == 3) values_queries(to, o_stride, rescale + t, weights, &run, d, n, first, last, 3);
            else if (nq == 2) values_queries(to, o_stride, rescale + t, weights, &run, d, n, first, last, 2);
            else values_queries(to, o_stride, rescale + t, weights, &run, d, n, first, last, 1);
        }
    }
}

static void vec_compose_angles(float *cosine, float *sine, const double *c1, const double *s1,
                               const double *c2, const double *s2, uint32_t n) {
    uint32_t i = 0;
    for (; n - i >= 4; i += 4) {
        __m256d a = _mm256_loadu_pd(c1 + i), b = _mm256_loadu_pd(s1 + i);
        __m256d c = _mm256_loadu_pd(c2 + i), d = _mm256_loadu_pd(s2 + i);
        __m256d x = _mm256_sub_pd(_mm256_mul_pd(a, c), _mm256_mul_pd(b, d));
        __m256d y = _mm256_add_pd(_mm256_mul_pd(b, c), _mm256_mul_pd(a, d));
        _mm_storeu_ps(cosine + i, _mm256_cvtpd_ps(x));
        _mm_storeu_ps(sine + i, _mm256_cvtpd_ps(y));
    }
    for (; i < n; i++) {
        cosine[i] = (float)(c1[i] * c2[i] - s1[i] * s2[i]);
        sine[i] = (float)(s1[i] * c2[i] + c1[i] * s2[i]);
    }
}

#endif
