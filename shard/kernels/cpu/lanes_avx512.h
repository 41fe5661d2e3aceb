/* Sixteen floats as one AVX-512 register: the functions of lanes_avx2.h, in its order and with its comments'
 * contracts. Included by kernels_avx512.c alone, which has the flags.
 *
 * Memory:  none.
 * Threads: any. */
#ifndef SHARD_KERNELS_CPU_LANES_AVX512_H
#define SHARD_KERNELS_CPU_LANES_AVX512_H

#include <stdint.h>
#include <string.h>

#include "shard/kernels/cpu/lanes_sum.h"

typedef __m512 lanes;

LANES_INLINE __mmask16 lanes_mask(uint32_t n) { return (__mmask16)((1u << n) - 1); }

LANES_INLINE lanes lanes_set(float x) { return _mm512_set1_ps(x); }
LANES_INLINE lanes lanes_load(const float *p) { return _mm512_loadu_ps(p); }
LANES_INLINE void lanes_store(float *p, lanes a) { _mm512_storeu_ps(p, a); }

LANES_INLINE lanes lanes_load_part(const float *p, uint32_t n) {
    return _mm512_maskz_loadu_ps(lanes_mask(n), p);
}
LANES_INLINE void lanes_store_part(float *p, lanes a, uint32_t n) {
    _mm512_mask_storeu_ps(p, lanes_mask(n), a);
}

LANES_INLINE lanes lanes_widen_bf16(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
LANES_INLINE lanes lanes_load_bf16(const uint16_t *p) {
    return lanes_widen_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
LANES_INLINE lanes lanes_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
LANES_INLINE lanes lanes_load_bf16_part(const uint16_t *p, uint32_t n) {
    return lanes_widen_bf16(_mm256_maskz_loadu_epi16(lanes_mask(n), p));
}
LANES_INLINE lanes lanes_load_f16_part(const uint16_t *p, uint32_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_mask(n), p));
}

LANES_INLINE lanes lanes_load_i8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
LANES_INLINE void lanes_store_i8(int8_t *p, lanes a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}

LANES_INLINE lanes lanes_add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
LANES_INLINE lanes lanes_sub(lanes a, lanes b) { return _mm512_sub_ps(a, b); }
LANES_INLINE lanes lanes_mul(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
LANES_INLINE lanes lanes_div(lanes a, lanes b) { return _mm512_div_ps(a, b); }
LANES_INLINE lanes lanes_fma(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }
LANES_INLINE lanes lanes_max(lanes a, lanes b) { return _mm512_max_ps(a, b); }
LANES_INLINE lanes lanes_min(lanes a, lanes b) { return _mm512_min_ps(a, b); }

LANES_INLINE lanes lanes_abs(lanes a) {
    __m512i sign = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(_mm512_andnot_si512(sign, _mm512_castps_si512(a)));
}
LANES_INLINE lanes lanes_with_sign(lanes a, lanes s) {
    __m512i sign = _mm512_and_si512(_mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(s));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), sign));
}
LANES_INLINE lanes lanes_where_less(lanes a, lanes b, lanes x, lanes y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
LANES_INLINE lanes lanes_first(uint32_t n, lanes a, lanes b) {
    return _mm512_mask_blend_ps(lanes_mask(n), b, a);
}

LANES_INLINE lanes lanes_times_power(lanes p, lanes shifted, lanes shift) {
    __m512i bias = _mm512_set1_epi32(127);
    __m512i k = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(shift));
    __m512i half = _mm512_srai_epi32(k, 1);
    __m512i first = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
    __m512i second = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(k, half), bias), 23);
    return _mm512_mul_ps(_mm512_mul_ps(p, _mm512_castsi512_ps(first)), _mm512_castsi512_ps(second));
}

LANES_INLINE __m256 lanes_fold(lanes a) { /* l[j] + l[j+8] */
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
LANES_INLINE float lanes_sum(lanes a) { return lanes_sum8(lanes_fold(a)); }
LANES_INLINE __m128 lanes_sum_of_four(lanes a, lanes b, lanes c, lanes d) {
    return lanes_sum8_of_four(lanes_fold(a), lanes_fold(b), lanes_fold(c), lanes_fold(d));
}
LANES_INLINE float lanes_largest(lanes a) {
    __m256 m = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

LANES_INLINE void lanes_store_bf16(uint16_t *p, lanes a) {
    __m512i u = _mm512_castps_si512(a), high = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
    __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    __m512i rounded = _mm512_mask_blend_epi32(is_nan, _mm512_srli_epi32(up, 16), quiet);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(rounded));
}

#endif
