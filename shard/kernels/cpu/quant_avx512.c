/* quant_ref.c with AVX-512 and its integer dot products (VNNI): a register holds the same four columns of a
 * strip's sixteen rows, and a token's four values are broadcast to it. */
#include "shard/kernels/cpu/quant_tables.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "shard/kernels/cpu/quant_avx512.h"

enum {
    TILE_TOKENS = 8,
    MANY_ROWS = 2 * QUANT_ROWS,
    SUMS = 16, /* strips · tokens */
};

#define INLINE static inline __attribute__((always_inline))

/* Eight registers of unsigned weights: columns 4v … 4v + 3 of sixteen rows. */
INLINE void load_group(__m512i w[8], const uint8_t *group, weight_type type) {
    if (type == WEIGHT_Q8) {
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++) w[v] = _mm512_load_si512(group + 64 * v);
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        __m512i both = _mm512_load_si512(group + 64 * v);
        w[v] = _mm512_and_si512(both, low);
        w[v + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
}

INLINE __m512i four_columns(const int8_t *values, int chunk) {
    int32_t four;
    memcpy(&four, values + 4 * chunk, sizeof four);
    return _mm512_set1_epi32(four);
}

INLINE __m512 scales_of(const uint8_t *scales, uint32_t group) {
    return _mm512_cvtph_ps(
        _mm256_load_si256((const __m256i *)(const void *)(scales + (size_t)group * QUANT_SCALE_BYTES)));
}

/* `tokens` tokens of one block against `strips` strips at once, both known to the compiler: memory gives more
 * to a few streams than to one. */
INLINE void strips_tokens(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                          const uint8_t *weights, uint32_t strips, uint32_t rows, uint32_t after,
                          weight_type type, size_t strip_bytes) {
    const uint32_t group_bytes = quant_group_bytes(type), groups = x->groups;
    const size_t ahead = quant_ahead(strips, rows + after, strip_bytes);
    size_t at = quant_place(x, first, 0);
    __m512 sum[SUMS];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < strips * tokens; i++) sum[i] = _mm512_setzero_ps();
    for (uint32_t g = 0; g < groups; g++, at += x->block_rows) {
#pragma GCC unroll 4
        for (uint32_t s = 0; s < strips; s++) {
            const uint8_t *strip = weights + s * strip_bytes, *group = strip + (size_t)g * group_bytes;
            __m512i w[8];
            load_group(w, group, type);
            for (uint32_t line = 0; line < group_bytes; line += 64)
                _mm_prefetch((const char *)group + ahead + line, _MM_HINT_T1);
            __m512 scale = scales_of(strip + (size_t)groups * group_bytes, g);
            const int8_t *values = x->values + at * QUANT_GROUP;
#pragma GCC unroll 8
            for (uint32_t t = 0; t < tokens; t++, values += QUANT_GROUP) {
                __m512i a = _mm512_set1_epi32(x->bias[at + t]), b = _mm512_setzero_si512();
                if (type == WEIGHT_Q8) a = _mm512_slli_epi32(a, 4); /* stored with 128 more, not 8 */
                /* One token waits for its chain of sums, unless it is two; several hide each other's. */
                __m512i *half = tokens < 4 ? &b : &a;
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++) {
                    a = _mm512_dpbusd_epi32(a, w[v], four_columns(values, v));
                    *half = _mm512_dpbusd_epi32(*half, w[v + 4], four_columns(values, v + 4));
                }
                __m512 dot = _mm512_cvtepi32_ps(tokens < 4 ? _mm512_add_epi32(a, b) : a);
                __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x->scale[at + t]));
                sum[s * tokens + t] = _mm512_fmadd_ps(dot, factor, sum[s * tokens + t]);
            }
        }
    }
#pragma GCC unroll 4
    for (uint32_t s = 0; s < strips; s++) {
        uint32_t left = rows - s * QUANT_ROWS;
        __mmask16 mask = left >= QUANT_ROWS ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < tokens; t++)
            _mm512_mask_storeu_ps(y + t * y_stride + s * QUANT_ROWS, mask, sum[s * tokens + t]);
    }
}

#define CASE_TOKENS(n, together)                                                                             \
    case n:                                                                                                  \
        for (; left > (together - 1) * QUANT_ROWS;                                                           \
             left -= left < (uint32_t)together * QUANT_ROWS ? left : together * QUANT_ROWS) {                \
            strips_tokens(to + rows - left, y_stride, x, t, n, strip, together, left, after, type,           \
                          strip_bytes);                                                                      \
            strip += together * strip_bytes;                                                                 \
        }                                                                                                    \
        for (; left > 0; left -= left < QUANT_ROWS ? left : QUANT_ROWS, strip += strip_bytes)                \
            strips_tokens(to + rows - left, y_stride, x, t, n, strip, 1, left, after, type, strip_bytes);    \
        break

/* Up to eight tokens against all rows. */
INLINE void tile_tokens(float *to, size_t y_stride, const quant_input *x, uint32_t t, uint32_t tokens,
                        const uint8_t *strip, uint32_t rows, uint32_t after, uint32_t cols,
                        weight_type type) {
    size_t strip_bytes = quant_strip_bytes(type, cols);
    uint32_t left = rows;
    switch (tokens) {
        CASE_TOKENS(1, 4);
        CASE_TOKENS(2, 4);
        CASE_TOKENS(3, 4);
        CASE_TOKENS(4, 4);
        CASE_TOKENS(5, 2);
        CASE_TOKENS(6, 2);
        CASE_TOKENS(7, 2);
        CASE_TOKENS(8, 2);
    }
}

#include "shard/kernels/cpu/quant_product.h"

const quant_kernels quant_kernels_table_avx512 = {
    .name = "avx512", .quantise = avx512_quantise, .q8 = product_q8, .q4 = product_q4};

#endif
