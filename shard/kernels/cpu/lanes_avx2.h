/* Sixteen floats as two AVX2 registers. The vector kernels (*_lanes.h) are written once on these functions;
 * lanes_avx512.h gives the same ones on one register. Included by kernels_avx2.c alone, which has the flags.
 *
 * n counts lanes from the first, 0 … 16; the *_part forms touch no memory past the n-th element.
 *
 * Memory:  none.
 * Threads: any. */
#ifndef SHARD_KERNELS_CPU_LANES_AVX2_H
#define SHARD_KERNELS_CPU_LANES_AVX2_H

#include <stdint.h>
#include <string.h>

#include "shard/kernels/cpu/lanes_sum.h"

typedef struct lanes {
    __m256 lo, hi; /* lanes 0-7 and 8-15 */
} lanes;

/* Ones in the first n of 8 lanes from position 8 - n. */
static const int32_t lanes_mask_row[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

LANES_INLINE __m256i lanes_mask_lo(uint32_t n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(lanes_mask_row + 8 - (n < 8 ? n : 8)));
}
LANES_INLINE __m256i lanes_mask_hi(uint32_t n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(lanes_mask_row + 8 - (n > 8 ? n - 8 : 0)));
}

LANES_INLINE lanes lanes_set(float x) { return (lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
LANES_INLINE lanes lanes_load(const float *p) { return (lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
LANES_INLINE void lanes_store(float *p, lanes a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

/* The other lanes are +0. A masked load does not fault on what it leaves out, but p + 8 of a short row may
 * not even be formed: hence the branch. */
LANES_INLINE lanes lanes_load_part(const float *p, uint32_t n) {
    __m256 hi = n > 8 ? _mm256_maskload_ps(p + 8, lanes_mask_hi(n)) : _mm256_setzero_ps();
    return (lanes){_mm256_maskload_ps(p, lanes_mask_lo(n)), hi};
}
LANES_INLINE void lanes_store_part(float *p, lanes a, uint32_t n) {
    _mm256_maskstore_ps(p, lanes_mask_lo(n), a.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, lanes_mask_hi(n), a.hi);
}

LANES_INLINE __m256 lanes_widen_bf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
LANES_INLINE lanes lanes_load_bf16(const uint16_t *p) {
    return (lanes){lanes_widen_bf16(_mm_loadu_si128((const __m128i *)(const void *)p)),
                   lanes_widen_bf16(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}
LANES_INLINE lanes lanes_load_f16(const uint16_t *p) {
    return (lanes){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}
LANES_INLINE lanes lanes_load_bf16_part(const uint16_t *p, uint32_t n) {
    uint16_t copy[16] = {0};
    memcpy(copy, p, n * sizeof *p);
    return lanes_load_bf16(copy);
}
LANES_INLINE lanes lanes_load_f16_part(const uint16_t *p, uint32_t n) {
    uint16_t copy[16] = {0};
    memcpy(copy, p, n * sizeof *p);
    return lanes_load_f16(copy);
}

LANES_INLINE lanes lanes_load_i8(const int8_t *p) {
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    return (lanes){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                   _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}
/* Rounded to even. */
LANES_INLINE void lanes_store_i8(int8_t *p, lanes a) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xD8);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packs_epi16(_mm256_castsi256_si128(words),
                                                          _mm256_extracti128_si256(words, 1)));
}

LANES_INLINE lanes lanes_add(lanes a, lanes b) {
    return (lanes){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
LANES_INLINE lanes lanes_sub(lanes a, lanes b) {
    return (lanes){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
LANES_INLINE lanes lanes_mul(lanes a, lanes b) {
    return (lanes){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
LANES_INLINE lanes lanes_div(lanes a, lanes b) {
    return (lanes){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
/* a · b + c, rounded once */
LANES_INLINE lanes lanes_fma(lanes a, lanes b, lanes c) {
    return (lanes){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
/* b where either is NaN or both are zeros: ref_max and ref_min. */
LANES_INLINE lanes lanes_max(lanes a, lanes b) {
    return (lanes){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
LANES_INLINE lanes lanes_min(lanes a, lanes b) {
    return (lanes){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

LANES_INLINE lanes lanes_abs(lanes a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (lanes){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
/* a with the sign bit of s; a's own is clear. */
LANES_INLINE lanes lanes_with_sign(lanes a, lanes s) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (lanes){_mm256_or_ps(a.lo, _mm256_and_ps(sign, s.lo)),
                   _mm256_or_ps(a.hi, _mm256_and_ps(sign, s.hi))};
}
/* a < b ? x : y in each lane */
LANES_INLINE lanes lanes_where_less(lanes a, lanes b, lanes x, lanes y) {
    return (lanes){_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                   _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
/* The first n lanes of a, the others of b */
LANES_INLINE lanes lanes_first(uint32_t n, lanes a, lanes b) {
    return (lanes){_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lanes_mask_lo(n))),
                   _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(lanes_mask_hi(n)))};
}

/* p · 2^k as two factors, k the integer that `shifted` holds above `shift` (ref_exp). */
LANES_INLINE __m256 lanes_times_power8(__m256 p, __m256 shifted, __m256 shift) {
    __m256i bias = _mm256_set1_epi32(127);
    __m256i k = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(shift));
    __m256i half = _mm256_srai_epi32(k, 1);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
LANES_INLINE lanes lanes_times_power(lanes p, lanes shifted, lanes shift) {
    return (lanes){lanes_times_power8(p.lo, shifted.lo, shift.lo),
                   lanes_times_power8(p.hi, shifted.hi, shift.hi)};
}

LANES_INLINE float lanes_sum(lanes a) { return lanes_sum8(_mm256_add_ps(a.lo, a.hi)); }
LANES_INLINE __m128 lanes_sum_of_four(lanes a, lanes b, lanes c, lanes d) {
    return lanes_sum8_of_four(_mm256_add_ps(a.lo, a.hi), _mm256_add_ps(b.lo, b.hi), _mm256_add_ps(c.lo, c.hi),
                              _mm256_add_ps(d.lo, d.hi));
}
/* The order of a maximum is free, but for which of two zeros it is. */
LANES_INLINE float lanes_largest(lanes a) {
    __m256 m = _mm256_max_ps(a.lo, a.hi);
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* 32-bit lanes that hold the rounded upper half in their lower 16 bits (ref_bf16_from_f32). */
LANES_INLINE __m256i lanes_round_bf16(__m256 x) {
    __m256i u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, is_nan);
}
LANES_INLINE void lanes_store_bf16(uint16_t *p, lanes a) {
    __m256i packed =
        _mm256_packus_epi32(lanes_round_bf16(a.lo), lanes_round_bf16(a.hi)); /* 0-3 8-11 | 4-7 12-15 */
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(packed, 0xD8));
}

#endif
