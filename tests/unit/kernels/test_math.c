/* The functions of our own against libm in long double. */
#include <math.h>

#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/math_double.h"
#include "tests/test.h"

static uint64_t random_state = 1;

static double uniform(void) { /* 0 ≤ x < 1 */
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

TEST(sincos_is_within_three_half_ulps_of_one) {
    /* Reduction leaves 2^-106 or so, the polynomials and their last additions an ulp of 1 (1.1e-16) each. */
    double worst = 0;
    for (int i = 0; i < 1000000; i++) {
        double angle = uniform() * (i % 4 == 0 ? 8 : i % 4 == 1 ? 4096 : 0x1p20);
        if (i % 5 == 0) { /* beside multiples of pi/2, where reduction cancels most */
            double near = floor(uniform() * 600000) * 1.57079632679489661923;
            angle = nextafter(near, uniform() < 0.5 ? 0 : 1e9);
        }
        double s, c;
        math_sincos_double(angle, &s, &c);
        worst = fmax(worst, (double)fabsl(s - sinl(angle)));
        worst = fmax(worst, (double)fabsl(c - cosl(angle)));
    }
    CHECK_THAT(worst <= 1.7e-16, "%g", worst);
    double s, c;
    math_sincos_double(0, &s, &c);
    CHECK(s == 0 && c == 1);
}

TEST(pow_is_accurate_to_two_ulps) {
    double worst = 0;
    for (int i = 0; i < 1000000; i++) {
        double base = exp2(uniform() * (i % 2 ? 24 : 200) - (i % 2 ? 0 : 100)), exponent = uniform() * 6 - 3;
        if (i % 3 == 0) base = i % 2 ? 10000.0 : 1000000.0, exponent = -uniform();
        long double want = powl(base, exponent);
        double error = (double)(fabsl(math_pow_double(base, exponent) - want) / want);
        worst = fmax(worst, error);
    }
    CHECK_THAT(worst <= 2.3e-16, "%g", worst);
    CHECK(math_pow_double(10000.0, 0) == 1);
    CHECK(math_pow_double(2.0, 1023) == 0x1p1023);
    CHECK(math_pow_double(2.0, -1022) == 0x1p-1022);
    CHECK(math_pow_double(2.0, -1074) == 0x1p-1074);
    CHECK(math_pow_double(2.0, -1100) == 0);
    CHECK(math_pow_double(2.0, 1024) == INFINITY);
    CHECK(math_pow_double(0x1p-1074, -0.5) == 0x1p537);
}

TEST(rope_angles_match_long_double) {
    /* The angle itself is rounded twice (the power, the product): 2^-52 of at most 2^20; then to float. */
    static const uint32_t positions[] = {0, 1, 63, 4095, 16384, 262143, 1048575};
    static const struct {
        double base;
        uint32_t head_dim, pairs;
    } cases[] = {{10000.0, 256, 128}, {1000000.0, 512, 64}, {1000000.0, 24, 12}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
            float cf[128], sf[128];
            double cd[128], sd[128];
            rope_angles(cf, sf, positions[p], cases[k].base, cases[k].head_dim, cases[k].pairs);
            rope_angles_double(cd, sd, positions[p], cases[k].base, cases[k].head_dim, cases[k].pairs);
            int bad = 0;
            for (uint32_t i = 0; i < cases[k].pairs; i++) {
                long double exponent = -2.0L * i / cases[k].head_dim;
                long double angle = positions[p] * powl(cases[k].base, exponent);
                /* rounding the exponent costs |ln base · exponent| · 2^-53 more */
                long double bound = angle * 18 * 0x1p-53L + 2e-16L;
                if (fabsl(cd[i] - cosl(angle)) > bound || fabsl(sd[i] - sinl(angle)) > bound) bad++;
                if (cf[i] != (float)cd[i] || sf[i] != (float)sd[i]) bad++;
            }
            CHECK_THAT(bad == 0, "base %g position %u: %d pairs", cases[k].base, positions[p], bad);
        }
    }
}

/* Worst error of f over x in ulps of the true value (floored at the smallest normal, where an ulp stops
 * shrinking). */
static double ulps(float got, double want) {
    if (isinf(want) || fabs(want) >= 0x1.ffffffp127) return isinf(got) && (got > 0) == (want > 0) ? 0 : 1e9;
    int exponent;
    frexp(want, &exponent);
    if (exponent < -125) exponent = -125;
    return fabs(got - want) / ldexp(1, exponent - 24);
}

