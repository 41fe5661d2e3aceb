/* Double functions of our own: glibc picks other code on a processor with FMA, and rotary angles must have
 * the same bits on every rank. Only + - · / and bit moves, in a fixed order; nothing here may be contracted
 * (-ffp-contract=off). */
#include <math.h>
#include <string.h>

#include "shard/kernels/cpu/cpu_kernels.h"

/* An unevaluated sum high + low, |low| at most half an ulp of high: about 106 bits. */
typedef struct pair {
    double high, low;
} pair;

static pair pair_sum(double a, double b) { /* Knuth: exact for any order of magnitudes */
    double s = a + b, t = s - a;
    return (pair){s, (a - (s - t)) + (b - t)};
}

static pair pair_product(double a, double b) { /* Dekker: halves of 26 bits, whose products are exact */
    double p = a * b, t = 134217729.0 * a, u = 134217729.0 * b;
    double a1 = t - (t - a), a2 = a - a1, b1 = u - (u - b), b2 = b - b1;
    return (pair){p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2};
}

static double polynomial(const double *c, int n, double x) { /* c[0] + c[1] x + … */
    double y = c[n - 1];
    for (int i = n - 2; i >= 0; i--) y = y * x + c[i];
    return y;
}

/* ln 2 in two parts; k · high is exact for |k| < 2^11. */
static const double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
/* Adding it rounds |x| < 2^51 to an integer. */
static const double round_shift = 0x1.8p52;

static double scale_power(int exponent) { /* 2^exponent, -1022 … 1023 */
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* ln b = k ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), b = 2^k m, m within sqrt(1/2) … sqrt(2). The result
 * feeds an exponential, where its absolute error becomes a relative one: hence a pair, good to 1e-18. */
static pair log_pair(double b) {
    static const double atanh_terms[] = {1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11, 1.0 / 13,
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
    pair g = pair_sum(m, 1.0);
    double s = f / g.high;
    pair back = pair_product(s, g.high);
    double s_low = (((f - back.high) - back.low) - s * g.low) / g.high;
    double s2 = s * s;
    double tail = 2.0 * s * s2 * polynomial(atanh_terms, 11, s2);
    pair sum = pair_sum(k * ln2_high, 2.0 * s);
    return pair_sum(sum.high, sum.low + (tail + (2.0 * s_low + k * ln2_low)));
}

static double exp_of_pair(pair y) {
    /* 1/2!, 1/3!, … 1/14!: what is left out is below 1e-18 at |r| = ln 2 / 2. */
    static const double terms[] = {1.0 / 2,          1.0 / 6,        1.0 / 24,        1.0 / 120,
                                   1.0 / 720,        1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                   1.0 / 3628800,    1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
                                   1.0 / 87178291200};
    if (y.high > 710.0) return INFINITY;
    if (y.high < -746.0) return 0.0;
    double n = (y.high * 0x1.71547652b82fep0 + round_shift) - round_shift;
    pair r = pair_sum(y.high - n * ln2_high, -n * ln2_low);
    /* Summed again, since y.low can be a hundred times an ulp of r: what is left in r.low then counts to
     * first order. */
    r = pair_sum(r.high, r.low + y.low);
    double q = r.high + (r.low + (r.high * r.high * polynomial(terms, 13, r.high) + r.high * r.low));
    int k = (int)n, half = k / 2;
    return (1.0 + q) * scale_power(half) * scale_power(k - half);
}

double math_pow_double(double base, double exponent) {
    pair l = log_pair(base);
    pair y = pair_product(exponent, l.high);
    return exp_of_pair(pair_sum(y.high, y.low + exponent * l.low));
}

void math_sincos_double(double angle, double *sine, double *cosine) {
    /* pi/2 in three parts of 33, 33 and 53 bits: n < 2^20 times either of the first two is exact. */
    static const double part1 = 0x1.921fb544p0, part2 = 0x1.0b4611a6p-34, part3 = 0x1.3198a2e037073p-69;
    static const double sin_terms[] = {
        -1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
        -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
    static const double cos_terms[] = {
        1.0 / 24,        -1.0 / 720,         1.0 / 40320,          -1.0 / 3628800,
        1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
    double n = (angle * 0x1.45f306dc9c883p-1 + round_shift) - round_shift;
    pair r = pair_sum(angle - n * part1, -n * part2);
    r = pair_sum(r.high, r.low - n * part3);
    double x = r.high, low = r.low, x2 = x * x;
    double half = 0.5 * x2, one = 1.0 - half;
    double s = x + (low * (1.0 - half) + x * x2 * polynomial(sin_terms, 8, x2));
    double c = one + (((1.0 - one) - half) + (x2 * x2 * polynomial(cos_terms, 8, x2) - x * low));
    switch ((int)n & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s; break;
    }
}
