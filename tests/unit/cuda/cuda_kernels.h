/* What tests of single operators share: a back end filled by hand, random numbers, stored weights. */
#ifndef TESTS_UNIT_CUDA_CUDA_KERNELS_H
#define TESTS_UNIT_CUDA_CUDA_KERNELS_H

#include <float.h>
#include <math.h>

#include "base/half.h"
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cuda/cuda_backend.h"
#include "shard/kernels/quant_layout.h"
#include "tests/unit/cuda/cuda_test.h"

static cuda_backend gpu;

static inline void gpu_open(void) {
    device_needed();
    OK(cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
}

/* As far as products need it. */
static inline void gpu_open_linear(cuda_backend_options options, uint32_t multiprocessors) {
    int shared = 0;
    gpu = (cuda_backend){.options = options, .multiprocessors = multiprocessors};
    OK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    gpu.shared_bytes_max = (size_t)shared;
    OK(cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
    CHECK_STATUS(cuda_linear_open(&gpu), ST_OK);
}
static inline void gpu_close_linear(void) {
    cuda_linear_close(&gpu);
    OK(cudaStreamDestroy(gpu.stream));
    CHECK_THAT(gpu.failed == ST_OK, "%s", gpu.failure);
}

static inline void fetch(void *host, const void *device, size_t bytes) { device_fetch(gpu.stream, host, device, bytes); }

/* ---- numbers ---- */

static inline float *random_floats(size_t n) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = random_float();
    return x;
}
static inline bool same_bits(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

/* The larger; what is no number is the worst. */
static inline double worse(double a, double b) { return b <= a ? a : b == b ? b : INFINITY; }

static inline double gelu_double(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }

/* ---- weights ---- */

/* A random matrix in memory, and the values that it stands for. Of strips, columns that do not exist are what they may be. */
typedef struct stored {
    weight_type type;
    uint32_t rows, cols;
    size_t bytes;
    uint8_t *host;
    float *value; /* [rows, cols] */
} stored;

/* A row of fp8 with any of its codes but NaN. */
static inline void stored_random_fp8(stored *s, uint32_t row) {
    uint32_t row_bytes = fp8_row_bytes(s->cols);
    uint8_t *strip = s->host + row / QUANT_ROWS * quant_strip_bytes(s->type, s->cols);
    float scale = 0.001f * (1 + fabsf(random_float()));
    memcpy(strip + QUANT_ROWS * row_bytes + row % QUANT_ROWS * sizeof scale, &scale, sizeof scale);
    for (uint32_t c = 0; c < s->cols; c++) {
        uint8_t code = (uint8_t)random_word();
        strip[row % QUANT_ROWS * row_bytes + c] = (code & 0x7F) == 0x7F ? code ^ 1 : code;
    }
}

static inline stored stored_random(weight_type type, uint32_t rows, uint32_t cols) {
    stored s = {type, rows, cols, (size_t)weight_rows_bytes(type, rows, cols), NULL, random_floats((size_t)rows * cols)};
    s.host = calloc(1, s.bytes + 64);
    weight w = {s.host, rows, cols, type, 0};
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * cols;
        float *v = s.value + at;
        if (type == WEIGHT_FP8) stored_random_fp8(&s, r);
        else if (weight_in_strips(type)) quant_store_floats(type, s.host, cols, r, v);
        if (weight_in_strips(type)) quant_row(&w, r, v);
        if (type == WEIGHT_F32) memcpy((float *)s.host + at, v, cols * sizeof *v);
        if (type == WEIGHT_BF16) {
            ref_bf16_from_f32((uint16_t *)s.host + at, v, cols);
            ref_f32_from_bf16(v, (const uint16_t *)s.host + at, cols);
        }
        for (uint32_t c = 0; c < cols && type == WEIGHT_F16; c++)
            v[c] = half_to_float(((uint16_t *)s.host)[at + c] = half_from_float(v[c]));
    }
    return s;
}
static inline void stored_free(stored *s) {
    free(s->host);
    free(s->value);
}
static const weight_type stored_types[] = {WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16, WEIGHT_Q8, WEIGHT_Q4, WEIGHT_FP8};
enum { STORED_TYPES = sizeof stored_types / sizeof *stored_types };

#endif