TEST(exp_is_within_two_ulps) {
    const cpu_kernels *k = &cpu_kernels_scalar;
    double worst = 0;
    for (int i = 0; i < 1000000; i++) {
        float x = (float)(i % 2 ? uniform() * 200 - 110 : uniform() * 2 - 1), y;
        k->exp_sum(&y, &x, 0, 1, 1);
        worst = fmax(worst, ulps(y, exp((double)x)));
    }
    CHECK_THAT(worst <= 1.0, "%g ulps", worst);
    static const struct {
        float x, y;
    } exact[] = {{0, 1},    {-0.0f, 1},  {-INFINITY, 0},    {INFINITY, INFINITY},
                 {-104, 0}, {-1e30f, 0}, {1e30f, INFINITY}, {-103.5f, 0x1p-149f}};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        float x = exact[i].x, y;
        k->exp_sum(&y, &x, 0, 1, 1);
        CHECK_THAT(!memcmp(&y, &exact[i].y, sizeof y), "exp(%g) = %g", x, y);
    }
}

TEST(tanh_is_within_three_ulps) {
    /* cap 1: softcap is tanh. Below 0.625 the polynomial; above, 1 - 2/(e + 1), whose quotient of at most
     * 0.45 carries 2 ulps of its own into a value of at least 0.55. */
    double worst = 0;
    for (int i = 0; i < 1000000; i++) {
        float x = (float)(i % 3 == 0   ? uniform() * 24 - 12
                          : i % 3 == 1 ? uniform() * 2 - 1
                                       : exp2(-uniform() * 140)),
              y = x;
        cpu_kernels_scalar.softcap(&y, 1, 1);
        worst = fmax(worst, ulps(y, tanh((double)x)));
    }
    CHECK_THAT(worst <= 3.0, "%g ulps", worst);
    static const struct {
        float x, y;
    } exact[] = {{0, 0},  {-0.0f, -0.0f}, {INFINITY, 1},         {-INFINITY, -1},
                 {30, 1}, {-1e30f, -1},   {0x1p-149f, 0x1p-149f}};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        float y = exact[i].x;
        cpu_kernels_scalar.softcap(&y, 1, 1);
        CHECK_THAT(!memcmp(&y, &exact[i].y, sizeof y), "tanh(%g) = %g", exact[i].x, y);
    }
}

TEST(gelu_matches_its_formula) {
    /* x / (1 + e), e = exp(-2u). The rounded argument of exp is off by at most 4 half ulps, which e has as a
     * relative error of |2u| · 4 · 2^-24; e's weight in 1 + e never exceeds 1. */
    int bad = 0;
    float worst_x = 0;
    double worst = 0;
    for (int i = 0; i < 1000000; i++) {
        float x = (float)(i % 2 ? uniform() * 12 - 6 : uniform() * 60 - 30), one = 1, y;
        cpu_kernels_scalar.gelu_multiply(&y, &x, &one, 1);
        double u = 0.79788456080286535588 * (x + 0.044715 * (double)x * x * x);
        double want = x / (1 + exp(-2 * u)), e = exp(-2 * u) / (1 + exp(-2 * u));
        if (fabs(want) < 0x1p-124) { /* e beyond the largest float: x / inf is 0 */
            if (fabs(y - want) > 0x1p-124) bad++;
            continue;
        }
        double error = fabs(y - want) / fabs(want), bound = (2 * fabs(u) * e * 5 + 4) * 0x1p-24;
        if (error / bound > worst) worst = error / bound, worst_x = x;
    }
    CHECK_THAT(bad == 0 && worst <= 1, "%d, %g of the bound at %.9g", bad, worst, worst_x);
    float x[3] = {-0.0f, 1e20f, -1e20f}, one[3] = {1, 1, 1}, y[3];
    cpu_kernels_scalar.gelu_multiply(y, x, one, 3);
    CHECK(y[0] == 0 && signbit(y[0]) && y[1] == 1e20f && y[2] == 0);
}

int main(void) {
    RUN(sincos_is_within_three_half_ulps_of_one);
    RUN(pow_is_accurate_to_two_ulps);
    RUN(rope_angles_match_long_double);
    RUN(exp_is_within_two_ulps);
    RUN(tanh_is_within_three_ulps);
    RUN(gelu_matches_its_formula);
    return test_result();
}
