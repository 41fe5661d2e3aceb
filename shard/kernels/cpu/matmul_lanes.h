/* matmul_ref.c on sixteen lanes. Included after a lanes_*.h and the matmul_tile_*.h beside it.
 *
 * One token: four rows stream past it, converted in registers, so that the speed is that of memory.
 *
 * Several tokens: a panel of PANEL_ROWS × PANEL_COLS weights is widened once into a scratch that stays in the first-level
 * cache, and every token of a tile of TOKENS passes over it, TILE_ROWS × TILE_TOKENS outputs in registers at a time. The
 * 16 lanes of each output wait in `acc` between panels, and its tree is added when its row is through: the order of
 * every sum is that of the reference, whatever the blocks. So weights come from memory once for TOKENS tokens.
 *
 * Row tails: panels hold +0 and the tokens' last blocks -0 in the lanes that the row does not reach; fma(-0, +0, l) is l
 * for every l, -0 included, which +0 · +0 would not be. */
#ifndef SHARD_KERNELS_CPU_MATMUL_LANES_H
#define SHARD_KERNELS_CPU_MATMUL_LANES_H

#include "shard/kernels/weight.h"

/* PANEL_ROWS is a multiple of 4 and of TILE_ROWS, TOKENS of TILE_TOKENS, PANEL_COLS of 16. 12 KiB of panel, 48 KiB of
 * acc: first and second level of anything with AVX2. */
enum { PANEL_ROWS = 12, PANEL_COLS = 256, TOKENS = 64 };

LANES_INLINE lanes weight_load(const void *row, size_t at, weight_type type) {
    return type == WEIGHT_F32    ? lanes_load((const float *)row + at)
           : type == WEIGHT_BF16 ? lanes_load_bf16((const uint16_t *)row + at)
                                 : lanes_load_f16((const uint16_t *)row + at);
}

LANES_INLINE lanes weight_load_part(const void *row, size_t at, uint32_t n, weight_type type) {
    return type == WEIGHT_F32    ? lanes_load_part((const float *)row + at, n)
           : type == WEIGHT_BF16 ? lanes_load_bf16_part((const uint16_t *)row + at, n)
                                 : lanes_load_f16_part((const uint16_t *)row + at, n);
}

LANES_INLINE const void *weight_row(const void *w, size_t stride, uint32_t row, weight_type type) {
    return (const char *)w + row * stride * weight_element_bytes(type);
}

/* y[0 … 3] of one token; rows that do not exist repeat the last one, and `rows` says how many to keep. */
LANES_INLINE void dot_four(float *y, const float *x, const void *w, size_t w_stride, uint32_t rows, uint32_t cols,
                           weight_type type) {
    const void *w0 = w, *w1 = weight_row(w, w_stride, rows > 1 ? 1 : 0, type);
    const void *w2 = weight_row(w, w_stride, rows > 2 ? 2 : 0, type), *w3 = weight_row(w, w_stride, rows > 3 ? 3 : 0, type);
    lanes s0 = lanes_set(0), s1 = s0, s2 = s0, s3 = s0;
    uint32_t c = 0;
    for (; cols - c >= 16; c += 16) {
        lanes t = lanes_load(x + c);
        s0 = lanes_fma(t, weight_load(w0, c, type), s0);
        s1 = lanes_fma(t, weight_load(w1, c, type), s1);
        s2 = lanes_fma(t, weight_load(w2, c, type), s2);
        s3 = lanes_fma(t, weight_load(w3, c, type), s3);
    }
    uint32_t n = cols - c;
    if (n) {
        lanes t = lanes_load_part(x + c, n);
        s0 = lanes_first(n, lanes_fma(t, weight_load_part(w0, c, n, type), s0), s0);
        s1 = lanes_first(n, lanes_fma(t, weight_load_part(w1, c, n, type), s1), s1);
        s2 = lanes_first(n, lanes_fma(t, weight_load_part(w2, c, n, type), s2), s2);
        s3 = lanes_first(n, lanes_fma(t, weight_load_part(w3, c, n, type), s3), s3);
    }
    __m128 sums = lanes_sum_of_four(s0, s1, s2, s3);
    if (rows >= 4) {
        _mm_storeu_ps(y, sums);
    } else {
        float four[4];
        _mm_storeu_ps(four, sums);
        memcpy(y, four, rows * sizeof *y);
    }
}

typedef struct token_tile {
    const float *x[TOKENS];  /* a last odd one is repeated to fill the register tile */
    float tail[TOKENS][16];  /* the columns after the last whole block, -0 beyond them */
    float acc[TOKENS][PANEL_ROWS][16];
    float panel[PANEL_ROWS][PANEL_COLS];
} token_tile;

/* Widens columns at … at + n - 1 of `rows` rows; rows up to a multiple of TILE_ROWS and the last block are filled up
 * with +0. */
