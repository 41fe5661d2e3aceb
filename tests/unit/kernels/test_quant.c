/* Quantised products: the reference against double precision, every variant that this machine runs against
 * the reference bit for bit, and rows into and out of strips. */
#include <math.h>

#include "base/memory.h"
#include "shard/kernels/cpu/quant.h"
#include "shard/kernels/quant_layout.h"
#include "tests/test.h"

static uint64_t random_state = 11;

static uint32_t random_u32(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static float random_unit(void) { return (float)(random_u32() >> 8) * 0x1p-23f - 1; }

static const weight_type types[] = {WEIGHT_Q8, WEIGHT_Q4};

/* A matrix of random bits: every stored value occurs, with scales of either sign, tiny ones too. */
static weight random_weight(weight_type type, uint32_t rows, uint32_t cols) {
    uint64_t bytes = weight_rows_bytes(type, rows, cols);
    uint8_t *data = aligned_alloc(64, bytes + 64);
    for (uint64_t i = 0; i < bytes; i++) data[i] = (uint8_t)random_u32();
    for (uint32_t r = 0; r < (rows + QUANT_ROWS - 1) / QUANT_ROWS; r++) {
        uint16_t *scales = (uint16_t *)(void *)(data + r * quant_strip_bytes(type, cols) +
                                                (size_t)quant_groups(cols) * quant_group_bytes(type));
        for (uint32_t i = 0; i < quant_groups(cols) * QUANT_ROWS; i++)
            scales[i] = (uint16_t)((random_u32() & 0x83FF) | (random_u32() % 12) << 10);
    }
    return (weight){.data = data, .rows = rows, .cols = cols, .type = type};
}

static quant_input input_of(const quant_kernels *k, const float *x, uint32_t tokens, uint32_t cols) {
    size_t n = (size_t)quant_padded(tokens) * quant_groups(cols);
    quant_input in = {aligned_alloc(64, n * QUANT_GROUP + 64 - n * QUANT_GROUP % 64),
                      memory_alloc_array(n, sizeof(float)),
                      memory_alloc_array(n, sizeof(int32_t)),
                      tokens,
                      quant_groups(cols),
                      quant_block_rows(tokens)};
    for (uint32_t t = 0; t < tokens; t++) quant_token(k, &in, t, x + (size_t)t * cols, cols, 0, in.groups);
    quant_clear_rest(&in);
    return in;
}

static void input_free(quant_input *in) {
    free(in->values);
    free(in->scale);
    free(in->bias);
}

static float *random_tokens(uint32_t tokens, uint32_t cols) {
    float *x = memory_alloc_array((size_t)tokens * cols + 1, sizeof *x);
    for (size_t i = 0; i < (size_t)tokens * cols; i++)
        x[i] = i / 32 % 7 == 3 ? 0 : ldexpf(random_unit(), (int)(i / 32 % 40) - 20);
    return x;
}

static const quant_kernels *variant;

static void check_product(weight_type type, uint32_t rows, uint32_t cols, uint32_t tokens) {
    weight w = random_weight(type, rows, cols);
    float *x = random_tokens(tokens, cols);
    uint32_t stride = rows + 3;
    float *want = memory_alloc_array((size_t)tokens * stride, sizeof *want),
          *got = memory_alloc_array((size_t)tokens * stride, sizeof *got);
    quant_input a = input_of(&quant_kernels_scalar, x, tokens, cols), b = input_of(variant, x, tokens, cols);
    size_t n = (size_t)quant_padded(tokens) * a.groups;
    CHECK(!memcmp(a.values, b.values, n * QUANT_GROUP) && !memcmp(a.scale, b.scale, n * 4) &&
          !memcmp(a.bias, b.bias, n * 4));
    quant_product_of(&quant_kernels_scalar, type)(want, stride, &a, 0, tokens, w.data, rows, cols);
    /* The same in two calls, as chunks of tokens come. */
    uint32_t first = tokens > QUANT_BLOCK ? tokens / 2 / QUANT_BLOCK * QUANT_BLOCK : 0;
    if (first) quant_product_of(variant, type)(got, stride, &b, 0, first, w.data, rows, cols);
    quant_product_of(variant, type)(got, stride, &b, first, tokens - first, w.data, rows, cols);
    CHECK_THAT(!memcmp(want, got, (size_t)tokens * stride * sizeof *want),
               "%s, type %d, %u rows, %u columns, %u tokens", variant->name, (int)type, rows, cols, tokens);
    free((void *)(uintptr_t)w.data), free(x), free(want), free(got), input_free(&a), input_free(&b);
}

TEST(products) {
    static const uint32_t rows[] = {1, 7, 8, 9, 16, 23, 48}, cols[] = {1, 31, 32, 33, 96, 200};
    for (size_t t = 0; t < 2; t++)
        for (size_t r = 0; r < 7; r++)
            for (size_t c = 0; c < 6; c++)
                for (uint32_t tokens = 1; tokens <= 20; tokens++)
                    check_product(types[t], rows[r], cols[c], tokens);
}

TEST(products_over_panels) {
    for (size_t t = 0; t < 2; t++) {
        check_product(types[t], 40, 96 * 32, 33);
        check_product(types[t], 17, 97 * 32, 16);
        check_product(types[t], 16, 200 * 32 + 5, 31);
        check_product(types[t], 20, 64, 300); /* more than sixteen blocks of tokens */
        check_product(types[t], 33, 5376, 8);
        check_product(types[t], 0, 64, 4);
    }
}

/* The largest magnitudes that fit: pairs of AVX2 must not saturate. */
TEST(extremes) {
    enum { COLS = 64, TOKENS = 18 };
    for (size_t t = 0; t < 2; t++) {
        for (int byte = 0; byte < 256; byte += 15) {
            weight w = random_weight(types[t], 16, COLS);
            memset((void *)(uintptr_t)w.data, byte, (size_t)quant_groups(COLS) * quant_group_bytes(types[t]));
            float x[TOKENS * COLS], want[TOKENS * 16], got[TOKENS * 16];
            for (int i = 0; i < TOKENS * COLS; i++) x[i] = i / COLS % 2 ? -1.0f : 1.0f;
            quant_input a = input_of(variant, x, TOKENS, COLS);
            quant_product_of(&quant_kernels_scalar, types[t])(want, 16, &a, 0, TOKENS, w.data, 16, COLS);
            quant_product_of(variant, types[t])(got, 16, &a, 0, TOKENS, w.data, 16, COLS);
            CHECK_THAT(!memcmp(want, got, sizeof want), "%s, type %d, bytes %d", variant->name, (int)types[t],
                       byte);
            free((void *)(uintptr_t)w.data), input_free(&a);
        }
    }
}

/* Against what the quantised numbers come to in double precision. */
TEST(reference_is_the_sum) {
    enum { ROWS = 19, COLS = 333, TOKENS = 3 };
    for (size_t t = 0; t < 2; t++) {
        weight w = random_weight(types[t], ROWS, COLS);
        float *x = random_tokens(TOKENS, COLS), y[TOKENS * ROWS], row[COLS];
        quant_input in = input_of(&quant_kernels_scalar, x, TOKENS, COLS);
        quant_product_of(&quant_kernels_scalar, types[t])(y, ROWS, &in, 0, TOKENS, w.data, ROWS, COLS);
        for (uint32_t i = 0; i < TOKENS * ROWS; i++) {
            double sum = 0, size = 0;
            quant_row(&w, i % ROWS, row);
            for (uint32_t c = 0; c < COLS; c++) {
                size_t at = quant_place(&in, i / ROWS, c / 32);
                double value = (double)in.values[at * 32 + c % 32] * in.scale[at];
                CHECK(fabs(value - x[i / ROWS * COLS + c]) <= in.scale[at] * 0.5001);
                sum += value * row[c];
                size += fabs(value * row[c]);
            }
            CHECK(fabs(y[i] - sum) <= size * 1e-6);
        }
        free((void *)(uintptr_t)w.data), free(x), input_free(&in);
    }
}

TEST(rows_come_back) {
    enum { ROWS = 21, COLS = 77 };
    for (size_t t = 0; t < 2; t++) {
        weight w = {.data = memory_alloc(weight_rows_bytes(types[t], ROWS, COLS)),
                    .rows = ROWS,
                    .cols = COLS,
                    .type = types[t]};
        float x[ROWS][COLS], y[COLS];
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t c = 0; c < COLS; c++) x[r][c] = r == 5 ? 0 : random_unit() * (float)(r + 1);
        for (uint32_t r = 0; r < ROWS; r++)
            quant_store_floats(types[t], (void *)(uintptr_t)w.data, COLS, r, x[r]);
        for (uint32_t r = 0; r < ROWS; r++) {
            quant_row(&w, r, y);
            for (uint32_t c = 0; c < COLS; c++) {
                float largest = 0;
                for (uint32_t i = c / 32 * 32; i < COLS && i < c / 32 * 32 + 32; i++)
                    largest = fmaxf(largest, fabsf(x[r][i]));
                /* Half a step, or with Q4 a whole one at the end of the range that has one value less; the
                 * scale itself is rounded to eleven bits. */
                float step = types[t] == WEIGHT_Q8 ? largest / 127 * 0.5f : largest / 8;
                CHECK(fabsf(y[c] - x[r][c]) <= step * 1.001 + largest * 0x1p-11);
            }
        }
        free((void *)(uintptr_t)w.data);
    }
}

