/* The scalar reference against double precision, with bounds from the arithmetic, and against the letter of
 * cpu_kernels.h where that fixes the bits. The vector variants are compared with the reference in
 * test_kernels.c. */
#include <math.h>

#include "shard/kernels/cpu/cpu_kernels.h"
#include "tests/test.h"

static const cpu_kernels *const k = &cpu_kernels_scalar;
static const float ulp = 0x1p-24f; /* relative error of one rounding */
static uint64_t random_state = 3;

static float uniform(void) { /* -1 … 1 */
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) * 0x1p-23f - 1;
}

static void fill(float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] = uniform();
}

/* The sum of the header's first paragraph, written as it is told. */
static float told_dot(const float *x, const float *w, uint32_t n) {
    float l[16] = {0};
    for (uint32_t i = 0; i < n; i++) l[i % 16] = fmaf(x[i], w[i], l[i % 16]);
    for (int step = 8; step > 0; step /= 2)
        for (int j = 0; j < step; j++) l[j] += l[j + step];
    return l[0];
}

TEST(matmul_is_the_sum_that_is_told) {
    enum { ROWS = 5, TOKENS = 3, COLS = 133, STRIDE = 140 };
    static float x[TOKENS * STRIDE], w[ROWS * STRIDE], wide[ROWS * STRIDE], y[TOKENS * 8];
    static uint16_t narrow[ROWS * STRIDE];
    fill(x, TOKENS * STRIDE), fill(w, ROWS * STRIDE);
    for (int type = 0; type < WEIGHT_FLOAT_TYPES; type++) {
        memcpy(wide, w, sizeof w);
        if (type == WEIGHT_BF16) {
            k->bf16_from_f32(narrow, w, ROWS * STRIDE);
            k->f32_from_bf16(wide, narrow, ROWS * STRIDE);
        } else if (type == WEIGHT_F16) {
            for (int i = 0; i < ROWS * STRIDE; i++)
                narrow[i] = (uint16_t)(i * 40503u & 0xBBFF); /* no inf, no NaN */
            k->f32_from_f16(wide, narrow, ROWS * STRIDE);
        }
        for (uint32_t cols = 0; cols <= COLS; cols++) {
            k->matmul[type](y, 8, x, STRIDE, type == WEIGHT_F32 ? (const void *)wide : narrow, STRIDE, ROWS,
                            TOKENS, cols);
            int bad = 0;
            for (int t = 0; t < TOKENS; t++)
                for (int r = 0; r < ROWS; r++) {
                    float want = told_dot(x + t * STRIDE, wide + r * STRIDE, cols);
                    if (memcmp(&want, &y[t * 8 + r], sizeof want)) bad++;
                }
            CHECK_THAT(bad == 0, "type %d, %u columns: %d", type, cols, bad);
        }
    }
}

TEST(matmul_is_near_the_exact_sum) {
    enum { N = 5376 };
    static float x[N], w[N];
    fill(x, N), fill(w, N);
    double exact = 0, magnitude = 0;
    for (int i = 0; i < N; i++) exact += (double)x[i] * w[i], magnitude += fabs((double)x[i] * w[i]);
    float y;
    k->matmul[WEIGHT_F32](&y, 1, x, N, w, N, 1, 1, N);
    /* each term meets at most n/16 + 4 roundings */
    CHECK_THAT(fabs(y - exact) <= (N / 16 + 4) * ulp * magnitude, "%g %g", y, exact);
}

TEST(rmsnorm_matches_double) {
    enum { N = 1000 };
    float x[N], w[N], y[N], plain[N];
    fill(x, N), fill(w, N);
    double sum = 0;
    for (int i = 0; i < N; i++) sum += (double)x[i] * x[i];
    double factor = 1 / sqrt(sum / N + 1e-6);
    k->rmsnorm(y, x, w, 1e-6f, N);
    k->rmsnorm(plain, x, NULL, 1e-6f, N);
    int bad = 0;
    for (int i = 0; i < N; i++) {
        /* the sum is off by n/16 + 5 roundings, halved by the root; six more of the rest */
        double bound = ((N / 16 + 5) / 2.0 + 6) * ulp;
        if (fabs(y[i] - x[i] * factor * w[i]) > bound * fabs(x[i] * factor * w[i])) bad++;
        if (fabs(plain[i] - x[i] * factor) > bound * fabs(x[i] * factor)) bad++;
    }
    CHECK_THAT(bad == 0, "%d", bad);
}

