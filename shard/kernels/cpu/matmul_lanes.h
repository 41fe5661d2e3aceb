/* matmul_ref.c on sixteen lanes. Included after a lanes_*.h and the matmul_tile_*.h beside it.
 *
 * The register tile multiplies TILE_ROWS rows with TILE_TOKENS tokens; the 16 lanes of each output wait in
 * `acc` between calls and their tree is added when the row is through, so that the order of every sum is the
 * reference's whatever the blocks.
 *
 * One token:    four rows stream past it and never touch memory again.
 * Few tokens:   the tile reads the weights where they lie, in chunks of columns that stay in the first-level
 *               cache while the tokens pass; weights come from memory once, in TILE_ROWS sequential streams.
 *               (Up to 16 this beats panels on weights that come from memory, measured on Zen 3: 2 tokens
 *               19 GB/s against 8, 16 tokens 3.6 against 3.3.)
 * Many tokens:  a panel of PANEL_ROWS × PANEL_COLS weights is widened once into a scratch in the first-level
 *               cache for TOKENS tokens; BLOCK_ROWS rows share a chunk of the tokens in the second level.
 *
 * Row tails: panels hold +0 and the tokens' last blocks -0 in the lanes that the row does not reach; fma(-0,
 * +0, l) is l for every l, -0 included, which +0 · +0 would not be. */
#ifndef SHARD_KERNELS_CPU_MATMUL_LANES_H
#define SHARD_KERNELS_CPU_MATMUL_LANES_H

#include "shard/kernels/weight.h"

/* PANEL_ROWS is a multiple of 4 and of TILE_ROWS and divides BLOCK_ROWS; TOKENS and FEW_TOKENS are multiples
 * of TILE_TOKENS; columns are whole blocks of 16. A panel has 18 KiB, acc 96 KiB. */
enum { PANEL_ROWS = 12, PANEL_COLS = 384, BLOCK_ROWS = 24, TOKENS = 64, FEW_TOKENS = 16, FEW_COLS = 512 };

typedef struct token_tile {
    const float *x[TOKENS];              /* the last is repeated to fill the register tile */
    _Alignas(64) float tail[TOKENS][16]; /* the columns after the last whole block, -0 beyond them */
    _Alignas(64) float acc[TOKENS][BLOCK_ROWS][16];
    _Alignas(64) float panel[PANEL_ROWS][PANEL_COLS];
} token_tile;

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

LANES_INLINE const void *weight_at(const void *w, size_t stride, uint32_t row, uint32_t column,
                                   weight_type type) {
    return (const char *)w + (row * stride + column) * weight_element_bytes(type);
}

/* y[0 … 3] of one token; rows that do not exist repeat the first, and `rows` says how many to keep. */
LANES_INLINE void dot_four(float *y, const float *x, const void *w, size_t w_stride, uint32_t rows,
                           uint32_t cols, weight_type type) {
    const void *w0 = w, *w1 = weight_at(w, w_stride, rows > 1 ? 1 : 0, 0, type);
    const void *w2 = weight_at(w, w_stride, rows > 2 ? 2 : 0, 0, type);
    const void *w3 = weight_at(w, w_stride, rows > 3 ? 3 : 0, 0, type);
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
    float four[4];
    _mm_storeu_ps(four, lanes_sum_of_four(s0, s1, s2, s3));
    memcpy(y, four, (rows < 4 ? rows : 4) * sizeof *y);
}

/* Widens n columns of `rows` rows from w on; rows up to a multiple of TILE_ROWS and the last block are filled
 * up with +0. */
LANES_INLINE void fill_panel(token_tile *tile, const void *w, size_t w_stride, uint32_t rows, uint32_t n,
                             weight_type type) {
    uint32_t r = 0;
    for (; r < rows; r++) {
        const void *row = weight_at(w, w_stride, r, 0, type);
        uint32_t c = 0;
        for (; n - c >= 16; c += 16) lanes_store(tile->panel[r] + c, weight_load(row, c, type));
        if (c < n) lanes_store(tile->panel[r] + c, weight_load_part(row, c, n - c, type));
    }
    for (; r % TILE_ROWS; r++) memset(tile->panel[r], 0, (size_t)(n + 15) / 16 * 16 * sizeof(float));
}

/* Columns at … at + 16 · blocks - 1 of the panel's rows (first … first + rows - 1 of the block) against every
 * token. */
static void multiply_panel(token_tile *tile, uint32_t first, uint32_t rows, uint32_t tokens, uint32_t at,
                           uint32_t blocks) {
    for (uint32_t t = 0; t < tokens; t += TILE_TOKENS) {
        const float *x[TILE_TOKENS];
        for (uint32_t i = 0; i < TILE_TOKENS; i++) x[i] = tile->x[t + i] + at;
        for (uint32_t r = 0; r < rows; r += TILE_ROWS) {
            const void *w[TILE_ROWS];
            for (uint32_t i = 0; i < TILE_ROWS; i++) w[i] = tile->panel[r + i];
            matmul_tile(tile->acc[t][first + r], BLOCK_ROWS * 16, x, w, blocks, WEIGHT_F32);
        }
    }
}

/* The columns after the last whole block, from the padded copies. */
LANES_INLINE void multiply_tail(token_tile *tile, const void *w, size_t w_stride, uint32_t first,
                                uint32_t rows, uint32_t tokens, uint32_t n, weight_type type) {
    fill_panel(tile, w, w_stride, rows, n, type);
    for (uint32_t t = 0; t < tokens; t += TILE_TOKENS) {
        const float *x[TILE_TOKENS];
        for (uint32_t i = 0; i < TILE_TOKENS; i++) x[i] = tile->tail[t + i];
        for (uint32_t r = 0; r < rows; r += TILE_ROWS) {
            const void *row[TILE_ROWS];
            for (uint32_t i = 0; i < TILE_ROWS; i++) row[i] = tile->panel[r + i];
            matmul_tile(tile->acc[t][first + r], BLOCK_ROWS * 16, x, row, 1, WEIGHT_F32);
        }
    }
}

