/* Products on a GPU against double precision: every type of weights, every way a product can go, shapes around every tile. */
#include "base/memory.h"
#include "shard/kernels/cuda/linear.h"
#include "tests/unit/cuda/cuda_kernels.h"

#ifdef GEMMAD_CUDA_SIM
#include "cuda_sim.h"
#define ON_GPU false
#else
#define ON_GPU (getenv("GEMMAD_TEST_SMALL") == NULL) /* under compute-sanitizer everything takes long */
#endif
enum { COUNT_OF_N = 10, BATCH = 16 };

static void open_usual(uint32_t multiprocessors, bool batch_invariant) {
    gpu_open_linear((cuda_backend_options){.rows_max = 80, .columns_max = 1000, .matrix_max = 130 * 1000,
                                           .batch_invariant = batch_invariant}, multiprocessors);
}

/* ---- matrices ---- */

typedef struct matrix {
    weight w;     /* its data is device memory */
    stored s;
} matrix;

static matrix make_matrix(weight_type type, uint32_t rows, uint32_t cols) {
    stored s = stored_random(type, rows, cols);
    return (matrix){{device_of(s.host, s.bytes), rows, cols, type, 0}, s};
}
static void free_matrix(matrix *m) {
    device_free((void *)(uintptr_t)m->w.data);
    stored_free(&m->s);
}

/* ---- activations and outputs ---- */

typedef struct activations {
    float *host, *device; /* [n, stride], `offset` floats into what was taken */
    uint32_t n, cols, stride, offset;
} activations;

static activations make_x(uint32_t n, uint32_t cols, uint32_t stride, uint32_t offset) {
    activations x = {memory_alloc_array((size_t)n * stride + 1, 4), NULL, n, cols, stride, offset};
    for (size_t i = 0; i < (size_t)n * stride; i++) x.host[i] = i % stride < cols ? 2 * random_float() : NAN;
    float *all = device_of(NULL, ((size_t)n * stride + offset) * 4);
    if (n * stride > 0) OK(cudaMemcpy(all + offset, x.host, (size_t)n * stride * 4, cudaMemcpyHostToDevice));
    x.device = all + offset;
    return x;
}
static void free_x(activations *x) {
    device_free(x->device - x->offset);
    free(x->host);
}

/* A guard row before and behind; all of it NaN before a call. */
typedef struct output {
    float *host, *device;
    uint32_t n, rows, stride;
} output;

static output make_y(uint32_t n, uint32_t rows, uint32_t stride) {
    size_t floats = (size_t)(n + 2) * stride;
    return (output){memory_alloc_array(floats + 1, 4), device_of(NULL, floats * 4), n, rows, stride};
}
static float *y_of(const output *y) { return y->device + y->stride; }
static const float *row_of(const output *y, uint32_t token) { return y->host + (size_t)(token + 1) * y->stride; }
/* What a call has left; outputs all written and nothing else. */
static void fetch_y(output *y) {
    size_t bytes = (size_t)(y->n + 2) * y->stride * 4;
    fetch(y->host, y->device, bytes);
    OK(cudaMemset(y->device, 0xFF, bytes));
    OK(cudaDeviceSynchronize());
    uint32_t unwritten = 0, overrun = 0;
    for (size_t i = 0; i < bytes / 4; i++) {
        bool inside = i / y->stride >= 1 && i / y->stride <= y->n && i % y->stride < y->rows;
        if (inside) unwritten += bits_of(y->host[i]) == UINT32_MAX;
        else overrun += bits_of(y->host[i]) != UINT32_MAX;
    }
    CHECK_THAT(unwritten == 0 && overrun == 0, "n %u rows %u: %u not written, %u overrun", y->n, y->rows, unwritten,
               overrun);
}
static void free_y(output *y) {
    device_free(y->device);
    free(y->host);
}

static double dot(const matrix *m, const activations *x, uint32_t row, uint32_t token, double *size) {
    double sum = 0, absolute = 0;
    for (uint32_t c = 0; c < m->w.cols; c++) {
        double p = (double)m->s.value[(size_t)row * m->w.cols + c] * x->host[(size_t)token * x->stride + c];
        sum += p;
        absolute += fabs(p);
    }
    *size = absolute;
    return sum;
}