TEST(softmax_over_pages_matches_double) {
    enum { PAGES = 3, KEYS = PAGES * 64, DIM = 48 };
    static float scores[KEYS], values[KEYS * DIM], page[64];
    float o[DIM] = {0}, m = -INFINITY, l = 0;
    double exact[DIM] = {0}, weights = 0;
    for (int i = 0; i < KEYS; i++) scores[i] = uniform() * 20;
    fill(values, KEYS * DIM);
    const uint32_t begin = 5, end = KEYS - 9; /* a window that starts and ends inside a page */
    for (uint32_t i = begin; i < end; i++) {
        double p = exp((double)scores[i]);
        weights += p;
        for (int d = 0; d < DIM; d++) exact[d] += p * values[i * DIM + d];
    }
    for (uint32_t at = 0; at < KEYS; at += 64) {
        uint32_t first = at < begin ? begin - at : 0, last = at + 64 > end ? end - at : 64;
        memcpy(page, scores + at, sizeof page);
        float rescale = k->softmax_page(page, first, last, &m, &l);
        CHECK(first == 0 || (page[first - 1] == 0 && !signbit(page[first - 1])));
        CHECK(last == 64 || page[last] == 0);
        kv_run v = {.data = values + at * DIM, .stride = DIM, .count = DIM, .paired = false};
        k->values_page(o, DIM, &rescale, page, 1, &v, first, last);
    }
    int bad = 0;
    for (int d = 0; d < DIM;
         d++) /* an exponent of 40 costs 40 roundings of its argument; 64 · 3 sums of values below 1 */
        if (fabs(o[d] / l - exact[d] / weights) > (40 + KEYS) * ulp) bad++;
    CHECK_THAT(bad == 0, "%d", bad);
}

TEST(softmax_page_of_the_first_key) {
    float scores[64] = {0}, m = -INFINITY, l = 0;
    scores[7] = 3;
    float rescale = k->softmax_page(scores, 7, 8, &m, &l);
    CHECK(rescale == 0 && m == 3 && l == 1 && scores[7] == 1 && scores[6] == 0 && scores[8] == 0);
}

TEST(softmax_page_has_no_subnormal_weights) {
    float scores[64] = {0}, m = -INFINITY, l = 0;
    scores[0] = -63.9f, scores[1] = -64.1f, scores[2] = -90;
    float rescale = k->softmax_page(scores, 0, 64, &m, &l);
    CHECK(rescale == 0 && scores[0] > 0 && scores[1] == 0 && scores[2] == 0 && scores[3] == 1);
    float later[64] = {0}, old = -70;
    CHECK(k->softmax_page(later, 0, 64, &old, &l) == 0);
}

/* Paired bf16 in two runs, against the sum of the header's first paragraph. */
TEST(scores_are_the_sum_that_is_told) {
    enum { DIM = 96, ROWS = 64 };
    static float q[DIM], wide[ROWS * DIM], scores[64];
    static uint16_t narrow[ROWS * DIM], stored[ROWS * DIM];
    fill(q, DIM), fill(wide, ROWS * DIM);
    k->bf16_from_f32(narrow, wide, ROWS * DIM);
    k->f32_from_bf16(wide, narrow, ROWS * DIM);
    for (uint32_t i = 0; i < ROWS * DIM; i++) stored[kv_pair_at(i)] = narrow[i];
    const kv_run runs[] = {{.data = wide, .stride = DIM, .count = 32},
                           {.data = stored + 32, .stride = DIM, .count = 64, .paired = true}};
    k->scores_page(scores, q, DIM, 1, runs, 2, 0, ROWS);
    int bad = 0;
    for (int i = 0; i < ROWS; i++) {
        float want = told_dot(q, wide + i * DIM, DIM);
        if (memcmp(&want, &scores[i], sizeof want)) bad++;
    }
    CHECK_THAT(bad == 0, "%d", bad);
}

