/* rope_ref.c on sixteen lanes. Included after one of lanes_avx2.h and lanes_avx512.h. */
#ifndef SHARD_KERNELS_CPU_ROPE_LANES_H
#define SHARD_KERNELS_CPU_ROPE_LANES_H

static void vec_rope(float *x, const float *cosine, const float *sine, uint32_t half, uint32_t pairs) {
    uint32_t i = 0;
    for (; pairs - i >= 16; i += 16) {
        lanes a = lanes_load(x + i), b = lanes_load(x + i + half), c = lanes_load(cosine + i),
              s = lanes_load(sine + i);
        lanes_store(x + i, lanes_sub(lanes_mul(a, c), lanes_mul(b, s)));
        lanes_store(x + i + half, lanes_add(lanes_mul(b, c), lanes_mul(a, s)));
    }
    uint32_t n = pairs - i;
    if (!n) return;
    lanes a = lanes_load_part(x + i, n), b = lanes_load_part(x + i + half, n);
    lanes c = lanes_load_part(cosine + i, n), s = lanes_load_part(sine + i, n);
    lanes_store_part(x + i, lanes_sub(lanes_mul(a, c), lanes_mul(b, s)), n);
    lanes_store_part(x + i + half, lanes_add(lanes_mul(b, c), lanes_mul(a, s)), n);
}

#endif