/* Of the sum of |x||w|. Streams: what two bf16 leave of a float, and float sums whose terms tensor cores may cut instead of
 * rounding; float32: a lane's 4 ceil(cols / 128) terms and 5 levels; lt: both factors rounded to 8 bits, each half an ulp. */
static double tolerance_of(const matrix *m, uint32_t n) {
    weight_type type = m->w.type;
    if (type == WEIGHT_F32 || type == WEIGHT_F16 || (type == WEIGHT_BF16 && m->w.cols % 8))
        return (m->w.cols / 32.0 + 10) * 0x1p-24;
    if (n > (type == WEIGHT_BF16 ? 16 : 64) && !gpu.options.batch_invariant) return 0x1p-8 + 0x1p-16;
    return 0x1p-16 + (m->w.cols / 32.0 + 16) * 0x1p-23;
}

static void check_product(const matrix *m, const activations *x, const output *y, const char *what) {
    uint32_t wrong = 0;
    double worst = 0;
    for (uint32_t i = 0; i < y->n; i++)
        for (uint32_t r = 0; r < m->w.rows; r++) {
            double size, want = dot(m, x, r, i, &size), off = fabs(row_of(y, i)[r] - want);
            if (!(off <= size * tolerance_of(m, y->n) + 1e-30)) wrong++;
            if (!(off <= worst * size)) worst = off / size;
        }
    CHECK_THAT(wrong == 0, "%s: type %d rows %u cols %u n %u: %u wrong, worst %g of %g", what, m->w.type, m->w.rows,
               m->w.cols, y->n, wrong, worst, tolerance_of(m, y->n));
}

static void run_one(const matrix *m, const activations *x, output *y) {
    product p = {y_of(y), y->stride, &m->w};
    cuda_linear(&gpu.base, &p, 1, x->device, x->stride, y->n);
    fetch_y(y);
}

/* ---- tests ---- */

static void one_shape(weight_type type, uint32_t rows, uint32_t cols, uint32_t n, uint32_t variant) {
    uint32_t x_stride = cols + (variant % 3 == 0 ? (4 - cols % 4) % 4 : variant % 3 == 1 ? 5 : 0);
    matrix m = make_matrix(type, rows, cols);
    activations x = make_x(n, cols, x_stride, variant % 4 == 3);
    output y = make_y(n, rows, rows + (variant % 2 ? 3 : 0));
    run_one(&m, &x, &y);
    check_product(&m, &x, &y, "shape");
    free_y(&y);
    free_x(&x);
    free_matrix(&m);
}

TEST(every_type_and_shape) {
    static const uint32_t rows[] = {1, 15, 16, 17, 33, 130}, cols[] = {1, 8, 13, 24, 32, 40, 64, 100, 264, 1000},
                          n[COUNT_OF_N] = {1, 2, 7, 8, 9, 15, 16, 17, 33, 65};
    static const uint32_t multiprocessors[] = {1, 3, 132};
    uint32_t variant = 0;
    for (int g = 0; g < 3; g++) {
        open_usual(multiprocessors[g], g == 1);
        for (int t = 0; t < STORED_TYPES; t++)
            for (int r = 0; r < 6; r++)
                for (int c = 0; c < 10; c++, variant++)
                    for (int k = 0; k < COUNT_OF_N; k++)
                        if (ON_GPU || (uint32_t)k == variant * 7 % COUNT_OF_N)
                            one_shape(stored_types[t], rows[r], cols[c], n[k], variant + (uint32_t)k);
        gpu_close_linear();
    }
}

