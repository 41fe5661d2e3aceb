/* quant_ref.c with 256-bit registers, for quant_avx2.c and quant_avxvnni.c, which define how eight rows' dots
 * of one group are made:
 *
 *     load_group                 a group's weights of eight rows (quant_group8.h)
 *     group_dot                  their dots with one token: eight int32
 *
 * A strip's upper eight rows are read beside its lower ones with few tokens, and after them, from the cache, with many. */
#ifndef SHARD_KERNELS_CPU_QUANT_LANES8_H
#define SHARD_KERNELS_CPU_QUANT_LANES8_H

enum { TILE_TOKENS = 4, MANY_ROWS = QUANT_ROWS, SUMS = 8 };

static void lanes8_quantise(const float *x, uint32_t groups, int8_t *values, float *scale, int32_t *bias,
                            size_t stride) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    for (uint32_t g = 0; g < groups; g++, x += QUANT_GROUP) {
        __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8), c = _mm256_loadu_ps(x + 16),
               d = _mm256_loadu_ps(x + 24);
        __m256 m = _mm256_max_ps(_mm256_max_ps(_mm256_andnot_ps(sign, a), _mm256_andnot_ps(sign, b)),
                                 _mm256_max_ps(_mm256_andnot_ps(sign, c), _mm256_andnot_ps(sign, d)));
        __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
        m4 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
        float largest = _mm_cvtss_f32(_mm_max_ss(m4, _mm_movehdup_ps(m4))), inverse = 0;
        if (largest < QUANT_LEAST) largest = 0;
        else inverse = 127.0f / largest;
        __m256 f = _mm256_set1_ps(inverse);
        __m256i qa = _mm256_cvtps_epi32(_mm256_mul_ps(a, f)), qb = _mm256_cvtps_epi32(_mm256_mul_ps(b, f));
        __m256i qc = _mm256_cvtps_epi32(_mm256_mul_ps(c, f)), qd = _mm256_cvtps_epi32(_mm256_mul_ps(d, f));
        __m256i s = _mm256_add_epi32(_mm256_add_epi32(qa, qb), _mm256_add_epi32(qc, qd));
        __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        s4 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0x4E));
        s4 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0xB1));
        /* Packing works in halves of a register: the four-byte pieces come out as a c b d …, and are put back. */
        __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(qa, qb), _mm256_packs_epi32(qc, qd));
        packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)(values + g * QUANT_GROUP * stride), packed);
        scale[g * stride] = largest / 127.0f;
        bias[g * stride] = -8 * _mm_cvtsi128_si32(s4);
    }
}

/* `tokens` tokens of one block against `units` halves of strips, both known to the compiler. Few tokens take
 * eight units: memory gives more to four streams than to one. */
INLINE void units_tokens(__m256 *sum, const quant_input *x, uint32_t first, uint32_t tokens,
                         const uint8_t *strip, uint32_t half, uint32_t units, uint32_t rows, uint32_t after,
                         weight_type type, size_t strip_bytes) {
    const uint32_t group_bytes = quant_group_bytes(type), groups = x->groups;
    const size_t ahead = quant_ahead((units + 1) / 2, rows + after, strip_bytes);
    size_t at = quant_place(x, first, 0);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < units * tokens; i++) sum[i] = _mm256_setzero_ps();
    for (uint32_t g = 0; g < groups; g++, at += x->block_rows) {
#pragma GCC unroll 8
        for (uint32_t u = 0; u < units; u++) {
            const uint8_t *own = strip + (half + u) / 2 * strip_bytes, *group = own + (size_t)g * group_bytes;
            uint32_t upper = (half + u) % 2;
            group_weights w;
            load_group(&w, group + upper * 32, type);
            if (units > 1 && !upper)
                for (uint32_t line = 0; line < group_bytes; line += 64)
                    _mm_prefetch((const char *)group + ahead + line, _MM_HINT_T0);
            const uint8_t *scales =
                own + (size_t)groups * group_bytes + (size_t)g * QUANT_SCALE_BYTES + upper * 16;
            __m256 scale = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)scales));
            const int8_t *values = x->values + at * QUANT_GROUP;
#pragma GCC unroll 4
            for (uint32_t t = 0; t < tokens; t++, values += QUANT_GROUP) {
                __m256 dot = _mm256_cvtepi32_ps(group_dot(&w, values, x->bias[at + t], type));
                __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(x->scale[at + t]));
                sum[u * tokens + t] = _mm256_fmadd_ps(dot, factor, sum[u * tokens + t]);
            }
        }
    }
}

INLINE void store_eight(float *y, __m256 sum, uint32_t rows) {
    if (rows >= 8) {
        _mm256_storeu_ps(y, sum);
        return;
    }
    float part[8];
    _mm256_storeu_ps(part, sum);
    memcpy(y, part, rows * sizeof *y);
}

#define CASE_TOKENS(n, together)                                                                             \
    case n:                                                                                                  \
        for (; left > 0; left -= left < taken * 8 ? left : taken * 8) {                                      \
            uint32_t done = (rows - left) / 8;                                                               \
            const uint8_t *strip = weights + done / 2 * strip_bytes;                                         \
            __m256 sum[SUMS];                                                                                \
            taken = left > (together - 1) * 8 ? together : 1;                                                \
            if (taken == together)                                                                           \
                units_tokens(sum, x, t, n, strip, done % 2, together, left, after, type, strip_bytes);       \
            else units_tokens(sum, x, t, n, strip, done % 2, 1, left, after, type, strip_bytes);             \
            for (uint32_t i = 0; i < taken * n; i++)                                                         \
                store_eight(to + i % n * y_stride + done * 8 + i / n * 8, sum[i], left - i / n * 8);         \
        }                                                                                                    \
        break

/* Up to four tokens against all rows. */
INLINE void tile_tokens(float *to, size_t y_stride, const quant_input *x, uint32_t t, uint32_t tokens,
                        const uint8_t *weights, uint32_t rows, uint32_t after, uint32_t cols,
                        weight_type type) {
    size_t strip_bytes = quant_strip_bytes(type, cols);
    uint32_t left = rows, taken;
    switch (tokens) {
        CASE_TOKENS(1, 8);
        CASE_TOKENS(2, 4);
        CASE_TOKENS(3, 1);
        CASE_TOKENS(4, 1);
    }
}

#include "shard/kernels/cpu/quant_product.h"

#endif
