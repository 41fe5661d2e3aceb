/* The parts of attention_ref.c whose registers do not depend on how many there are. Included after attention_tile_*.h. */
#ifndef SHARD_KERNELS_CPU_ATTENTION_LANES_H
#define SHARD_KERNELS_CPU_ATTENTION_LANES_H

#include "shard/kernels/cpu/quant.h"

static void vec_expand_rows(float *y, size_t y_stride, const uint16_t *x, size_t x_stride, uint32_t n,
                            uint32_t rows) {
    for (uint32_t r = 0; r < rows; r++, x += x_stride, y += y_stride) {
        uint32_t d = 0;
        for (; n - d >= 32; d += 32) {
            lanes low, high;
            pair_load(x + d, &low, &high);
            lanes_store(y + d, low), lanes_store(y + d + 16, high);
        }
        for (; d < n; d += 16) {
            uint32_t rest = n - d < 16 ? n - d : 16;
            lanes_store_part(y + d, lanes_load_bf16_part(x + d, rest), rest);
        }
    }
}

static float vec_quantise_row(int8_t *y, const float *x, uint32_t n) {
    lanes m = lanes_set(0);
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) m = lanes_max(lanes_abs(lanes_load(x + i)), m);
    uint32_t rest = n - i;
    if (rest) m = lanes_max(lanes_abs(lanes_load_part(x + i, rest)), m);
    float largest = lanes_largest(m);
    if (largest < QUANT_LEAST) largest = 0;
    lanes inverse = lanes_set(largest > 0 ? 127.0f / largest : 0);
    for (i = 0; n - i >= 16; i += 16) lanes_store_i8(y + i, lanes_mul(lanes_load(x + i), inverse));
    if (rest) {
        int8_t last[16];
        lanes_store_i8(last, lanes_mul(lanes_load_part(x + i, rest), inverse));
        memcpy(y + i, last, rest);
    }
    return largest / 127.0f;
}

static void vec_expand_q8(float *y, size_t y_stride, const int8_t *x, size_t x_stride, const float *scale,
                          uint32_t n, uint32_t rows) {
    for (uint32_t r = 0; r < rows; r++, x += x_stride, y += y_stride) {
        lanes s = lanes_set(scale[r]);
        uint32_t d = 0;
        for (; n - d >= 16; d += 16) lanes_store(y + d, lanes_mul(lanes_load_i8(x + d), s));
        uint32_t rest = n - d;
        if (!rest) continue;
        int8_t last[16] = {0};
        memcpy(last, x + d, rest);
        lanes_store_part(y + d, lanes_mul(lanes_load_i8(last), s), rest);
    }
}

LANES_INLINE lanes load_some(const float *p, uint32_t n) {
    return n < 16 ? lanes_load_part(p, n) : lanes_load(p);
}
LANES_INLINE void store_some(float *p, lanes x, uint32_t n) {
    if (n < 16) lanes_store_part(p, x, n);
    else lanes_store(p, x);
}

/* n ≤ 16 pairs from element i on, of all rows; a constant 16 but for the last. */
LANES_INLINE void rotate_pairs(float *x, size_t x_stride, uint32_t apart, lanes norm_a, lanes norm_b,
                               const float *cosine, const float *sine, uint32_t pairs, uint32_t rows,
                               uint32_t n) {
    for (uint32_t r = 0; r < rows; r++, x += x_stride, cosine += pairs, sine += pairs) {
        lanes a = lanes_mul(load_some(x, n), norm_a), b = lanes_mul(load_some(x + apart, n), norm_b);
        lanes c = load_some(cosine, n), s = load_some(sine, n);
        store_some(x, lanes_sub(lanes_mul(a, c), lanes_mul(b, s)), n);
        store_some(x + apart, lanes_add(lanes_mul(b, c), lanes_mul(a, s)), n);
    }
}

static void vec_rotate_keys(float *x, size_t x_stride, uint32_t apart, const float *norm, uint32_t half,
                            const float *cosine, const float *sine, uint32_t pairs, uint32_t rows) {
    uint32_t i = 0;
    for (; pairs - i >= 16; i += 16)
        rotate_pairs(x + i, x_stride, apart, lanes_load(norm + i), lanes_load(norm + half + i), cosine + i,
                     sine + i, pairs, rows, 16);
    uint32_t n = pairs - i;
    if (n)
        rotate_pairs(x + i, x_stride, apart, lanes_load_part(norm + i, n),
                     lanes_load_part(norm + half + i, n), cosine + i, sine + i, pairs, rows, n);
}

#endif
