/* ref_math.h on sixteen lanes: the same operations in the same order, hence the same bits. Included after one
 * of lanes_avx2.h and lanes_avx512.h. */
#ifndef SHARD_KERNELS_CPU_LANES_MATH_H
#define SHARD_KERNELS_CPU_LANES_MATH_H

#include "shard/kernels/cpu/math_constants.h"

LANES_INLINE lanes lanes_exp(lanes x) {
    x = lanes_max(lanes_set(EXP_LOWEST), x);
    x = lanes_min(lanes_set(EXP_HIGHEST), x);
    lanes shift = lanes_set(ROUND_SHIFT);
    lanes shifted = lanes_fma(x, lanes_set(LOG2_E), shift);
    lanes n = lanes_sub(shifted, shift);
    lanes r = lanes_fma(n, lanes_set(-LN2_HIGH), x);
    r = lanes_fma(n, lanes_set(-LN2_LOW), r);
    lanes q = lanes_fma(lanes_set(EXP_Q4), r, lanes_set(EXP_Q3));
    q = lanes_fma(q, r, lanes_set(EXP_Q2));
    q = lanes_fma(q, r, lanes_set(EXP_Q1));
    q = lanes_fma(q, r, lanes_set(EXP_Q0));
    lanes p = lanes_add(lanes_fma(q, lanes_mul(r, r), r), lanes_set(1.0f));
    return lanes_times_power(p, shifted, shift);
}

LANES_INLINE lanes lanes_tanh(lanes x) {
    lanes a = lanes_abs(x), one = lanes_set(1.0f);
    lanes s = lanes_mul(a, a);
    lanes p = lanes_fma(lanes_set(TANH_P4), s, lanes_set(TANH_P3));
    p = lanes_fma(p, s, lanes_set(TANH_P2));
    p = lanes_fma(p, s, lanes_set(TANH_P1));
    p = lanes_fma(p, s, lanes_set(TANH_P0));
    lanes near = lanes_fma(lanes_mul(p, s), a, a);
    lanes far = lanes_sub(one, lanes_div(lanes_set(2.0f), lanes_add(lanes_exp(lanes_add(a, a)), one)));
    return lanes_with_sign(lanes_where_less(a, lanes_set(TANH_NEAR), near, far), x);
}

LANES_INLINE lanes lanes_gelu(lanes x) {
    lanes cube = lanes_mul(lanes_mul(x, x), x);
    lanes u = lanes_fma(lanes_set(GELU_CUBE), cube, x);
    lanes e = lanes_exp(lanes_mul(u, lanes_set(GELU_MINUS_2_SQRT_2_PI)));
    return lanes_div(x, lanes_add(lanes_set(1.0f), e));
}

#endif
