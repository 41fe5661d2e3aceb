#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/weight.h"

static inline void load_block(float out[LANES], const void *row, weight_type type, uint32_t at, uint32_t n) {
    if (type == WEIGHT_F32) {
        memcpy(out, (const float *)row + at, n * sizeof *out);
    } else if (type == WEIGHT_BF16) {
        for (uint32_t j = 0; j < n; j++) out[j] = ref_from_bf16(((const uint16_t *)row)[at + j]);
    } else {
        for (uint32_t j = 0; j < n; j++) out[j] = ref_from_f16(((const uint16_t *)row)[at + j]);
    }
}

static inline float dot(const float *x, const void *row, weight_type type, uint32_t cols) {
    float lane[LANES] = {0}, w[LANES];
    uint32_t c = 0;
    for (; cols - c >= LANES; c += LANES) {
        load_block(w, row, type, c, LANES);
        for (int j = 0; j < LANES; j++) lane[j] = fmaf(x[c + j], w[j], lane[j]);
    }
    load_block(w, row, type, c, cols - c);
    for (uint32_t j = 0; j < cols - c; j++) lane[j] = fmaf(x[c + j], w[j], lane[j]);
    return ref_tree(lane);
}

static inline void matmul(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                          size_t w_stride, weight_type type, uint32_t rows, uint32_t tokens, uint32_t cols) {
    size_t row_bytes = w_stride * weight_element_bytes(type);
    for (uint32_t r = 0; r < rows; r++) {
        const void *row = (const char *)w + r * row_bytes;
        for (uint32_t t = 0; t < tokens; t++) y[t * y_stride + r] = dot(x + t * x_stride, row, type, cols);
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
