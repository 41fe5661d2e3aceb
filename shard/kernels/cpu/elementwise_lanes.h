/* elementwise_ref.c on sixteen lanes. Included after lanes_math.h. */
#ifndef SHARD_KERNELS_CPU_ELEMENTWISE_LANES_H
#define SHARD_KERNELS_CPU_ELEMENTWISE_LANES_H

static void vec_add(float *x, const float *y, uint32_t n) {
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) lanes_store(x + i, lanes_add(lanes_load(x + i), lanes_load(y + i)));
    if (i < n)
        lanes_store_part(x + i, lanes_add(lanes_load_part(x + i, n - i), lanes_load_part(y + i, n - i)),
                         n - i);
}

static void vec_scale(float *x, float factor, uint32_t n) {
    lanes f = lanes_set(factor);
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) lanes_store(x + i, lanes_mul(lanes_load(x + i), f));
    if (i < n) lanes_store_part(x + i, lanes_mul(lanes_load_part(x + i, n - i), f), n - i);
}

static void vec_add_scaled(float *y, float a, const float *x, uint32_t n) {
    lanes f = lanes_set(a);
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) lanes_store(y + i, lanes_fma(f, lanes_load(x + i), lanes_load(y + i)));
    if (i == n) return;
    n -= i;
    lanes_store_part(y + i, lanes_fma(f, lanes_load_part(x + i, n), lanes_load_part(y + i, n)), n);
}

static void vec_multiply(float *x, const float *y, uint32_t n) {
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) lanes_store(x + i, lanes_mul(lanes_load(x + i), lanes_load(y + i)));
    if (i < n)
        lanes_store_part(x + i, lanes_mul(lanes_load_part(x + i, n - i), lanes_load_part(y + i, n - i)),
                         n - i);
}

static void vec_gelu_multiply(float *y, const float *gate, const float *up, uint32_t n) {
    uint32_t i = 0;
    for (; n - i >= 16; i += 16)
        lanes_store(y + i, lanes_mul(lanes_gelu(lanes_load(gate + i)), lanes_load(up + i)));
    if (i == n) return;
    n -= i;
    lanes_store_part(y + i, lanes_mul(lanes_gelu(lanes_load_part(gate + i, n)), lanes_load_part(up + i, n)),
                     n);
}

static void vec_softcap(float *x, float cap, uint32_t n) {
    lanes c = lanes_set(cap);
    uint32_t i = 0;
    for (; n - i >= 16; i += 16)
        lanes_store(x + i, lanes_mul(c, lanes_tanh(lanes_div(lanes_load(x + i), c))));
    if (i == n) return;
    n -= i;
    lanes_store_part(x + i, lanes_mul(c, lanes_tanh(lanes_div(lanes_load_part(x + i, n), c))), n);
}

#endif
