/* values_ref.c on sixteen lanes: 64 elements of o stay in registers while all keys pass. Included after one
 * of lanes_avx2.h and lanes_avx512.h. */
#ifndef SHARD_KERNELS_CPU_VALUES_LANES_H
#define SHARD_KERNELS_CPU_VALUES_LANES_H

LANES_INLINE void values_64(float *o, lanes rescale, const float *p, const float *v, size_t v_stride,
                            uint32_t first, uint32_t last) {
    lanes o0 = lanes_mul(lanes_load(o), rescale), o1 = lanes_mul(lanes_load(o + 16), rescale);
    lanes o2 = lanes_mul(lanes_load(o + 32), rescale), o3 = lanes_mul(lanes_load(o + 48), rescale);
    for (uint32_t i = first; i < last; i++) {
        const float *row = v + i * v_stride;
        lanes factor = lanes_set(p[i]);
        o0 = lanes_fma(factor, lanes_load(row), o0);
        o1 = lanes_fma(factor, lanes_load(row + 16), o1);
        o2 = lanes_fma(factor, lanes_load(row + 32), o2);
        o3 = lanes_fma(factor, lanes_load(row + 48), o3);
    }
    lanes_store(o, o0);
    lanes_store(o + 16, o1);
    lanes_store(o + 32, o2);
    lanes_store(o + 48, o3);
}

static void vec_values_page(float *o, float rescale, const float *p, const float *v, size_t v_stride,
                            uint32_t first, uint32_t last, uint32_t dim) {
    lanes factor = lanes_set(rescale);
    uint32_t d = 0;
    for (; dim - d >= 64; d += 64) values_64(o + d, factor, p, v + d, v_stride, first, last);
    for (; d < dim; d += 16) {
        uint32_t n = dim - d < 16 ? dim - d : 16;
        lanes sum = lanes_mul(lanes_load_part(o + d, n), factor);
        for (uint32_t i = first; i < last; i++)
            sum = lanes_fma(lanes_set(p[i]), lanes_load_part(v + i * v_stride + d, n), sum);
        lanes_store_part(o + d, sum, n);
    }
}

#endif
