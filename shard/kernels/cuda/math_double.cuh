/* pow, sine and cosine in double as kernels/cpu/math_double.c defines them, operation by operation: rotary angles have the
 * same bits on every device. A change there is a change here; tests/unit/cuda/test_cuda_rows.c holds them together.
 *
 * Nothing here may be contracted (-fmad=false). */
#ifndef SHARD_KERNELS_CUDA_MATH_DOUBLE_CUH
#define SHARD_KERNELS_CUDA_MATH_DOUBLE_CUH

#include <string.h>

#include "shard/kernels/cuda/device.cuh"

/* An unevaluated sum high + low. */
typedef struct double_pair {
    double high, low;
} double_pair;

static __device__ __forceinline__ double_pair pair_sum(double a, double b) {
    double s = a + b, t = s - a;
    double_pair p = {s, (a - (s - t)) + (b - t)};
    return p;
}

static __device__ __forceinline__ double_pair pair_product(double a, double b) {
    double p = a * b, t = 134217729.0 * a, u = 134217729.0 * b;
    double a1 = t - (t - a), a2 = a - a1, b1 = u - (u - b), b2 = b - b1;
    double_pair d = {p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2};
    return d;
}

static __device__ __forceinline__ double polynomial(const double *c, int n, double x) {
    double y = c[n - 1];
    for (int i = n - 2; i >= 0; i--) y = y * x + c[i];
    return y;
}

#define LN2_DOUBLE_HIGH 0x1.62e42fefa38p-1
#define LN2_DOUBLE_LOW 0x1.ef35793c7673p-45
#define ROUND_SHIFT_DOUBLE 0x1.8p52

static __device__ __forceinline__ double double_of_bits(uint64_t bits) {
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

static __device__ __forceinline__ double scale_power(int exponent) {
    return double_of_bits((uint64_t)(exponent + 1023) << 52);
}

static __device__ double_pair log_pair(double b) {
    const double atanh_terms[] = {1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11, 1.0 / 13,
                                  1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23};
    int k = 0;
    if (b < 0x1p-1022) {
        b *= 0x1p54;
        k = -54;
    }
    uint64_t bits;
    memcpy(&bits, &b, sizeof bits);
    k += (int)(bits >> 52) - 1023;
    double m = double_of_bits((bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1023 << 52);
    if (m > 0x1.6a09e667f3bcdp0) {
        m *= 0.5;
        k++;
    }
    double f = m - 1.0;
    double_pair g = pair_sum(m, 1.0);
    double s = f / g.high;
    double_pair back = pair_product(s, g.high);
    double s_low = (((f - back.high) - back.low) - s * g.low) / g.high;
    double s2 = s * s;
    double tail = 2.0 * s * s2 * polynomial(atanh_terms, 11, s2);
    double_pair sum = pair_sum(k * LN2_DOUBLE_HIGH, 2.0 * s);
    return pair_sum(sum.high, sum.low + (tail + (2.0 * s_low + k * LN2_DOUBLE_LOW)));
}

static __device__ double exp_of_pair(double_pair y) {
    const double terms[] = {1.0 / 2,          1.0 / 6,        1.0 / 24,        1.0 / 120,     1.0 / 720,
                            1.0 / 5040,       1.0 / 40320,    1.0 / 362880,    1.0 / 3628800, 1.0 / 39916800,
                            1.0 / 479001600,  1.0 / 6227020800, 1.0 / 87178291200};
    if (y.high > 710.0) return INFINITY;
    if (y.high < -746.0) return 0.0;
    double n = (y.high * 0x1.71547652b82fep0 + ROUND_SHIFT_DOUBLE) - ROUND_SHIFT_DOUBLE;
    double_pair r = pair_sum(y.high - n * LN2_DOUBLE_HIGH, -n * LN2_DOUBLE_LOW);
    r = pair_sum(r.high, r.low + y.low);
    double q = r.high + (r.low + (r.high * r.high * polynomial(terms, 13, r.high) + r.high * r.low));
    int k = (int)n, half = k / 2;
    return (1.0 + q) * scale_power(half) * scale_power(k - half);
}

static __device__ double math_pow_double(double base, double exponent) {
    double_pair l = log_pair(base);
    double_pair y = pair_product(exponent, l.high);
    return exp_of_pair(pair_sum(y.high, y.low + exponent * l.low));
}

static __device__ void math_sincos_double(double angle, double *sine, double *cosine) {
    const double part1 = 0x1.921fb544p0, part2 = 0x1.0b4611a6p-34, part3 = 0x1.3198a2e037073p-69;
    const double sin_terms[] = {-1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
                                -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
    const double cos_terms[] = {1.0 / 24,        -1.0 / 720,         1.0 / 40320,          -1.0 / 3628800,
                                1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
    double n = (angle * 0x1.45f306dc9c883p-1 + ROUND_SHIFT_DOUBLE) - ROUND_SHIFT_DOUBLE;
    double_pair r = pair_sum(angle - n * part1, -n * part2);
    r = pair_sum(r.high, r.low - n * part3);
    double x = r.high, low = r.low, x2 = x * x;
    double half = 0.5 * x2, one = 1.0 - half;
    double s = x + (low * (1.0 - half) + x * x2 * polynomial(sin_terms, 8, x2));
    double c = one + (((1.0 - one) - half) + (x2 * x2 * polynomial(cos_terms, 8, x2) - x * low));
    int quadrant = (int)n & 3;
    double a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
    *sine = quadrant & 2 ? -a : a;
    *cosine = quadrant == 1 || quadrant == 2 ? -b : b;
}
#endif