/* TILE_ROWS rows against few tokens, straight from the weights; rows that do not exist repeat the first. */
LANES_INLINE void multiply_few(token_tile *tile, const void *w, size_t w_stride, uint32_t first,
                               uint32_t rows, uint32_t tokens, uint32_t cols, weight_type type) {
    for (uint32_t c = 0; c < cols; c += FEW_COLS) {
        uint32_t n = cols - c < FEW_COLS ? cols - c : FEW_COLS;
        const void *row[TILE_ROWS];
        for (uint32_t i = 0; i < TILE_ROWS; i++) row[i] = weight_at(w, w_stride, i < rows ? i : 0, c, type);
        for (uint32_t t = 0; t < tokens; t += TILE_TOKENS) {
            const float *x[TILE_TOKENS];
            for (uint32_t i = 0; i < TILE_TOKENS; i++) x[i] = tile->x[t + i] + c;
            matmul_tile(tile->acc[t][first], BLOCK_ROWS * 16, x, row, n / 16, type);
        }
    }
}

/* At most BLOCK_ROWS rows: leaves the lanes of every output in acc. */
LANES_INLINE void multiply_block(token_tile *tile, const void *w, size_t w_stride, uint32_t rows,
                                 uint32_t tokens, uint32_t cols, weight_type type) {
    uint32_t whole = cols / 16 * 16;
    if (tokens <= FEW_TOKENS) {
        for (uint32_t r = 0; r < rows; r += TILE_ROWS)
            multiply_few(tile, weight_at(w, w_stride, r, 0, type), w_stride, r, rows - r, tokens, whole,
                         type);
    } else {
        for (uint32_t c = 0; c < whole; c += PANEL_COLS) {
            uint32_t n = whole - c < PANEL_COLS ? whole - c : PANEL_COLS;
            for (uint32_t r = 0; r < rows; r += PANEL_ROWS) {
                uint32_t n_rows = rows - r < PANEL_ROWS ? rows - r : PANEL_ROWS;
                fill_panel(tile, weight_at(w, w_stride, r, c, type), w_stride, n_rows, n, type);
                multiply_panel(tile, r, n_rows, tokens, c, n / 16);
            }
        }
    }
    if (whole == cols) return;
    for (uint32_t r = 0; r < rows; r += PANEL_ROWS)
        multiply_tail(tile, weight_at(w, w_stride, r, whole, type), w_stride, r,
                      rows - r < PANEL_ROWS ? rows - r : PANEL_ROWS, tokens, cols - whole, type);
}

static void add_trees(const token_tile *tile, float *y, size_t y_stride, uint32_t rows, uint32_t tokens) {
    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t r = 0; r < rows; r += 4) {
            const float *a = tile->acc[t][r];
            float four[4];
            _mm_storeu_ps(four, lanes_sum_of_four(lanes_load(a), lanes_load(a + 16), lanes_load(a + 32),
                                                  lanes_load(a + 48)));
            memcpy(y + t * y_stride + r, four, (rows - r < 4 ? rows - r : 4) * sizeof *y);
        }
    }
}

/* At most TOKENS tokens. */
LANES_INLINE void matmul_tokens(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                                size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols,
                                weight_type type) {
    token_tile tile; /* on the stack: 120 KiB, of which few tokens touch little */
    uint32_t padded = (tokens + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS, rest = cols % 16;
    for (uint32_t t = 0; t < padded; t++) {
        tile.x[t] = x + (t < tokens ? t : tokens - 1) * x_stride;
        for (uint32_t j = 0; rest && j < 16; j++)
            tile.tail[t][j] = j < rest ? tile.x[t][cols - rest + j] : -0.0f;
    }
    for (uint32_t r = 0; r < rows; r += BLOCK_ROWS) {
        uint32_t n = rows - r < BLOCK_ROWS ? rows - r : BLOCK_ROWS;
        memset(tile.acc, 0, padded * sizeof tile.acc[0]);
        multiply_block(&tile, weight_at(w, w_stride, r, 0, type), w_stride, n, tokens, cols, type);
        add_trees(&tile, y + r, y_stride, n, tokens);
    }
}

LANES_INLINE void matmul_any(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                             size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols,
                             weight_type type) {
    if (tokens == 1) {
        for (uint32_t r = 0; r < rows; r += 4)
            dot_four(y + r, x, weight_at(w, w_stride, r, 0, type), w_stride, rows - r, cols, type);
        return;
    }
    for (uint32_t t = 0; t < tokens; t += TOKENS)
        matmul_tokens(y + t * y_stride, y_stride, x + t * x_stride, x_stride, w, w_stride, rows,
                      tokens - t < TOKENS ? tokens - t : TOKENS, cols, type);
}

static void vec_matmul_f32(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                           size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul_any(y, y_stride, x, x_stride, w, w_stride, rows, tokens, cols, WEIGHT_F32);
}

static void vec_matmul_bf16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                            size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul_any(y, y_stride, x, x_stride, w, w_stride, rows, tokens, cols, WEIGHT_BF16);
}

static void vec_matmul_f16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                           size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul_any(y, y_stride, x, x_stride, w, w_stride, rows, tokens, cols, WEIGHT_F16);
}

#endif
