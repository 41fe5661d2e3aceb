/* Every variant that this machine runs against the scalar reference, bit for bit (only NaNs may differ in
 * their bits), on sizes that straddle vectors, register tiles and panels. Buffers end at a page that cannot
 * be touched, so that an access past an extent ends the test. */
#include <math.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "shard/kernels/cpu/cpu_kernels.h"
#include "tests/test.h"

static uint64_t random_state = 7;

static uint32_t random_u32(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* What numbers a buffer holds. */
enum mode { ORDINARY, WIDE, TINY, HUGE_ONES, SPECIAL, MODES };

static float random_float(enum mode mode) {
    float unit = (float)(random_u32() >> 8) * 0x1p-23f - 1; /* -1 … 1 */
    switch (mode) {
    case WIDE: return ldexpf(unit, (int)(random_u32() % 60) - 30);
    case TINY:
        return ldexpf(unit,
                      -60 - (int)(random_u32() % 90)); /* products underflow to ±0; some are subnormal */
    case HUGE_ONES: return ldexpf(unit, (int)(random_u32() % 66) + 60);
    case SPECIAL: {
        static const float values[] = {0.0f, -0.0f, INFINITY, -INFINITY, 0x1p-149f, -0x1p-126f, 1.0f, -1.0f};
        return random_u32() % 6 ? unit : values[random_u32() % 8];
    }
    default: return unit * 4;
    }
}

/* bytes of memory that end where an unreadable page begins. */
static void *edge_alloc(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
    char *p = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + size, page, PROT_NONE)) abort();
    return p + size - bytes;
}

static void edge_free(void *p, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
    munmap((char *)p + bytes - size, size + page);
}

static float *edge_floats(size_t n, enum mode mode) {
    float *p = edge_alloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = random_float(mode);
    return p;
}

static float *edge_copy(const float *from, size_t n) {
    float *p = edge_alloc(n * sizeof *p);
    if (n) memcpy(p, from, n * sizeof *p);
    return p;
}

static bool same_bits(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(a[i] != a[i] && b[i] != b[i])) return false;
    return true;
}

static uint16_t bf16_of(float x) {
    uint16_t y;
    cpu_kernels_scalar.bf16_from_f32(&y, &x, 1);
    return y;
}

/* A random f16: any bit pattern but NaN, exponents near 1 more often. */
static uint16_t random_f16(enum mode mode) {
    uint16_t bits = (uint16_t)random_u32();
    if (mode == ORDINARY) return (uint16_t)((bits & 0x83FF) | (12 + random_u32() % 5) << 10);
    if (mode != SPECIAL && (bits & 0x7C00) == 0x7C00) bits &= 0x83FF;
    if ((bits & 0x7C00) == 0x7C00) bits &= 0xFC00;
    return bits;
}

static void fill_weights(void *w, size_t n, weight_type type, enum mode mode) {
    for (size_t i = 0; i < n; i++) {
        if (type == WEIGHT_F32) ((float *)w)[i] = random_float(mode);
        else ((uint16_t *)w)[i] = type == WEIGHT_BF16 ? bf16_of(random_float(mode)) : random_f16(mode);
    }
}

static const cpu_kernels *variant; /* the one under test */

static size_t extent(uint32_t lines, size_t stride, uint32_t n) {
    return lines ? (lines - 1) * stride + n : 0;
}

static void check_matmul(weight_type type, uint32_t rows, uint32_t tokens, uint32_t cols) {
    enum mode mode = random_u32() % MODES;
    size_t x_stride = cols + random_u32() % 4, w_stride = cols + random_u32() % 4,
           y_stride = rows + random_u32() % 4;
    size_t nx = extent(tokens, x_stride, cols), nw = extent(rows, w_stride, cols),
           ny = extent(tokens, y_stride, rows);
    size_t w_bytes = nw * weight_element_bytes(type);
    float *x = edge_floats(nx, mode), *want = edge_floats(ny, ORDINARY), *got = edge_copy(want, ny);
    void *w = edge_alloc(w_bytes);
    fill_weights(w, nw, type, mode);
    cpu_kernels_scalar.matmul[type](want, y_stride, x, x_stride, w, w_stride, rows, tokens, cols);
    variant->matmul[type](got, y_stride, x, x_stride, w, w_stride, rows, tokens, cols);
    CHECK_THAT(same_bits(got, want, ny), "%s type %d mode %d: %u rows, %u tokens, %u columns", variant->name,
               type, mode, rows, tokens, cols);
    edge_free(x, nx * sizeof *x), edge_free(want, ny * sizeof *x), edge_free(got, ny * sizeof *x),
        edge_free(w, w_bytes);
}

