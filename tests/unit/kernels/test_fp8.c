/* e4m3 against its definition, and rows into and out of strips of fp8. */
#include <math.h>

#include "base/half.h"
#include "base/memory.h"
#include "shard/kernels/quant_layout.h"
#include "tests/test.h"

static uint64_t random_state = 5;

static uint32_t random_u32(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* By the definition: (-1)^s · 2^(e - 7) · (1 + m / 8), and for e = 0: (-1)^s · 2^-6 · m / 8. */
static double value_of(int code) {
    int exponent = code >> 3 & 15, fraction = code & 7;
    double x = exponent ? ldexp(1 + fraction / 8.0, exponent - 7) : ldexp(fraction / 8.0, -6);
    return code & 0x80 ? -x : x;
}

/* The nearest of all finite codes; of two as near the even one. */
static int nearest(double x) {
    int best = 0;
    for (int code = 1; code < 0x7F; code++) {
        double d = fabs(fabs(x) - value_of(code)), to_best = fabs(fabs(x) - value_of(best));
        if (d < to_best || (d == to_best && code % 2 == 0)) best = code;
    }
    return best | (signbit(x) ? 0x80 : 0);
}

TEST(all_codes) {
    for (int code = 0; code < 256; code++) {
        float x = e4m3_to_float((uint8_t)code);
        if ((code & 0x7F) == 0x7F) {
            CHECK(isnan(x) && !signbit(x) == !(code & 0x80));
            continue;
        }
        CHECK_THAT(x == value_of(code) && !signbit(x) == !(code & 0x80), "code %d is %g", code, (double)x);
        CHECK_THAT(e4m3_from_float(x) == code, "%g comes back as %d", (double)x, e4m3_from_float(x));
    }
    CHECK(e4m3_to_float(0x7E) == E4M3_LARGEST && e4m3_to_float(1) == 0x1p-9f);
}

static void check_rounding(float x) {
    int want = nearest(x), got = e4m3_from_float(x);
    CHECK_THAT(got == want, "%a is %d, not %d", (double)x, got, want);
}

/* Between any two neighbours: the middle, and what is next to it on both sides. */
TEST(rounding_and_ties) {
    for (int code = 0; code < 0x7E; code++) {
        float middle = (float)((value_of(code) + value_of(code + 1)) / 2);
        for (int sign = -1; sign <= 1; sign += 2) {
            check_rounding((float)sign * middle);
            check_rounding((float)sign * nextafterf(middle, 0));
            check_rounding((float)sign * nextafterf(middle, INFINITY));
        }
        CHECK(e4m3_from_float(middle) % 2 == 0);
    }
    for (int i = 0; i < 200000; i++) {
        float x = of_bits(random_u32());
        if (!isnan(x)) check_rounding(x);
        check_rounding(ldexpf((float)(random_u32() >> 8) * 0x1p-23f - 1, (int)(random_u32() % 24) - 13));
    }
}

TEST(what_is_too_large_is_the_largest) {
    static const float large[] = {448, 449, 463.99f, 464, 465, 480, 1e30f, INFINITY};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        CHECK(e4m3_from_float(large[i]) == 0x7E && e4m3_from_float(-large[i]) == 0xFE);
    CHECK(e4m3_from_float(NAN) == 0x7F && e4m3_from_float(-NAN) == 0xFF);
    CHECK(e4m3_from_float(0x1p-10f) == 0 && e4m3_from_float(nextafterf(0x1p-10f, 1)) == 1);
    CHECK(e4m3_from_float(of_bits(1)) == 0 && e4m3_from_float(-0.0f) == 0x80);
}

/* Every byte of the strips is what weight.h says: rows, then zeros to 16 columns, then scales. */
static void check_strips(uint32_t rows, uint32_t cols) {
    uint64_t bytes = weight_rows_bytes(WEIGHT_FP8, rows, cols), strip = quant_strip_bytes(WEIGHT_FP8, cols);
    uint32_t row_bytes = (cols + 15) / 16 * 16;
    CHECK(bytes == (rows + 15) / 16 * strip && strip == 16u * row_bytes + 64);
    uint8_t *data = memory_alloc(bytes), *want = memory_alloc(bytes);
    weight w = {.data = data, .rows = rows, .cols = cols, .type = WEIGHT_FP8};
    float *x = memory_alloc_array((size_t)rows * cols, sizeof *x), *y = memory_alloc_array(cols, sizeof *y);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < cols && r % 11 != 4; c++) /* some rows are 0 */
            x[(size_t)r * cols + c] = ldexpf((float)(random_u32() >> 8) * 0x1p-23f - 1, (int)(r % 60) - 30);
        quant_store_floats(WEIGHT_FP8, data, cols, r, x + (size_t)r * cols);
    }
    for (uint32_t r = 0; r < rows; r++) {
        const float *row = x + (size_t)r * cols;
        uint8_t *at = want + r / 16 * strip;
        float largest = 0;
        for (uint32_t c = 0; c < cols; c++) largest = fmaxf(largest, fabsf(row[c]));
        float scale = largest / 448;
        memcpy(at + 16 * (size_t)row_bytes + r % 16 * 4, &scale, 4);
        quant_row(&w, r, y);
        for (uint32_t c = 0; c < cols; c++) {
            if (scale > 0) at[r % 16 * row_bytes + c] = (uint8_t)nearest(row[c] / scale);
            /* Half a step of three bits, or of the smallest number that a row tells from 0. */
            CHECK(fabsf(y[c] - row[c]) <= fmaxf(fabsf(row[c]) / 16, 0x1p-10f * scale) * 1.000001f);
        }
    }
    CHECK_THAT(!memcmp(data, want, bytes), "%u x %u", rows, cols);
    free(data), free(want), free(x), free(y);
}

TEST(strips) {
    static const uint32_t rows[] = {1, 7, 15, 16, 17, 33}, cols[] = {1, 15, 16, 17, 31, 100, 257};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t c = 0; c < sizeof cols / sizeof *cols; c++) check_strips(rows[r], cols[c]);
}

/* Scales at the ends of the range: nothing becomes NaN or infinite. */
TEST(rows_of_extreme_size) {
    static const float sizes[] = {0x1p-149f, 0x1p-141f, 0x1p-140f, 0x1p-126f, 1, 0x1p127f, 0x1.fffffep127f};
    uint8_t *data = memory_alloc(quant_strip_bytes(WEIGHT_FP8, 3));
    weight w = {.data = data, .rows = 16, .cols = 3, .type = WEIGHT_FP8};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        float x[3] = {sizes[i], -sizes[i], sizes[i] / 2}, y[3];
        quant_store_floats(WEIGHT_FP8, data, 3, (uint32_t)i, x);
        quant_row(&w, (uint32_t)i, y);
        for (int c = 0; c < 3; c++) {
            CHECK(isfinite(y[c]));
            if (sizes[i] >= 0x1p-110f) CHECK(fabsf(y[c] - x[c]) <= fabsf(x[c]) * 0x1p-22f);
        }
    }
    free(data);
}

int main(void) {
    RUN(all_codes);
    RUN(rounding_and_ties);
    RUN(what_is_too_large_is_the_largest);
    RUN(strips);
    RUN(rows_of_extreme_size);
    return test_result();
}
