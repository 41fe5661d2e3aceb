/* quant_ref.c with AVX-512 and its integer dot products (VNNI): a register holds the same four columns of a
 * strip's sixteen rows, and a token's four values are broadcast to it. */
#include "shard/kernels/cpu/quant_tables.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "shard/kernels/cpu/quant_avx512.h"

enum { TILE_TOKENS = 8, AHEAD = 4096 /* bytes of weights asked for in advance: memory is far */ };

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

/* `tokens` tokens of one block, which the compiler knows the number of, against one strip. */
INLINE void strip_tokens(__m512 *sum, const quant_input *x, uint32_t first, uint32_t tokens,
                         const uint8_t *strip, weight_type type) {
    const uint32_t group_bytes = quant_group_bytes(type), groups = x->groups;
    const uint8_t *scales = strip + (size_t)groups * group_bytes;
    size_t at = quant_place(x, first, 0);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tokens; t++) sum[t] = _mm512_setzero_ps();
    for (uint32_t g = 0; g < groups; g++, at += x->block_rows, strip += group_bytes) {
        __m512i w[8];
        load_group(w, strip, type);
        if (tokens <= 4)
            for (uint32_t line = 0; line < group_bytes; line += 64)
                _mm_prefetch((const char *)strip + AHEAD + line, _MM_HINT_T0);
        __m512 scale = scales_of(scales, g);
        const int8_t *values = x->values + at * QUANT_GROUP;
#pragma GCC unroll 8
        for (uint32_t t = 0; t < tokens; t++, values += QUANT_GROUP) {
            __m512i a = _mm512_set1_epi32(x->bias[at + t]), b = _mm512_setzero_si512();
            if (type == WEIGHT_Q8) a = _mm512_slli_epi32(a, 4); /* stored with 128 more, not 8 */
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                a = _mm512_dpbusd_epi32(a, w[v], four_columns(values, v));
                b = _mm512_dpbusd_epi32(b, w[v + 4], four_columns(values, v + 4));
            }
            __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
            sum[t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, _mm512_set1_ps(x->scale[at + t])), sum[t]);
        }
    }
}

INLINE void store_tokens(float *y, size_t y_stride, const __m512 *sum, uint32_t tokens, uint32_t rows) {
    __mmask16 mask = rows >= QUANT_ROWS ? (__mmask16)0xFFFF : (__mmask16)((1u << rows) - 1);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < tokens; t++) _mm512_mask_storeu_ps(y + t * y_stride, mask, sum[t]);
}

#define CASE_TOKENS(n)                                                                                       \
    case n:                                                                                                  \
        strip_tokens(sum, x, t, n, strip, type);                                                             \
        store_tokens(y + t * y_stride + r, y_stride, sum, n, rows - r);                                      \
        break

INLINE void product(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                    const void *weights, uint32_t rows, uint32_t cols, weight_type type) {
    size_t strip_bytes = quant_strip_bytes(type, cols);
    for (uint32_t r = 0; r < rows; r += QUANT_ROWS) {
        const uint8_t *strip = (const uint8_t *)weights + r / QUANT_ROWS * strip_bytes;
        for (uint32_t t = first; t < first + tokens;) {
            __m512 sum[TILE_TOKENS];
            uint32_t n = first + tokens - t < TILE_TOKENS ? first + tokens - t : TILE_TOKENS;
            switch (n) {
                CASE_TOKENS(1);
                CASE_TOKENS(2);
                CASE_TOKENS(3);
                CASE_TOKENS(4);
                CASE_TOKENS(5);
                CASE_TOKENS(6);
                CASE_TOKENS(7);
                CASE_TOKENS(8);
            }
            t += n;
        }
    }
}

static void avx512_q8(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                      const void *weights, uint32_t rows, uint32_t cols) {
    product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q8);
}

static void avx512_q4(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                      const void *weights, uint32_t rows, uint32_t cols) {
    product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q4);
}

const quant_kernels quant_kernels_table_avx512 = {
    .name = "avx512", .quantise = avx512_quantise, .q8 = avx512_q8, .q4 = avx512_q4};

#endif
