/* quant_ref.c with AMX for many tokens: a tile product makes the 16 × 16 integer dots of a strip with a block
 * of tokens for one group, and AVX-512 scales and adds them while the next group's is made. A strip is
 * unpacked to signed bytes once for all tokens of the call. Few tokens go to the AVX-512 variant. */
#include "shard/kernels/cpu/quant_tables.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "shard/kernels/cpu/quant_avx512.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    PANEL_GROUPS = 96, /* of a strip that are unpacked at once: 48 KiB */
    BLOCKS = 16,       /* of tokens whose sums wait between panels: 16 KiB */
    BUFFERS = 4,       /* dots on their way from tiles to vectors */
};

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_a_row[16];
    uint8_t rows[16];
} tile_config;

/* Tiles 0 … 3: dots; 4, 5: activations; 6, 7: weights. Constant, because gcc 12 believes that loading a
 * configuration reads 8 of its bytes, and drops stores to the rest of a local one. */
static const tile_config tiles = {.palette = 1,
                                  .bytes_a_row = {64, 64, 64, 64, QUANT_GROUP, QUANT_GROUP, 64, 64},
                                  .rows = {QUANT_BLOCK, QUANT_BLOCK, QUANT_BLOCK, QUANT_BLOCK, QUANT_BLOCK,
                                           QUANT_BLOCK, QUANT_GROUP / 4, QUANT_GROUP / 4}};

INLINE void unpack(int8_t *panel, const uint8_t *strip, uint32_t groups, weight_type type) {
    const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8), flip = _mm512_set1_epi8(-128);
    for (uint32_t g = 0; g < groups; g++, strip += quant_group_bytes(type), panel += Q8_GROUP_BYTES) {
        if (type == WEIGHT_Q8) {
#pragma GCC unroll 8
            for (int v = 0; v < 8; v++)
                _mm512_store_si512(panel + 64 * v, _mm512_xor_si512(_mm512_load_si512(strip + 64 * v), flip));
            continue;
        }
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
            __m512i both = _mm512_load_si512(strip + 64 * v);
            __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            _mm512_store_si512(panel + 64 * v, _mm512_sub_epi8(_mm512_and_si512(both, low), eight));
            _mm512_store_si512(panel + 64 * (v + 4), _mm512_sub_epi8(high, eight));
        }
    }
}

/* The integer dots of group g, on their way to memory. */
#define TILE_DOTS(g, dot, a, b)                                                                              \
    do {                                                                                                     \
        if ((g) >= groups) break;                                                                            \
        _tile_loadd(a, values + (size_t)(g)*QUANT_BLOCK * QUANT_GROUP, QUANT_GROUP);                         \
        _tile_loadd(b, panel + (size_t)(g)*Q8_GROUP_BYTES, 64);                                              \
        _tile_zero(dot);                                                                                     \
        _tile_dpbssd(dot, a, b);                                                                             \
        _tile_stored(dot, dots[dot], 64);                                                                    \
    } while (0)

INLINE void add_dots(__m512 sum[QUANT_BLOCK], const int32_t dots[QUANT_BLOCK][16], const uint8_t *scales,
                     const float *token_scale) {
    __m512 scale = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)scales));
#pragma GCC unroll 16
    for (int t = 0; t < QUANT_BLOCK; t++)
        sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(dots[t])),
                                 _mm512_mul_ps(scale, _mm512_set1_ps(token_scale[t])), sum[t]);
}

/* The sums of one block of tokens over the panel's groups; sums[t] has the strip's sixteen rows. Vectors work
 * two groups behind the tiles: a product and its way through memory take that long. */
