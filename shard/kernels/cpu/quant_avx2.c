/* AVX2 has no dot product of bytes. Its multiply-add of unsigned with signed bytes leaves int16 pairs:
 * with Q4, eight pairs of 15 · 127 · 2 still fit into one (30480), so a group needs one widening; with Q8 each
 * pair is widened, and signs move from the weight to the activation. */
#include "shard/kernels/cpu/quant_tables.h"

#if defined(__x86_64__)

#include "shard/kernels/cpu/quant_group8.h"

INLINE void load_group(group_weights *g, const uint8_t *group, weight_type type) {
    load_group_of(g, group, type, (char)-128); /* signed */
}

INLINE __m256i group_dot(const group_weights *g, const int8_t *values, int32_t bias, weight_type type) {
    const __m256i ones = _mm256_set1_epi16(1);
    if (type == WEIGHT_Q8) {
        __m256i dot = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++) {
            __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(g->w[v]),
                                                 _mm256_sign_epi8(four_columns(values, v), g->w[v]));
            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
        }
        return dot;
    }
    __m256i a = _mm256_maddubs_epi16(g->w[0], four_columns(values, 0));
    __m256i b = _mm256_maddubs_epi16(g->w[1], four_columns(values, 1));
#pragma GCC unroll 3
    for (int v = 2; v < 8; v += 2) {
        a = _mm256_add_epi16(a, _mm256_maddubs_epi16(g->w[v], four_columns(values, v)));
        b = _mm256_add_epi16(b, _mm256_maddubs_epi16(g->w[v + 1], four_columns(values, v + 1)));
    }
    return _mm256_add_epi32(_mm256_madd_epi16(_mm256_add_epi16(a, b), ones), _mm256_set1_epi32(bias));
}

#include "shard/kernels/cpu/quant_lanes8.h"

const quant_kernels quant_kernels_table_avx2 = {
    .name = "avx2", .quantise = lanes8_quantise, .q8 = product_q8, .q4 = product_q4};

#endif
