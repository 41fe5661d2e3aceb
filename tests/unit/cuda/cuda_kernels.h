/* What tests of single operators share: a back end filled by hand, device memory, random numbers, stored weights. */
#ifndef TESTS_UNIT_CUDA_CUDA_KERNELS_H
#define TESTS_UNIT_CUDA_CUDA_KERNELS_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#include "base/half.h"
#include "shard/kernels/cuda/cuda_backend.h"
#include "shard/kernels/quant_layout.h"
#include "tests/test.h"

#define OK(call)                                                                                                        \
    do {                                                                                                               \
        cudaError_t e_ = (call);                                                                                       \
        CHECK_THAT(e_ == cudaSuccess, "%s", cudaGetErrorString(e_));                                                   \
    } while (0)

/* ---- what operators ask of the back end, where it is not linked ---- */

__attribute__((weak)) status cuda_check(cuda_backend *c, cudaError_t e, const char *what) {
    if (e == cudaSuccess) return ST_OK;
    c->failed = ST_INTERNAL;
    return fail(ST_INTERNAL, "%s: %s", what, cudaGetErrorString(e));
}
/* NaN instead of zeros: what operators read they have written. */
__attribute__((weak)) status cuda_take(cuda_backend *c, size_t bytes, const char *what, void **out) {
    *out = NULL;
    if (bytes == 0) return ST_OK;
    TRY(cuda_check(c, cudaMalloc(out, bytes), what));
    return cuda_check(c, cudaMemset(*out, 0xFF, bytes), what);
}
__attribute__((weak)) void cuda_give(void *p) { (void)cudaFree(p); }
__attribute__((weak)) void cuda_put(cuda_backend *c, void *to, const void *host, size_t bytes) {
    (void)cuda_check(c, cudaMemcpy(to, host, bytes, cudaMemcpyHostToDevice), "put");
}

static cuda_backend gpu;

static inline void gpu_open(void) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) test_skip("no GPU is here");
    OK(cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
}

/* ---- device memory ---- */

/* The bytes, or NaN. */
static inline void *device_of(const void *host, size_t bytes) {
    void *p = NULL;
    OK(cudaMalloc(&p, bytes ? bytes : 16));
    if (host && bytes) OK(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    else OK(cudaMemset(p, 0xFF, bytes ? bytes : 16));
    OK(cudaDeviceSynchronize());
    return p;
}
static inline void device_free(void *p) { OK(cudaFree(p)); }
static inline void fetch(void *host, const void *device, size_t bytes) {
    OK(cudaStreamSynchronize(gpu.stream));
    OK(cudaGetLastError());
    OK(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

/* ---- numbers ---- */

static uint64_t random_state = 88172645463325252u;
static inline uint32_t random_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
static inline float random_float(void) { return (float)(int32_t)random_word() * 0x1p-31f; }
static inline float *random_floats(size_t n) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = random_float();
    return x;
}
static inline bool same_bits(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

/* The larger; what is no number is the worst. */
static inline double worse(double a, double b) { return b <= a ? a : b == b ? b : INFINITY; }

/* ---- weights ---- */

static inline uint16_t bf16_round(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}
static inline float bf16_widen(uint16_t x) {
    uint32_t u = (uint32_t)x << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline float fp8_widen(uint8_t b) {
    int e = b >> 3 & 15, m = b & 7;
    float x = e ? ldexpf(1.0f + (float)m / 8, e - 7) : ldexpf((float)m, -9);
    return b & 128 ? -x : x;
}

/* A random matrix in memory, and the values that it stands for. Of strips, columns that do not exist are what they may be. */
typedef struct stored {
    weight_type type;
    uint32_t rows, cols;
    size_t bytes;
    uint8_t *host;
    float *value; /* [rows, cols] */
} stored;

static inline stored stored_random(weight_type type, uint32_t rows, uint32_t cols) {
    stored s = {type, rows, cols, (size_t)weight_rows_bytes(type, rows, cols), NULL, random_floats((size_t)rows * cols)};
    s.host = calloc(1, s.bytes + 64);
    for (uint32_t r = 0; r < rows; r++) {
        float *v = s.value + (size_t)r * cols;
        if (weight_is_quantised(type)) {
            quant_store_floats(type, s.host, cols, r, v);
            weight w = {s.host, rows, cols, type, 0};
            quant_row(&w, r, v);
        } else if (type == WEIGHT_FP8) {
            uint8_t *strip = s.host + r / 16 * quant_strip_bytes(type, cols);
            float scale = 0.001f * (1 + fabsf(random_float()));
            memcpy(strip + (size_t)16 * fp8_row_bytes(cols) + r % 16 * 4, &scale, 4);
            for (uint32_t c = 0; c < cols; c++) {
                uint8_t b = (uint8_t)random_word();
                if ((b & 127) == 127) b ^= 1;
                strip[(size_t)(r % 16) * fp8_row_bytes(cols) + c] = b;
                v[c] = fp8_widen(b) * scale;
            }
        } else {
            for (uint32_t c = 0; c < cols; c++) {
                size_t at = (size_t)r * cols + c;
                if (type == WEIGHT_F32) ((float *)s.host)[at] = v[c];
                if (type == WEIGHT_BF16) v[c] = bf16_widen(((uint16_t *)s.host)[at] = bf16_round(v[c]));
                if (type == WEIGHT_F16) v[c] = half_to_float(((uint16_t *)s.host)[at] = half_from_float(v[c]));
            }
        }
    }
    return s;
}
static inline void stored_free(stored *s) {
    free(s->host);
    free(s->value);
}
static const weight_type stored_types[] = {WEIGHT_F32, WEIGHT_BF16, WEIGHT_F16, WEIGHT_Q8, WEIGHT_Q4, WEIGHT_FP8};
enum { STORED_TYPES = sizeof stored_types / sizeof *stored_types };

#endif
