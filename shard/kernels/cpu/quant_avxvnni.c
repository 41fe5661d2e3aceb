/* AVX-VNNI: the integer dot product on 256-bit registers, for processors without AVX-512. */
#include "shard/kernels/cpu/quant_tables.h"

#if defined(__x86_64__)

#include "shard/kernels/cpu/quant_group8.h"

INLINE void load_group(group_weights *g, const uint8_t *group, weight_type type) {
    load_group_of(g, group, type, 0); /* unsigned */
}

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
    .name = "avxvnni", .quantise = lanes8_quantise, .q8 = product_q8, .q4 = product_q4};

#endif
