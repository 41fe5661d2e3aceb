#include "base/sha256_blocks.h"

#ifdef __x86_64__
#include <immintrin.h>

/* The instructions want the state as (a, b, e, f) and (c, d, g, h), first letter highest; they do two rounds each, and
 * words of four rounds travel in one register. */
void sha256_blocks_shani(uint32_t state[8], const uint8_t *blocks, size_t n) {
    const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    const __m128i *constants = (const __m128i *)(const void *)sha256_constants;
    __m128i abef = _mm_set_epi32((int)state[0], (int)state[1], (int)state[4], (int)state[5]);
    __m128i cdgh = _mm_set_epi32((int)state[2], (int)state[3], (int)state[6], (int)state[7]);
    for (; n > 0; n--, blocks += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (i < 4) {
                w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)blocks + i), swap);
            } else { /* w[t] = w[t - 16] + s0(w[t - 15]) + w[t - 7] + s1(w[t - 2]), four at a time */
                __m128i sum = _mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]);
                sum = _mm_add_epi32(sum, _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4));
                w[i % 4] = _mm_sha256msg2_epu32(sum, w[(i + 3) % 4]);
            }
            __m128i wk = _mm_add_epi32(w[i % 4], _mm_loadu_si128(constants + i));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    uint32_t high[4], low[4];
    _mm_storeu_si128((__m128i *)(void *)high, abef);
    _mm_storeu_si128((__m128i *)(void *)low, cdgh);
    state[0] = high[3], state[1] = high[2], state[4] = high[1], state[5] = high[0];
    state[2] = low[3], state[3] = low[2], state[6] = low[1], state[7] = low[0];
}
#endif