/* Activations that do not fit into shared memory at once, weights of many steps and many rounds of a block. */
TEST(long_rows_and_many) {
    static const uint32_t n[] = {5, 6, 8, 13};
    gpu_open_linear((cuda_backend_options){.rows_max = 80, .columns_max = 13000, .matrix_max = 20 * 13000}, 1);
    for (int t = 2; t < STORED_TYPES; t++) {
        one_shape(stored_types[t], 20, 13000, 1, 0);
        one_shape(stored_types[t], 20, 3000, 16, 0);
        one_shape(stored_types[t], 20, 6504, 5, 2);
        one_shape(stored_types[t], 700, 128, 3, 0);
        if (ON_GPU) one_shape(stored_types[t], 20000, 5376, 1, 0);
        if (ON_GPU) one_shape(stored_types[t], 5376, 13000, 16, 0);
        /* Blocks that take nearly all the shared memory there is. */
        for (size_t i = 0; ON_GPU && i < sizeof n / sizeof *n; i++) one_shape(stored_types[t], 16400, 5376, n[i], 0);
    }
    gpu_close_linear();
}

/* The same bits alone, at every place among 16 others, on other GPUs, and as one of 33 where that is asked for. */
static void same_bits_of(weight_type type, uint32_t rows, uint32_t cols) {
    enum { MANY = 33 };
    matrix m = make_matrix(type, rows, cols);
    activations x = make_x(MANY, cols, (cols + 3) / 4 * 4, 0);
    output alone = make_y(1, rows, rows), many = make_y(MANY, rows, rows + 1);
    float *want = memory_alloc_array((size_t)MANY * rows, 4);
    open_usual(132, false);
    for (uint32_t i = 0; i < MANY; i++) {
        activations one = x;
        one.device += (size_t)i * x.stride;
        run_one(&m, &one, &alone);
        memcpy(want + (size_t)i * rows, row_of(&alone, 0), rows * 4);
    }
    for (uint32_t n = 2; n <= BATCH; n += n < 7 ? 5 : n < 9 ? 1 : 7)
        for (uint32_t first = 0; first + n <= MANY; first += 3) {
            activations some = x;
            some.device += (size_t)first * x.stride;
            output y = make_y(n, rows, rows + 2);
            run_one(&m, &some, &y);
            for (uint32_t i = 0; i < n; i++)
                CHECK_THAT(memcmp(row_of(&y, i), want + (size_t)(first + i) * rows, rows * 4) == 0,
                           "type %d cols %u: token %u, number %u of %u", type, cols, first + i, i, n);
            free_y(&y);
        }
    gpu_close_linear();
    open_usual(2, true);
    run_one(&m, &x, &many);
    for (uint32_t i = 0; i < MANY; i++)
        CHECK_THAT(memcmp(row_of(&many, i), want + (size_t)i * rows, rows * 4) == 0, "type %d cols %u: token %u of 33",
                   type, cols, i);
    gpu_close_linear();
    free(want);
    free_y(&alone);
    free_y(&many);
    free_x(&x);
    free_matrix(&m);
}

TEST(same_bits) {
    for (int t = 0; t < STORED_TYPES; t++) {
        same_bits_of(stored_types[t], 37, 264);
        same_bits_of(stored_types[t], 18, 1000);
        if (stored_types[t] <= WEIGHT_BF16) same_bits_of(stored_types[t], 9, 131);
    }
}

/* Products of one call are those of calls of their own; rows and columns that are not there. */
static void check_together(uint32_t n, uint32_t cols, const weight_type types[PRODUCTS_MAX],
                           const uint32_t rows[PRODUCTS_MAX]) {
    activations x = make_x(n, cols, (cols + 3) / 4 * 4, 0);
    matrix m[PRODUCTS_MAX];
    output apart[PRODUCTS_MAX], together[PRODUCTS_MAX];
    product p[PRODUCTS_MAX];
    for (int i = 0; i < PRODUCTS_MAX; i++) {
        m[i] = make_matrix(types[i], rows[i], cols);
        apart[i] = make_y(n, rows[i], rows[i] + 4);
        together[i] = make_y(n, rows[i], rows[i] + 4);
        p[i] = (product){y_of(&together[i]), together[i].stride, &m[i].w};
        run_one(&m[i], &x, &apart[i]);
        check_product(&m[i], &x, &apart[i], "apart");
    }
    cuda_linear(&gpu.base, p, PRODUCTS_MAX, x.device, x.stride, n);
    for (int i = 0; i < PRODUCTS_MAX; i++) {
        fetch_y(&together[i]);
        for (uint32_t k = 0; k < n; k++)
            CHECK_THAT(memcmp(row_of(&together[i], k), row_of(&apart[i], k), rows[i] * 4) == 0,
                       "product %d token %u of %u", i, k, n);
        free_y(&apart[i]);
        free_y(&together[i]);
        free_matrix(&m[i]);
    }
    free_x(&x);
}