static const uint32_t sizes[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 127, 256, 257};
enum { SIZES = sizeof sizes / sizeof *sizes, FEWER = TEST_SANITIZED ? 8 : 1 };

TEST(matmul_small) {
    for (int r = 0; r < SIZES; r++)
        for (int t = 0; t < SIZES; t++)
            for (int c = 0; c < SIZES; c++)
                if ((uint64_t)sizes[r] * sizes[t] * sizes[c] <= 40000 / FEWER)
                    check_matmul((weight_type)((r + t + c) % WEIGHT_FLOAT_TYPES), sizes[r], sizes[t],
                                 sizes[c]);
}

TEST(matmul_across_panels) {
    static const uint32_t triples[][3] = {{13, 65, 515},  {257, 3, 257}, {31, 127, 256}, {12, 64, 512},
                                          {25, 130, 273}, {5, 2, 1500},  {9, 8, 2049},   {1, 257, 127},
                                          {257, 1, 1111}, {64, 16, 256}, {100, 100, 33}, {24, 33, 1024},
                                          {127, 5, 300},  {3, 1, 21504}, {2, 129, 17}};
    for (size_t i = 0; i < sizeof triples / sizeof *triples; i++)
        for (int type = 0; type < WEIGHT_FLOAT_TYPES; type++)
            check_matmul((weight_type)type, triples[i][0], triples[i][1], triples[i][2]);
}

/* Every product underflows to -0, so that each lane that a row reaches is -0, and so is the sum where all 16
 * are: a tail that adds +0 to the lanes it does not reach would be seen. */
TEST(matmul_of_negative_zeros) {
    static const uint16_t tiny[WEIGHT_FLOAT_TYPES] = {0, 0x8D80, 0x8001}; /* bf16 -2^-100, f16 -2^-24 */
    for (int type = 0; type < WEIGHT_FLOAT_TYPES; type++) {
        for (uint32_t cols = 1; cols <= 300; cols++) {
            enum { ROWS = 5, TOKENS = 3 };
            float x[TOKENS * 300], wide[ROWS * 300], y[TOKENS * ROWS], want[TOKENS * ROWS];
            uint16_t narrow[ROWS * 300];
            for (int i = 0; i < TOKENS * 300; i++) x[i] = 0x1p-149f;
            for (int i = 0; i < ROWS * 300; i++) wide[i] = -0x1p-100f, narrow[i] = tiny[type];
            const void *w = type == WEIGHT_F32 ? (const void *)wide : narrow;
            for (uint32_t tokens = 1; tokens <= TOKENS; tokens += 2) {
                cpu_kernels_scalar.matmul[type](want, ROWS, x, cols, w, cols, ROWS, tokens, cols);
                variant->matmul[type](y, ROWS, x, cols, w, cols, ROWS, tokens, cols);
                CHECK_THAT(!signbit(want[0]) == (cols < 16) && !memcmp(y, want, tokens * ROWS * sizeof *y),
                           "type %d, %u columns, %u tokens: %g %g", type, cols, tokens, want[0], y[0]);
            }
        }
    }
}

/* Runs call on two copies of the same buffer, `a` for the reference and the variant `k`, and compares. */
#define CHECK_IN_PLACE(what, n, mode, call)                                                                  \
    do {                                                                                                     \
        float *want_ = edge_floats(n, mode), *got_ = edge_copy(want_, n);                                    \
        {                                                                                                    \
            const cpu_kernels *k = &cpu_kernels_scalar;                                                      \
            float *a = want_;                                                                                \
            call;                                                                                            \
        }                                                                                                    \
        {                                                                                                    \
            const cpu_kernels *k = variant;                                                                  \
            float *a = got_;                                                                                 \
            call;                                                                                            \
        }                                                                                                    \
        CHECK_THAT(same_bits(got_, want_, n), "%s %s n %u mode %d", variant->name, what, (unsigned)(n),      \
                   mode);                                                                                    \
        edge_free(want_, (n) * sizeof(float)), edge_free(got_, (n) * sizeof(float));                         \
    } while (0)

