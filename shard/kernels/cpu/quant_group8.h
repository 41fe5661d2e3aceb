/* A group's weights of eight rows in 256-bit registers, for quant_avx2.c and quant_avxvnni.c. */
#ifndef SHARD_KERNELS_CPU_QUANT_GROUP8_H
#define SHARD_KERNELS_CPU_QUANT_GROUP8_H

#include <immintrin.h>
#include <string.h>

#include "shard/kernels/weight.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct group_weights {
    __m256i w[8]; /* columns 4v … 4v + 3; Q4: 0 … 15; Q8: as stored, with q8_flip's bits turned */
} group_weights;

INLINE __m256i load_chunk(const uint8_t *at) { return _mm256_load_si256((const __m256i *)(const void *)at); }

INLINE void load_group_of(group_weights *g, const uint8_t *group, weight_type type, char q8_flip) {
    if (type == WEIGHT_Q8) {
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++)
            g->w[v] = _mm256_xor_si256(load_chunk(group + 64 * v), _mm256_set1_epi8(q8_flip));
        return;
    }
    const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        __m256i both = load_chunk(group + 64 * v);
        g->w[v] = _mm256_and_si256(both, low);
        g->w[v + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
}

INLINE __m256i four_columns(const int8_t *values, int chunk) {
    int32_t four;
    memcpy(&four, values + 4 * chunk, sizeof four);
    return _mm256_set1_epi32(four);
}

#endif
