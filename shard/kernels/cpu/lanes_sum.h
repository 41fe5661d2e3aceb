/* The lower half of the sum tree for both vector sets, on 8 lanes that already hold l[j] + l[j+8]: the
 * steps of 4, 2 and 1. */
#ifndef SHARD_KERNELS_CPU_LANES_SUM_H
#define SHARD_KERNELS_CPU_LANES_SUM_H

#include <immintrin.h>

#define LANES_INLINE static inline __attribute__((always_inline))

LANES_INLINE float lanes_sum8(__m256 a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Four trees side by side, each in the order of the one above. In the comment a letter is a sum on its way.
 */
LANES_INLINE __m128 lanes_sum8_of_four(__m256 a, __m256 b, __m256 c, __m256 d) {
    /* aaaa|bbbb, cccc|dddd, then aacc|bbdd, then acac|bdbd */
    __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    __m256 s = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    s = _mm256_add_ps(_mm256_shuffle_ps(s, s, 0x88), _mm256_shuffle_ps(s, s, 0xDD));
    return _mm_unpacklo_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

#endif