LANES_INLINE void fill_panel(token_tile *tile, const void *w, size_t w_stride, uint32_t rows, uint32_t at, uint32_t n,
                             weight_type type) {
    uint32_t r = 0;
    for (; r < rows; r++) {
        const void *row = weight_row(w, w_stride, r, type);
        uint32_t c = 0;
        for (; n - c >= 16; c += 16) lanes_store(tile->panel[r] + c, weight_load(row, at + c, type));
        if (c < n) lanes_store(tile->panel[r] + c, weight_load_part(row, at + c, n - c, type));
    }
    for (; r % TILE_ROWS; r++) memset(tile->panel[r], 0, (size_t)(n + 15) / 16 * 16 * sizeof(float));
}

/* The panel against every token: whole blocks from x, a part of a block (tail) from the padded copies. */
static void multiply_panel(token_tile *tile, uint32_t rows, uint32_t tokens, uint32_t at, uint32_t n) {
    for (uint32_t t = 0; t < tokens; t += TILE_TOKENS) {
        const float *x[TILE_TOKENS], *tail[TILE_TOKENS];
        for (uint32_t i = 0; i < TILE_TOKENS; i++) x[i] = tile->x[t + i] + at, tail[i] = tile->tail[t + i];
        for (uint32_t r = 0; r < rows; r += TILE_ROWS) {
            matmul_tile(tile->acc[t][r], PANEL_ROWS * 16, x, tile->panel[r], PANEL_COLS, n / 16);
            if (n % 16) matmul_tile(tile->acc[t][r], PANEL_ROWS * 16, tail, tile->panel[r] + n / 16 * 16, PANEL_COLS, 1);
        }
    }
}

static void add_trees(const token_tile *tile, float *y, size_t y_stride, uint32_t rows, uint32_t tokens) {
    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t r = 0; r < rows; r += 4) {
            const float(*a)[16] = tile->acc[t] + r;
            float four[4];
            _mm_storeu_ps(four, lanes_sum_of_four(lanes_load(a[0]), lanes_load(a[1]), lanes_load(a[2]), lanes_load(a[3])));
            memcpy(y + t * y_stride + r, four, (rows - r < 4 ? rows - r : 4) * sizeof *y);
        }
    }
}

LANES_INLINE void matmul_token_tile(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                                    size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols, weight_type type) {
    token_tile tile; /* on the stack: 70 KiB, and nothing of it is read before it is written */
    uint32_t padded = (tokens + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS, rest = cols % 16;
    for (uint32_t t = 0; t < padded; t++) {
        tile.x[t] = x + (t < tokens ? t : tokens - 1) * x_stride;
        for (uint32_t j = 0; rest && j < 16; j++) tile.tail[t][j] = j < rest ? tile.x[t][cols - rest + j] : -0.0f;
    }
    for (uint32_t r = 0; r < rows; r += PANEL_ROWS) {
        uint32_t n_rows = rows - r < PANEL_ROWS ? rows - r : PANEL_ROWS;
        memset(tile.acc, 0, padded * sizeof tile.acc[0]);
        for (uint32_t c = 0; c < cols; c += PANEL_COLS) {
            uint32_t n = cols - c < PANEL_COLS ? cols - c : PANEL_COLS;
            fill_panel(&tile, weight_row(w, w_stride, r, type), w_stride, n_rows, c, n, type);
            multiply_panel(&tile, n_rows, tokens, c, n);
        }
        add_trees(&tile, y + r, y_stride, n_rows, tokens);
    }
}

LANES_INLINE void matmul_any(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w, size_t w_stride,
                             uint32_t rows, uint32_t tokens, uint32_t cols, weight_type type) {
    if (tokens == 1) {
        for (uint32_t r = 0; r < rows; r += 4)
            dot_four(y + r, x, weight_row(w, w_stride, r, type), w_stride, rows - r, cols, type);
        return;
    }
    for (uint32_t t = 0; t < tokens; t += TOKENS)
        matmul_token_tile(y + t * y_stride, y_stride, x + t * x_stride, x_stride, w, w_stride, rows,
                          tokens - t < TOKENS ? tokens - t : TOKENS, cols, type);
}

static void vec_matmul_f32(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w, size_t w_stride,
                           uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul_any(y, y_stride, x, x_stride, w, w_stride, rows, tokens, cols, WEIGHT_F32);
}

static void vec_matmul_bf16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w, size_t w_stride,
                            uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul_any(y, y_stride, x, x_stride, w, w_stride, rows, tokens, cols, WEIGHT_BF16);
}

static void vec_matmul_f16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w, size_t w_stride,
                           uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul_any(y, y_stride, x, x_stride, w, w_stride, rows, tokens, cols, WEIGHT_F16);
}

#endif
