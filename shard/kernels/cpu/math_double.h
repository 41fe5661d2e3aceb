/* Double functions of our own: glibc picks other code on a processor with FMA, and rotary angles must have
 * the same bits on every rank, whether they are made on the host or on a GPU. Only + - · / and bit moves, in a fixed order;
 * nothing here may be contracted (-ffp-contract=off, -fmad=false).
 *
 * Accurate to 1e-15 relative (x·log b range as needed).
 *
 * Memory:  none.
 * Threads: any. */
#ifndef SHARD_KERNELS_CPU_MATH_DOUBLE_H
#define SHARD_KERNELS_CPU_MATH_DOUBLE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "shard/kernels/host_device.h"

/* An unevaluated sum high + low, |low| at most half an ulp of high: about 106 bits. */
typedef struct double_pair {
    double high, low;
} double_pair;

HOST_DEVICE_INLINE double_pair pair_sum(double a, double b) { /* Knuth: exact for any order of magnitudes */
    double s = a + b, t = s - a;
    double_pair d = {s, (a - (s - t)) + (b - t)};
    return d;
}

HOST_DEVICE_INLINE double_pair
pair_product(double a, double b) { /* Dekker: halves of 26 bits, whose products are exact */
    double p = a * b, t = 134217729.0 * a, u = 134217729.0 * b;
    double a1 = t - (t - a), a2 = a - a1, b1 = u - (u - b), b2 = b - b1;
    double_pair d = {p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2};
    return d;
}

HOST_DEVICE_INLINE double polynomial(const double *c, int n, double x) { /* c[0] + c[1] x + … */
    double y = c[n - 1];
    for (int i = n - 2; i >= 0; i--) y = y * x + c[i];
    return y;
}

/* ln 2 in two parts; k · high is exact for |k| < 2^11. */
#define LN2_DOUBLE_HIGH 0x1.62e42fefa38p-1
#define LN2_DOUBLE_LOW 0x1.ef35793c7673p-45
/* Adding it rounds |x| < 2^51 to an integer. */
#define ROUND_SHIFT_DOUBLE 0x1.8p52

HOST_DEVICE_INLINE double scale_power(int exponent) { /* 2^exponent, -1022 … 1023 */
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* ln b = k ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), b = 2^k m, m within sqrt(1/2) … sqrt(2). The result
 * feeds an exponential, where its absolute error becomes a relative one: hence a pair, good to 1e-18. */
HOST_DEVICE_INLINE double_pair log_pair(double b) {
    const double atanh_terms[] = {1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11, 1.0 / 13,
                                  1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23};
    int k = 0;
    if (b < 0x1p-1022) b *= 0x1p54, k = -54;
    uint64_t bits;
    memcpy(&bits, &b, sizeof bits);
    k += (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 0x1.6a09e667f3bcdp0) m *= 0.5, k++;
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

HOST_DEVICE_INLINE double exp_of_pair(double_pair y) {
    /* 1/2!, 1/3!, … 1/14!: what is left out is below 1e-18 at |r| = ln 2 / 2. */
    const double terms[] = {1.0 / 2,          1.0 / 6,        1.0 / 24,        1.0 / 120,
                            1.0 / 720,        1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                            1.0 / 3628800,    1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
                            1.0 / 87178291200};
    if (y.high > 710.0) return INFINITY;
    if (y.high < -746.0) return 0.0;
    double n = (y.high * 0x1.71547652b82fep0 + ROUND_SHIFT_DOUBLE) - ROUND_SHIFT_DOUBLE;
    double_pair r = pair_sum(y.high - n * LN2_DOUBLE_HIGH, -n * LN2_DOUBLE_LOW);
    /* Summed again, since y.low can be a hundred times an ulp of r: what is left in r.low then counts to
     * first order. */
    r = pair_sum(r.high, r.low + y.low);
    double q = r.high + (r.low + (r.high * r.high * polynomial(terms, 13, r.high) + r.high * r.low));
    int k = (int)n, half = k / 2;
    return (1.0 + q) * scale_power(half) * scale_power(k - half);
}

/* base > 0 */
HOST_DEVICE_INLINE double math_pow_double(double base, double exponent) {
    double_pair l = log_pair(base);
    double_pair y = pair_product(exponent, l.high);
    return exp_of_pair(pair_sum(y.high, y.low + exponent * l.low));
}

/* 0 ≤ angle < 2^20 */
HOST_DEVICE_INLINE void math_sincos_double(double angle, double *sine, double *cosine) {
    /* pi/2 in three parts of 33, 33 and 53 bits: n < 2^20 times either of the first two is exact. */
    const double part1 = 0x1.921fb544p0, part2 = 0x1.0b4611a6p-34, part3 = 0x1.3198a2e037073p-69;
    const double sin_terms[] = {
        -1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
        -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
    const double cos_terms[] = {
        1.0 / 24,        -1.0 / 720,         1.0 / 40320,          -1.0 / 3628800,
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
