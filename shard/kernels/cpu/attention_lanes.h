/* The parts of attention_ref.c whose registers do not depend on how many there are. Included after attention_tile_*.h. */
#ifndef SHARD_KERNELS_CPU_ATTENTION_LANES_H
#define SHARD_KERNELS_CPU_ATTENTION_LANES_H

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

LANES_INLINE lanes load_some(const float *p, uint32_t n) {
    return n < 16 ? lanes_load_part(p, n) : lanes_load(p);
}
LANES_INLINE void store_some(float *p, lanes x, uint32_t n) {
    if (n < 16) lanes_store_part(p, x, n);
    else lanes_store(p, x);
}

static void vec_rotate_keys(float *x, size_t x_stride, uint32_t apart, const float *norm, uint32_t half,
                            const float *cosine, const float *sine, uint32_t pairs, uint32_t rows) {
    for (uint32_t i = 0; i < pairs; i += 16) {
        uint32_t n = pairs - i < 16 ? pairs - i : 16;
        lanes norm_a = load_some(norm + i, n), norm_b = load_some(norm + half + i, n);
        for (uint32_t r = 0; r < rows; r++) {
            float *row = x + r * x_stride + i;
            lanes a = lanes_mul(load_some(row, n), norm_a), b = lanes_mul(load_some(row + apart, n), norm_b);
            lanes c = load_some(cosine + (size_t)r * pairs + i, n),
                  s = load_some(sine + (size_t)r * pairs + i, n);
            store_some(row, lanes_sub(lanes_mul(a, c), lanes_mul(b, s)), n);
            store_some(row + apart, lanes_add(lanes_mul(b, c), lanes_mul(a, s)), n);
        }
    }
}

#endif