static void check_elementwise(uint32_t n, enum mode mode) {
    float *y = edge_floats(n, mode), *z = edge_floats(n, mode);
    CHECK_IN_PLACE("add", n, mode, k->add(a, y, n));
    CHECK_IN_PLACE("scale", n, mode, k->scale(a, 1.7f, n));
    CHECK_IN_PLACE("add_scaled", n, mode, k->add_scaled(a, -0.3f, y, n));
    CHECK_IN_PLACE("multiply", n, mode, k->multiply(a, y, n));
    CHECK_IN_PLACE("gelu_multiply", n, mode, k->gelu_multiply(a, y, z, n));
    CHECK_IN_PLACE("gelu_multiply in place", n, mode, k->gelu_multiply(a, a, z, n));
    CHECK_IN_PLACE("softcap", n, mode, k->softcap(a, 30.0f, n));
    CHECK_IN_PLACE("rmsnorm", n, mode, k->rmsnorm(a, y, z, 1e-6f, n));
    CHECK_IN_PLACE("rmsnorm in place", n, mode, k->rmsnorm(a, a, z, 1e-6f, n));
    CHECK_IN_PLACE("rmsnorm without weight", n, mode, k->rmsnorm(a, y, NULL, 1e-6f, n));
    edge_free(y, n * sizeof *y), edge_free(z, n * sizeof *z);
}

TEST(elementwise) {
    for (int i = 0; i < SIZES; i++)
        for (int mode = 0; mode < MODES; mode++) check_elementwise(sizes[i], (enum mode)mode);
}

TEST(rope) {
    for (int i = 0; i < SIZES; i++) {
        for (int mode = 0; mode < MODES; mode++) {
            uint32_t pairs = sizes[i], half = pairs + random_u32() % 20, n = half + pairs;
            float *c = edge_floats(pairs, ORDINARY), *s = edge_floats(pairs, ORDINARY);
            CHECK_IN_PLACE("rope", n, (enum mode)mode, k->rope(a, c, s, half, pairs));
            edge_free(c, pairs * sizeof *c), edge_free(s, pairs * sizeof *s);
        }
    }
}

TEST(max_and_exp_sum) {
    for (int i = 1; i < SIZES; i++) {
        for (int mode = 0; mode < MODES; mode++) {
            uint32_t n = sizes[i];
            float *x = edge_floats(n, (enum mode)mode), *want = edge_alloc(n * 4), *got = edge_alloc(n * 4);
            float m = cpu_kernels_scalar.max(x, n), mv = variant->max(x, n);
            CHECK_THAT(same_bits(&m, &mv, 1), "%s max n %u: %g %g", variant->name, n, m, mv);
            float shift = mode == SPECIAL ? 0.5f : m, factor = mode == ORDINARY ? 3.0f : 1.0f;
            float sum = cpu_kernels_scalar.exp_sum(want, x, shift, factor, n);
            float sum_v = variant->exp_sum(got, x, shift, factor, n),
                  sum_only = variant->exp_sum(NULL, x, shift, factor, n);
            CHECK_THAT(same_bits(&sum, &sum_v, 1) && same_bits(&sum, &sum_only, 1) && same_bits(got, want, n),
                       "%s exp_sum n %u mode %d: %g %g %g", variant->name, n, mode, sum, sum_v, sum_only);
            CHECK_IN_PLACE("exp_sum in place", n, (enum mode)mode, k->exp_sum(a, a, shift, factor, n));
            edge_free(x, n * 4), edge_free(want, n * 4), edge_free(got, n * 4);
        }
    }
    float zeros[20] = {0}, largest;
    for (int i = 0; i < 20; i++) zeros[i] = i % 3 ? -0.0f : 0.0f;
    largest = variant->max(zeros, 20);
    CHECK(largest == 0 && !signbit(largest));
}

TEST(exp_everywhere) {
    /* All of exp's range at steps of a few thousand ulps, in one call. */
    enum { N = (1 << 20) / FEWER };
    float *x = memory_alloc_array(N, 4), *want = memory_alloc_array(N, 4), *got = memory_alloc_array(N, 4);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t bits = i * (4096u * FEWER) + random_u32() % (4096 * FEWER);
        memcpy(&x[i], &bits, 4);
        if (x[i] != x[i]) x[i] = 0;
    }
    cpu_kernels_scalar.exp_sum(want, x, 0, 1, N);
    variant->exp_sum(got, x, 0, 1, N);
    CHECK(same_bits(got, want, N));
    memcpy(want, x, N * 4), memcpy(got, x, N * 4);
    cpu_kernels_scalar.softcap(want, 1, N);
    variant->softcap(got, 1, N);
    CHECK(same_bits(got, want, N));
    free(x), free(want), free(got);
}