TEST(several_products) {
    static const uint32_t n[] = {1, 5, 16, 20, 70};
    open_usual(2, false);
    for (int t = 0; t < STORED_TYPES; t++)
        for (int k = 0; k < 5; k++) {
            weight_type a = stored_types[t], b = stored_types[(t + 1) % STORED_TYPES];
            check_together(n[k], 104, (const weight_type[]){a, a, a}, (const uint32_t[]){40, 7, 33});
            check_together(n[k], 104, (const weight_type[]){a, b, a}, (const uint32_t[]){16, 21, 0});
            check_together(n[k], 0, (const weight_type[]){a, b, a}, (const uint32_t[]){16, 21, 0});
        }
    matrix m = make_matrix(WEIGHT_BF16, 5, 8);
    output y = make_y(0, 5, 5);
    product p = {y_of(&y), 5, &m.w};
    cuda_linear(&gpu.base, &p, 1, y.device, 8, 0);
    cuda_linear(&gpu.base, NULL, 0, y.device, 8, 3);
    fetch_y(&y);
    free_y(&y);
    free_matrix(&m);
    gpu_close_linear();
}

/* ---- gelu(G x) · U x ---- */

static void check_gated(weight_type type, uint32_t rows, uint32_t cols, uint32_t n) {
    matrix g = make_matrix(type, rows, cols), u = make_matrix(type, rows, cols);
    activations x = make_x(n, cols, (cols + 3) / 4 * 4, 0);
    output y = make_y(n, rows, rows), up = make_y(n, rows, rows);
    cuda_gated(&gpu.base, y_of(&y), y_of(&up), &g.w, &u.w, x.device, x.stride, n);
    fetch_y(&y);
    double tolerance = tolerance_of(&g, n);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t r = 0; r < rows; r++) {
            double g_size, u_size, a = dot(&g, &x, r, i, &g_size), b = dot(&u, &x, r, i, &u_size), want = gelu_double(a) * b;
            /* gelu's slope is at most 1.13 */
            double g_off = 1.13 * tolerance * g_size + 0x1p-20 * fabs(a), u_off = tolerance * u_size;
            double bound = g_off * (fabs(b) + u_off) + fabs(gelu_double(a)) * u_off + 0x1p-22 * fabs(want) + 1e-30;
            if (!(fabs(row_of(&y, i)[r] - want) <= bound)) wrong++;
        }
    CHECK_THAT(wrong == 0, "gated: type %d rows %u cols %u n %u: %u wrong", type, rows, cols, n, wrong);
    free_y(&y);
    free_y(&up);
    free_x(&x);
    free_matrix(&g);
    free_matrix(&u);
}

TEST(gated) {
    static const uint32_t n[] = {1, 3, 8, 9, 16, 20, 65}, multiprocessors[] = {1, 2, 132};
    for (int g = 0; g < 3; g++) {
        open_usual(multiprocessors[g], g == 1);
        for (int t = 0; t < STORED_TYPES; t++)
            for (int k = 0; k < 7; k++) {
                check_gated(stored_types[t], 16, 64, n[k]);
                check_gated(stored_types[t], 57, 272, n[k]);
                if (k % 3 == g) check_gated(stored_types[t], 130, 1000, n[k]);
            }
        check_gated(WEIGHT_BF16, 5, 0, 3);
        gpu_close_linear();
    }
}

/* ---- stored values ---- */