INLINE void block_groups(float sums[QUANT_BLOCK][16], const int8_t *values, const float *token_scale,
                         const int8_t *panel, const uint8_t *scales, uint32_t groups) {
    _Alignas(64) int32_t dots[BUFFERS][QUANT_BLOCK][16];
    __m512 sum[QUANT_BLOCK];
#pragma GCC unroll 16
    for (int t = 0; t < QUANT_BLOCK; t++) sum[t] = _mm512_load_ps(sums[t]);
#define ADD(g)                                                                                               \
    if ((g) < groups)                                                                                        \
    add_dots(sum, (const int32_t(*)[16])dots[(g) % BUFFERS], scales + (size_t)(g)*QUANT_SCALE_BYTES,         \
             token_scale + (size_t)(g)*QUANT_BLOCK)
    TILE_DOTS(0, 0, 4, 6);
    TILE_DOTS(1, 1, 5, 7);
    for (uint32_t g = 0; g < groups; g += BUFFERS) {
        TILE_DOTS(g + 2, 2, 4, 6);
        ADD(g);
        TILE_DOTS(g + 3, 3, 5, 7);
        ADD(g + 1);
        TILE_DOTS(g + 4, 0, 4, 6);
        ADD(g + 2);
        TILE_DOTS(g + 5, 1, 5, 7);
        ADD(g + 3);
    }
#undef ADD
#pragma GCC unroll 16
    for (int t = 0; t < QUANT_BLOCK; t++) _mm512_store_ps(sums[t], sum[t]);
}

/* At most BLOCKS blocks of tokens against one strip. */
INLINE void strip_blocks(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                         const uint8_t *strip, uint32_t rows, weight_type type) {
    _Alignas(64) int8_t panel[PANEL_GROUPS * Q8_GROUP_BYTES];
    _Alignas(64) float sums[BLOCKS][QUANT_BLOCK][16];
    const uint8_t *scales = strip + (size_t)x->groups * quant_group_bytes(type);
    uint32_t blocks = (tokens + QUANT_BLOCK - 1) / QUANT_BLOCK;
    memset(sums, 0, blocks * sizeof *sums);
    for (uint32_t g = 0; g < x->groups; g += PANEL_GROUPS) {
        uint32_t n = x->groups - g < PANEL_GROUPS ? x->groups - g : PANEL_GROUPS;
        unpack(panel, strip + (size_t)g * quant_group_bytes(type), n, type);
        for (uint32_t b = 0; b < blocks; b++) {
            size_t at = quant_place(x, first + b * QUANT_BLOCK, g);
            block_groups(sums[b], x->values + at * QUANT_GROUP, x->scale + at, panel,
                         scales + (size_t)g * QUANT_SCALE_BYTES, n);
        }
    }
    __mmask16 mask = rows >= QUANT_ROWS ? (__mmask16)0xFFFF : (__mmask16)((1u << rows) - 1);
    for (uint32_t t = 0; t < tokens; t++)
        _mm512_mask_storeu_ps(y + t * y_stride, mask, _mm512_load_ps(sums[t / QUANT_BLOCK][t % QUANT_BLOCK]));
}

INLINE void product(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                    const void *weights, uint32_t rows, uint32_t cols, weight_type type) {
    size_t strip_bytes = quant_strip_bytes(type, cols);
    _tile_loadconfig(&tiles);
    for (uint32_t t = first; t < first + tokens; t += BLOCKS * QUANT_BLOCK) {
        uint32_t n = first + tokens - t < BLOCKS * QUANT_BLOCK ? first + tokens - t : BLOCKS * QUANT_BLOCK;
        for (uint32_t r = 0; r < rows; r += QUANT_ROWS)
            strip_blocks(y + t * y_stride + r, y_stride, x, t, n,
                         (const uint8_t *)weights + r / QUANT_ROWS * strip_bytes, rows - r, type);
    }
    _tile_release();
}

static void amx_q8(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                   const void *weights, uint32_t rows, uint32_t cols) {
    if (x->block_rows < QUANT_BLOCK)
        quant_kernels_table_avx512.q8(y, y_stride, x, first, tokens, weights, rows, cols);
    else product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q8);
}

static void amx_q4(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                   const void *weights, uint32_t rows, uint32_t cols) {
    if (x->block_rows < QUANT_BLOCK)
        quant_kernels_table_avx512.q4(y, y_stride, x, first, tokens, weights, rows, cols);
    else product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q4);
}

const quant_kernels quant_kernels_table_amx = {
    .name = "amx", .quantise = avx512_quantise, .q8 = amx_q8, .q4 = amx_q4};

#endif
