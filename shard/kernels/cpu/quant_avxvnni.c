/* AVX-VNNI: the integer dot product on 256-bit registers, for processors without AVX-512. */
#include "shard/kernels/cpu/quant_tables.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef struct group_weights {
    __m256i w[8]; /* unsigned, with their offset */
} group_weights;

INLINE __m256i load_chunk(const uint8_t *at) { return _mm256_load_si256((const __m256i *)(const void *)at); }

INLINE void load_group(group_weights *g, const uint8_t *group, weight_type type) {
    if (type == WEIGHT_Q8) {
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++) g->w[v] = load_chunk(group + 64 * v);
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

INLINE __m256i four_columns(const int8_t *values, int chunk);

INLINE __m256i group_dot(const group_weights *g, const int8_t *values, int32_t bias, weight_type type) {
    __m256i a = _mm256_set1_epi32(bias), b = _mm256_setzero_si256();
    if (type == WEIGHT_Q8) a = _mm256_slli_epi32(a, 4); /* stored with 128 more, not 8 */
#pragma GCC unroll 4
    for (int v = 0; v < 8; v += 2) {
        a = _mm256_dpbusd_avx_epi32(a, g->w[v], four_columns(values, v));
        b = _mm256_dpbusd_avx_epi32(b, g->w[v + 1], four_columns(values, v + 1));
    }
    return _mm256_add_epi32(a, b);
}

#include "shard/kernels/cpu/quant_lanes8.h"

const quant_kernels quant_kernels_table_avxvnni = {
    .name = "avxvnni", .quantise = lanes8_quantise, .q8 = lanes8_q8, .q4 = lanes8_q4};

#endif
