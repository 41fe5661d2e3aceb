/* softmax_ref.c on sixteen lanes. Included after lanes_math.h. */
#ifndef SHARD_KERNELS_CPU_SOFTMAX_LANES_H
#define SHARD_KERNELS_CPU_SOFTMAX_LANES_H

#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/ref_math.h"

static float vec_max(const float *x, uint32_t n) {
    lanes m = lanes_set(x[0]);
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) m = lanes_max(lanes_load(x + i), m);
    if (i < n) m = lanes_first(n - i, lanes_max(lanes_load_part(x + i, n - i), m), m);
    return lanes_largest(m) + 0.0f;
}

static float vec_exp_sum(float *y, const float *x, float shift, float factor, uint32_t n) {
    lanes sum = lanes_set(0), s = lanes_set(shift), f = lanes_set(factor);
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) {
        lanes e = lanes_exp(lanes_mul(lanes_sub(lanes_load(x + i), s), f));
        sum = lanes_add(sum, e);
        if (y) lanes_store(y + i, e);
    }
    if (i < n) {
        lanes e = lanes_exp(lanes_mul(lanes_sub(lanes_load_part(x + i, n - i), s), f));
        sum = lanes_first(n - i, lanes_add(sum, e), sum);
        if (y) lanes_store_part(y + i, e, n - i);
    }
    return lanes_sum(sum);
}

/* How many of the 16 keys from `at` lie before `end`. */
static inline uint32_t keys_before(uint32_t end, uint32_t at) {
    return end <= at ? 0 : end - at < 16 ? end - at : 16;
}

static float vec_softmax_page(float *scores, uint32_t first, uint32_t last, float *m, float *l) {
    float largest = ref_max(vec_max(scores + first, last - first), *m);
    /* Most pages do not raise the maximum. */
    float rescale = *m == -INFINITY ? 0.0f : *m == largest ? 1.0f : ref_softmax_exp(*m - largest);
    lanes sum = lanes_set(0), zero = lanes_set(0), shift = lanes_set(largest);
    for (uint32_t at = 0; at < KV_PAGE_TOKENS; at += 16) {
        lanes x = lanes_sub(lanes_load(scores + at), shift);
        lanes e = lanes_where_less(x, lanes_set(SOFTMAX_LOWEST), zero, lanes_exp(x));
        e = lanes_first(keys_before(last, at), e, zero);
        e = lanes_first(keys_before(first, at), zero, e);
        lanes_store(scores + at, e);
        sum = lanes_add(sum, e);
    }
    *l = *l * rescale + lanes_sum(sum);
    *m = largest;
    return rescale;
}

#endif