TEST(rope_turns_by_the_angle) {
    enum { HALF = 64, PAIRS = 32 };
    float x[2 * HALF], before[2 * HALF], c[PAIRS], s[PAIRS];
    fill(x, 2 * HALF);
    memcpy(before, x, sizeof x);
    rope_angles(c, s, 1234, 10000.0, 2 * HALF, PAIRS);
    k->rope(x, c, s, HALF, PAIRS);
    int bad = 0;
    for (int i = 0; i < PAIRS; i++) {
        double a = before[i], b = before[i + HALF];
        if (fabs(x[i] - (a * c[i] - b * s[i])) > 4 * ulp ||
            fabs(x[i + HALF] - (b * c[i] + a * s[i])) > 4 * ulp)
            bad++;
    }
    for (int i = PAIRS; i < HALF; i++) bad += x[i] != before[i] || x[i + HALF] != before[i + HALF];
    CHECK_THAT(bad == 0, "%d", bad);
}

TEST(halves_convert_exactly) {
    static const struct {
        uint16_t bits;
        float value;
    } f16[] = {{0x3C00, 1},        {0xC000, -2},           {0x7BFF, 65504},
               {0x0001, 0x1p-24f}, {0x03FF, 0x1.ff8p-15f}, {0x0400, 0x1p-14f},
               {0x8000, -0.0f},    {0x7C00, INFINITY},     {0x3555, 0x1.554p-2f}};
    for (size_t i = 0; i < sizeof f16 / sizeof *f16; i++) {
        float y;
        k->f32_from_f16(&y, &f16[i].bits, 1);
        CHECK_THAT(!memcmp(&y, &f16[i].value, sizeof y), "%04x is %g", f16[i].bits, y);
    }
    /* To even on a tie, up above it, into infinity past the largest; NaN stays one. */
    static const struct {
        float value;
        uint16_t bits;
    } bf16[] = {{1, 0x3F80},        {0x1.01p0f, 0x3F80},       {0x1.03p0f, 0x3F82}, {0x1.010002p0f, 0x3F81},
                {-0.0f, 0x8000},    {0x1.fffffep127f, 0x7F80}, {INFINITY, 0x7F80},  {0x1p-149f, 0x0000},
                {0x1p-133f, 0x0001}};
    for (size_t i = 0; i < sizeof bf16 / sizeof *bf16; i++) {
        uint16_t y;
        k->bf16_from_f32(&y, &bf16[i].value, 1);
        CHECK_THAT(y == bf16[i].bits, "%a is %04x, not %04x", bf16[i].value, y, bf16[i].bits);
    }
    uint32_t payload = 0x7F800001; /* a NaN whose upper half alone would be infinity */
    float nan_value;
    uint16_t y;
    memcpy(&nan_value, &payload, 4);
    k->bf16_from_f32(&y, &nan_value, 1);
    CHECK((y & 0x7FFF) > 0x7F80);
}

TEST(pick_obeys_the_cap) {
    const cpu_kernels *picked = NULL, *avx2 = cpu_kernels_avx2(), *avx512 = cpu_kernels_avx512();
    const cpu_kernels *up_to_avx2 = avx2 ? avx2 : k, *best = avx512 ? avx512 : up_to_avx2;
    static const char *const words[] = {"scalar", "avx2", "avxvnni", "avx512", "amx"};
    const cpu_kernels *const want[] = {k, up_to_avx2, up_to_avx2, best, best};
    for (int i = 0; i < 5; i++) {
        setenv("GEMMAD_ISA", words[i], 1);
        CHECK_STATUS(cpu_kernels_pick(&picked), ST_OK);
        CHECK_THAT(picked == want[i], "%s gives %s", words[i], picked->name);
    }
    unsetenv("GEMMAD_ISA");
    CHECK_STATUS(cpu_kernels_pick(&picked), ST_OK);
    CHECK(picked == best);
    static const char *const wrong[] = {"sse", "", "AVX2", "avx2 "};
    for (int i = 0; i < 4; i++) {
        setenv("GEMMAD_ISA", wrong[i], 1);
        CHECK_STATUS(cpu_kernels_pick(&picked), ST_INVALID);
        CHECK_SENTENCE("allowed are scalar, avx2, avxvnni, avx512, amx");
    }
}

int main(void) {
    RUN(matmul_is_the_sum_that_is_told);
    RUN(matmul_is_near_the_exact_sum);
    RUN(rmsnorm_matches_double);
    RUN(softmax_over_pages_matches_double);
    RUN(softmax_page_of_the_first_key);
    RUN(softmax_page_has_no_subnormal_weights);
    RUN(scores_are_the_sum_that_is_told);
    RUN(rope_turns_by_the_angle);
    RUN(halves_convert_exactly);
    RUN(pick_obeys_the_cap);
    return test_result();
}