/* Blocks of GGUF, written out by the format's definition. */
TEST(blocks_are_exact) {
    uint8_t q4[18] = {0x00, 0x3C}, q8[34] = {0x00, 0xBC}, q5[22] = {0x00, 0x38}; /* scales 1, -1, 0.5 */
    float y[32];
    for (int i = 0; i < 16; i++) q4[2 + i] = (uint8_t)(i | (15 - i) << 4);
    for (int i = 0; i < 32; i++) q8[2 + i] = (uint8_t)(i * 8 - 128);
    q5[2] = 0x01, q5[5] = 0x80;
    for (int i = 0; i < 16; i++) q5[6 + i] = (uint8_t)(i | i << 4);
    uint8_t *data = memory_alloc(1024);
    quant_store_q4_0(data, 32, 3, q4);
    quant_row(&(weight){.data = data, .rows = 16, .cols = 32, .type = WEIGHT_Q4}, 3, y);
    for (int i = 0; i < 32; i++) CHECK(y[i] == (i < 16 ? i - 8 : 15 - (i - 16) - 8));
    quant_store_q8_0(data, 32, 0, q8);
    quant_row(&(weight){.data = data, .rows = 16, .cols = 32, .type = WEIGHT_Q8}, 0, y);
    for (int i = 0; i < 32; i++) CHECK(y[i] == -(i * 8 - 128));
    quant_store_q5_0(data, 32, 15, q5);
    quant_row(&(weight){.data = data, .rows = 16, .cols = 32, .type = WEIGHT_Q8}, 15, y);
    for (int i = 0; i < 32; i++) CHECK(y[i] == 0.5f * (i % 16 + (i == 0 || i == 31 ? 16 : 0) - 16));
    free(data);
}

static void run_all(const quant_kernels *v) {
    variant = v;
    printf("%s\n", v->name);
    RUN(products);
    RUN(products_over_panels);
    RUN(extremes);
}

int main(void) {
    RUN(reference_is_the_sum);
    RUN(rows_come_back);
    RUN(blocks_are_exact);
    const quant_kernels *all[] = {quant_kernels_avx2(), quant_kernels_avxvnni(), quant_kernels_avx512(),
                                  quant_kernels_amx()};
    static const char *const names[] = {"avx2", "avxvnni", "avx512 with VNNI", "amx"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i]) run_all(all[i]);
        else test_skipped++, printf("%s: this machine does not have it\n", names[i]);
    }
    return test_result();
}