TEST(softmax_page) {
    for (int round = 0; round < 4000 / FEWER; round++) {
        enum mode mode = (enum mode)(round % MODES);
        uint32_t first = random_u32() % 64, last = first + 1 + random_u32() % (64 - first);
        float *want = edge_floats(64, mode), *got, old = round % 7 == 0 ? -INFINITY : random_float(mode);
        if (round % 3 == 0)
            for (uint32_t i = 0; i < 64; i++)
                if (i < first || i >= last) want[i] = NAN; /* "anything elsewhere" */
        got = edge_copy(want, 64);
        float m[2] = {old, old}, l[2] = {1.5f, 1.5f}, rescale[2];
        rescale[0] = cpu_kernels_scalar.softmax_page(want, first, last, &m[0], &l[0]);
        rescale[1] = variant->softmax_page(got, first, last, &m[1], &l[1]);
        CHECK_THAT(same_bits(got, want, 64) && same_bits(m, m + 1, 1) && same_bits(l, l + 1, 1) &&
                       same_bits(rescale, rescale + 1, 1),
                   "%s %u-%u mode %d", variant->name, first, last, mode);
        edge_free(want, 256), edge_free(got, 256);
    }
}

/* A row of the cache: bf16 paired, or floats. */
static void *random_page(uint32_t elements, bool paired, enum mode mode) {
    void *page = edge_alloc((size_t)elements * (paired ? 2 : 4));
    fill_weights(page, elements, paired ? WEIGHT_BF16 : WEIGHT_F32, mode);
    return page;
}

static const uint32_t query_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17, 64};
enum { QUERY_COUNTS = sizeof query_counts / sizeof *query_counts };

/* Keys in up to four runs of both kinds, as a half-size page has them. */
TEST(scores_page) {
    for (int round = 0; round < 600 / FEWER; round++) {
        enum mode mode = (enum mode)(round % MODES);
        kv_run runs[4];
        uint32_t n_runs = 1 + random_u32() % 4, dim = 0, queries = query_counts[round % QUERY_COUNTS];
        uint32_t first = random_u32() % 64, last = first + 1 + random_u32() % (64 - first);
        for (uint32_t r = 0; r < n_runs; r++) {
            bool paired = random_u32() % 2;
            uint32_t whole = paired ? 32 : 16, count = whole * (1 + random_u32() % 5),
                     stride = count + whole * (random_u32() % 3);
            runs[r] = (kv_run){.data = random_page(stride * 64, paired, mode),
                               .stride = stride,
                               .count = count,
                               .paired = paired};
            dim += count;
        }
        size_t q_stride = dim + random_u32() % 5, nq = extent(queries, q_stride, dim);
        float *q = edge_floats(nq, mode), *want = edge_alloc(queries * 256), *got = edge_alloc(queries * 256);
        cpu_kernels_scalar.scores_page(want, q, q_stride, queries, runs, n_runs, first, last);
        variant->scores_page(got, q, q_stride, queries, runs, n_runs, first, last);
        for (uint32_t t = 0; t < queries; t++)
            CHECK_THAT(same_bits(want + t * 64 + first, got + t * 64 + first, last - first),
                       "%s %u runs, %u dimensions, query %u of %u, keys %u-%u, mode %d", variant->name,
                       n_runs, dim, t, queries, first, last, mode);
        for (uint32_t r = 0; r < n_runs; r++)
            edge_free((void *)(uintptr_t)runs[r].data, runs[r].stride * 64 * (runs[r].paired ? 2 : 4));
        edge_free(q, nq * 4), edge_free(want, queries * 256), edge_free(got, queries * 256);
    }
}

