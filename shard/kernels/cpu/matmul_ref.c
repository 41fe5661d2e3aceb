#include "base/half.h"
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/weight.h"

enum { SHARED_TOKENS = 8 };

static inline void load_block(float out[LANES], const void *row, weight_type type, uint32_t at, uint32_t n) {
    if (type == WEIGHT_F32) {
        memcpy(out, (const float *)row + at, n * sizeof *out);
    } else if (type == WEIGHT_BF16) {
        for (uint32_t j = 0; j < n; j++) out[j] = ref_from_bf16(((const uint16_t *)row)[at + j]);
    } else {
        for (uint32_t j = 0; j < n; j++) out[j] = half_to_float(((const uint16_t *)row)[at + j]);
    }
}

/* One row against up to SHARED_TOKENS tokens, which share the widening of its weights; each has its own
 * lanes. */
static inline void dots(float *y, size_t y_stride, const float *x, size_t x_stride, const void *row,
                        weight_type type, uint32_t tokens, uint32_t cols) {
    float lane[SHARED_TOKENS][LANES] = {{0}}, w[LANES];
    uint32_t c = 0;
    for (; cols - c >= LANES; c += LANES) {
        load_block(w, row, type, c, LANES);
        for (uint32_t t = 0; t < tokens; t++) {
            const float *block = x + t * x_stride + c;
            for (int j = 0; j < LANES; j++) lane[t][j] = fmaf(block[j], w[j], lane[t][j]);
        }
    }
    uint32_t rest = cols - c;
    load_block(w, row, type, c, rest);
    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t j = 0; j < rest; j++) lane[t][j] = fmaf(x[t * x_stride + c + j], w[j], lane[t][j]);
        y[t * y_stride] = ref_tree(lane[t]);
    }
}

static inline void matmul(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                          size_t w_stride, weight_type type, uint32_t rows, uint32_t tokens, uint32_t cols) {
    size_t row_bytes = w_stride * weight_element_bytes(type);
    for (uint32_t r = 0; r < rows; r++) {
        const void *row = (const char *)w + r * row_bytes;
        for (uint32_t t = 0; t < tokens; t += SHARED_TOKENS)
            dots(y + t * y_stride + r, y_stride, x + t * x_stride, x_stride, row, type,
                 tokens - t < SHARED_TOKENS ? tokens - t : SHARED_TOKENS, cols);
    }
}

void ref_matmul_f32(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                    size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul(y, y_stride, x, x_stride, w, w_stride, WEIGHT_F32, rows, tokens, cols);
}

void ref_matmul_bf16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                     size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul(y, y_stride, x, x_stride, w, w_stride, WEIGHT_BF16, rows, tokens, cols);
}

void ref_matmul_f16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                    size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols) {
    matmul(y, y_stride, x, x_stride, w, w_stride, WEIGHT_F16, rows, tokens, cols);
}
