/* How strips and tokens meet in quant_avx512.c and quant_lanes8.h, which define before this
 *
 *     TILE_TOKENS, tile_tokens   up to so many tokens against all rows of some strips, which `after` more rows
 *                                follow that nobody has asked memory for yet
 *     MANY_ROWS                  rows whose strips stay in the cache while many tokens pass
 *
 * Few tokens: every strip is read once. */
#ifndef SHARD_KERNELS_CPU_QUANT_PRODUCT_H
#define SHARD_KERNELS_CPU_QUANT_PRODUCT_H

INLINE void product(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                    const void *weights, uint32_t rows, uint32_t cols, weight_type type) {
    const uint32_t step = tokens <= TILE_TOKENS ? rows : MANY_ROWS;
    for (uint32_t r = 0; r < rows; r += step) {
        const uint8_t *strip = (const uint8_t *)weights + r / QUANT_ROWS * quant_strip_bytes(type, cols);
        uint32_t n_rows = rows - r < step ? rows - r : step;
        for (uint32_t t = first; t < first + tokens; t += TILE_TOKENS) {
            uint32_t n = first + tokens - t < TILE_TOKENS ? first + tokens - t : TILE_TOKENS;
            uint32_t after = t + n == first + tokens ? rows - r - n_rows : 0;
            tile_tokens(y + t * y_stride + r, y_stride, x, t, n, strip, n_rows, after, cols, type);
        }
    }
}

static void product_q8(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                       const void *weights, uint32_t rows, uint32_t cols) {
    product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q8);
}

static void product_q4(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                       const void *weights, uint32_t rows, uint32_t cols) {
    product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q4);
}

#endif