TEST(values_page) {
    for (int round = 0; round < 600 / FEWER; round++) {
        enum mode mode = (enum mode)(round % MODES);
        bool paired = random_u32() % 2;
        uint32_t queries = query_counts[round % QUERY_COUNTS], whole = paired ? 32 : 16;
        uint32_t dim = whole * (1 + random_u32() % 20), stride = dim + whole * (random_u32() % 3);
        uint32_t first = random_u32() % 64, last = first + random_u32() % (65 - first);
        kv_run v = {
            .data = random_page(stride * 64, paired, mode), .stride = stride, .count = dim, .paired = paired};
        size_t o_stride = dim + random_u32() % 5, no = extent(queries, o_stride, dim);
        float *p = edge_floats(queries * 64, ORDINARY), *rescale = edge_floats(queries, ORDINARY);
        CHECK_IN_PLACE("values_page", no, mode,
                       k->values_page(a, o_stride, rescale, p, queries, &v, first, last));
        edge_free((void *)(uintptr_t)v.data, (size_t)stride * 64 * (paired ? 2 : 4));
        edge_free(p, queries * 256), edge_free(rescale, queries * 4);
    }
}

TEST(rows_of_the_cache) {
    for (int i = 0; i < SIZES; i++) {
        enum { ROWS = 3 };
        uint32_t n = sizes[i], stride = n + 2 * (random_u32() % 3);
        size_t nx = extent(ROWS, stride, n);
        uint16_t *x = edge_alloc(nx * 2);
        fill_weights(x, nx, WEIGHT_BF16, SPECIAL);
        CHECK_IN_PLACE("expand_rows", nx, ORDINARY, k->expand_rows(a, stride, x, stride, n, ROWS));
        edge_free(x, nx * 2);
    }
    uint16_t stored[64];
    float y[64];
    for (uint32_t d = 0; d < 64; d++) stored[kv_pair_at(d)] = bf16_of((float)d);
    variant->expand_rows(y, 64, stored, 64, 64, 1);
    for (uint32_t d = 0; d < 64; d++) CHECK(y[d] == (float)d);
}

TEST(rows_of_eight_bits) {
    for (int i = 0; i < SIZES; i++) {
        for (int mode = 0; mode < MODES; mode++) {
            enum { ROWS = 3 };
            uint32_t n = sizes[i], stride = n + random_u32() % 3;
            if (mode == SPECIAL) continue; /* infinities and NaN have no scale */
            float *x = edge_floats(n, (enum mode)mode), scale[ROWS] = {0.5f, 0, -3e-7f}, got[2];
            int8_t *want = edge_alloc(n), *y = edge_alloc(n);
            got[0] = cpu_kernels_scalar.quantise_row(want, x, n), got[1] = variant->quantise_row(y, x, n);
            CHECK_THAT(same_bits(got, got + 1, 1) && (n == 0 || !memcmp(want, y, n)),
                       "%s quantise_row of %u, mode %d", variant->name, n, mode);
            edge_free(x, n * 4), edge_free(want, n), edge_free(y, n);
            size_t ny = extent(ROWS, stride, n);
            int8_t *stored = edge_alloc(ny);
            for (size_t d = 0; d < ny; d++) stored[d] = (int8_t)(random_u32() % 255 - 127);
            CHECK_IN_PLACE("expand_q8", ny, ORDINARY,
                           k->expand_q8(a, stride, stored, stride, scale, n, ROWS));
            edge_free(stored, ny);
        }
    }
    const float x[6] = {127, -126.5f, 0.5f, 1.5f, -0.49f, 63.7f}, none[2] = {0x1p-101f, -0x1p-102f};
    const int8_t want[6] = {127, -126, 0, 2, 0, 64};
    int8_t y[6];
    CHECK(variant->quantise_row(y, x, 6) == 1.0f && !memcmp(y, want, 6));
    CHECK(variant->quantise_row(y, none, 2) == 0 && y[0] == 0 && y[1] == 0);
}

TEST(keys_of_a_half_size_page) {
    for (int i = 0; i < SIZES; i++) {
        for (int mode = 0; mode < MODES; mode++) {
            enum { ROWS = 5 };
            uint32_t pairs = sizes[i], half = pairs + random_u32() % 5, apart = pairs + random_u32() % 5;
            size_t stride = apart + pairs + random_u32() % 3, n = extent(ROWS, stride, apart + pairs);
            float *norm = edge_floats(half + pairs, (enum mode)mode);
            float *c = edge_floats(ROWS * pairs, ORDINARY), *s = edge_floats(ROWS * pairs, ORDINARY);
            CHECK_IN_PLACE("rotate_keys", n, (enum mode)mode,
                           k->rotate_keys(a, stride, apart, norm, half, c, s, pairs, ROWS));
            edge_free(norm, (half + pairs) * 4), edge_free(c, ROWS * pairs * 4),
                edge_free(s, ROWS * pairs * 4);
        }
    }
}