/* Each code of a type times one comes out as what it stands for, exactly. */
static void check_codes(weight_type type) {
    enum { COLS = 256 };
    matrix m = make_matrix(type, 32, COLS);
    size_t bytes = weight_rows_bytes(type, 32, COLS);
    uint8_t *data = memory_alloc(bytes);
    OK(cudaMemcpy(data, m.w.data, bytes, cudaMemcpyDeviceToHost));
    uint64_t quants = type == WEIGHT_FP8 ? QUANT_ROWS * COLS : (uint64_t)quant_groups(COLS) * quant_group_bytes(type);
    for (uint64_t i = 0; i < quants; i++) {
        uint8_t code = (uint8_t)(i * 37 + i / 256 * 5);
        data[i] = type == WEIGHT_FP8 && (code & 0x7F) == 0x7F ? 0x80 : code;
    }
    OK(cudaMemcpy((void *)(uintptr_t)m.w.data, data, bytes, cudaMemcpyHostToDevice));
    OK(cudaDeviceSynchronize());
    weight host = m.w;
    host.data = data;
    activations x = make_x(8, COLS, COLS, 0);
    output y = make_y(8, 32, 32);
    for (uint32_t column = 0; column < COLS; column += 8) {
        memset(x.host, 0, sizeof(float) * 8 * COLS);
        for (uint32_t i = 0; i < 8; i++) x.host[i * COLS + column + i] = 1;
        OK(cudaMemcpy(x.device, x.host, sizeof(float) * 8 * COLS, cudaMemcpyHostToDevice));
        OK(cudaDeviceSynchronize());
        run_one(&m, &x, &y);
        for (uint32_t r = 0; r < QUANT_ROWS; r++) {
            float row[COLS];
            quant_row(&host, r, row);
            for (uint32_t i = 0; i < 8; i++)
                CHECK_THAT(row_of(&y, i)[r] == row[column + i], "type %d row %u column %u: %g, not %g", type, r, column + i,
                           (double)row_of(&y, i)[r], (double)row[column + i]);
        }
    }
    free(data);
    free_y(&y);
    free_x(&x);
    free_matrix(&m);
}

TEST(every_code) {
    open_usual(2, false);
    check_codes(WEIGHT_Q8);
    check_codes(WEIGHT_Q4);
    check_codes(WEIGHT_FP8);
    gpu_close_linear();
}

/* A matrix that does not fit into the scratch is widened in parts. */
TEST(wide_in_parts) {
    gpu_open_linear((cuda_backend_options){.rows_max = 80, .columns_max = 100, .matrix_max = 20 * 100}, 2);
    for (int t = 3; t < STORED_TYPES; t++) {
        one_shape(stored_types[t], 100, 100, 70, 0);
        one_shape(stored_types[t], 49, 93, 66, 1);
    }
    gpu_close_linear();
}

/* What the plan of a GPU's memory counts is what is taken. */
TEST(memory) {
#ifdef GEMMAD_CUDA_SIM
    static const cuda_backend_options options[] = {{.rows_max = 80, .columns_max = 1001, .matrix_max = 5000},
                                                   {.rows_max = 40, .columns_max = 1001, .matrix_max = 5000},
                                                   {.rows_max = 16, .columns_max = 1001, .matrix_max = 5000},
                                                   {.rows_max = 80, .columns_max = 1001, .batch_invariant = true}};
    for (int i = 0; i < 4; i++) {
        size_t before = cuda_sim_bytes_taken();
        gpu_open_linear(options[i], 2);
        size_t taken = cuda_sim_bytes_taken() - before;
        uint64_t want = cuda_linear_bytes(&options[i]); /* pieces are taken in multiples of 256 bytes */
        CHECK_THAT(taken >= want && taken < want + 3 * 256, "%zu, not %llu", taken, (unsigned long long)want);
        gpu_close_linear();
        CHECK(cuda_sim_bytes_taken() == before);
    }
#endif
}

int main(void) {
    device_needed();
    RUN(every_type_and_shape);
    RUN(long_rows_and_many);
    RUN(same_bits);
    RUN(several_products);
    RUN(gated);
    RUN(every_code);
    RUN(wide_in_parts);
    RUN(memory);
    return test_result();
}