TEST(angles_composed) {
    for (int i = 0; i < SIZES; i++) {
        uint32_t n = sizes[i];
        double *angles[4];
        for (int j = 0; j < 4; j++) {
            angles[j] = edge_alloc(n * sizeof(double));
            for (uint32_t d = 0; d < n; d++) angles[j][d] = cos(random_u32());
        }
        CHECK_IN_PLACE("compose_angles", 2 * n, ORDINARY,
                       k->compose_angles(a, a + n, angles[0], angles[1], angles[2], angles[3], n));
        for (int j = 0; j < 4; j++) edge_free(angles[j], n * sizeof(double));
    }
}

TEST(conversions_of_all_halves) {
    /* All 65,536 patterns of both 16-bit types, then floats of every kind down to bf16, NaN payloads
     * included. */
    enum { N = 65536 };
    uint16_t *x = memory_alloc_array(N, 2), *want16 = memory_alloc_array(N, 2),
             *got16 = memory_alloc_array(N, 2);
    float *want = memory_alloc_array(N, 4), *got = memory_alloc_array(N, 4);
    for (uint32_t i = 0; i < N; i++) x[i] = (uint16_t)i;
    cpu_kernels_scalar.f32_from_bf16(want, x, N), variant->f32_from_bf16(got, x, N);
    CHECK(!memcmp(want, got, N * 4));
    cpu_kernels_scalar.f32_from_f16(want, x, N), variant->f32_from_f16(got, x, N);
    CHECK(!memcmp(want, got, N * 4));
    for (int round = 0; round < 32 / FEWER; round++) {
        for (uint32_t i = 0; i < N; i++) {
            uint32_t bits = i << 16 | (round == 0   ? 0x8000
                                       : round == 1 ? 0x7FFF
                                       : round == 2 ? 0x8001
                                                    : random_u32() & 0xFFFF);
            memcpy(&want[i], &bits, 4);
        }
        cpu_kernels_scalar.bf16_from_f32(want16, want, N), variant->bf16_from_f32(got16, want, N);
        CHECK(!memcmp(want16, got16, N * 2));
    }
    free(x), free(want16), free(got16), free(want), free(got);
}

TEST(conversion_extents) {
    for (int i = 0; i < SIZES; i++) {
        uint32_t n = sizes[i];
        float *x = edge_floats(n, WIDE), *y = edge_alloc(n * 4), *z = edge_alloc(n * 4);
        uint16_t *h = edge_alloc(n * 2), *want = edge_alloc(n * 2);
        cpu_kernels_scalar.bf16_from_f32(want, x, n), variant->bf16_from_f32(h, x, n);
        CHECK(n == 0 || !memcmp(h, want, n * 2));
        cpu_kernels_scalar.f32_from_bf16(y, h, n), variant->f32_from_bf16(z, h, n);
        CHECK(same_bits(y, z, n));
        for (uint32_t j = 0; j < n; j++) h[j] = random_f16(WIDE);
        cpu_kernels_scalar.f32_from_f16(y, h, n), variant->f32_from_f16(z, h, n);
        CHECK(same_bits(y, z, n));
        edge_free(x, n * 4), edge_free(y, n * 4), edge_free(z, n * 4), edge_free(h, n * 2),
            edge_free(want, n * 2);
    }
}

static void run_all(const cpu_kernels *v) {
    variant = v;
    printf("%s\n", v->name);
    RUN(matmul_small);
    RUN(matmul_across_panels);
    RUN(matmul_of_negative_zeros);
    RUN(elementwise);
    RUN(rope);
    RUN(max_and_exp_sum);
    RUN(exp_everywhere);
    RUN(softmax_page);
    RUN(scores_page);
    RUN(values_page);
    RUN(rows_of_the_cache);
    RUN(rows_of_eight_bits);
    RUN(keys_of_a_half_size_page);
    RUN(angles_composed);
    RUN(conversions_of_all_halves);
    RUN(conversion_extents);
}

int main(void) {
    if (!cpu_kernels_avx2()) test_skip("this machine has no AVX2: nothing to compare with the reference");
    run_all(cpu_kernels_avx2());
    if (cpu_kernels_avx512()) run_all(cpu_kernels_avx512());
    else test_skipped++, printf("avx512: this machine does not have it\n");
    return test_result();
}
