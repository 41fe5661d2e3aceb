/* A CUDA back end that can scan and nothing else, for the tests of scan and of the sampler on it. What cuda_backend.c gives the
 * whole back end is here in its simplest form; where that file is linked too, it is the one that counts. */
#ifndef TESTS_UNIT_CUDA_SCAN_DEVICE_H
#define TESTS_UNIT_CUDA_SCAN_DEVICE_H

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/cuda/cuda_backend.h"
#include "shard/kernels/cuda/scan.h"
#include "tests/test.h"

#define WEAK __attribute__((weak))

WEAK status cuda_check(cuda_backend *c, cudaError_t e, const char *what) {
    if (e == cudaSuccess) return c->failed;
    return c->failed = fail(ST_INTERNAL, "%s: %s", what, cudaGetErrorString(e));
}
WEAK status cuda_take(cuda_backend *c, size_t bytes, const char *what, void **out) {
    *out = NULL;
    if (!bytes) return ST_OK;
    TRY(cuda_check(c, cudaMalloc(out, bytes), what));
    return cuda_check(c, cudaMemset(*out, 0, bytes), what);
}
WEAK void cuda_give(void *p) { (void)cudaFree(p); }
WEAK void cuda_put(cuda_backend *c, void *to, const void *host, size_t bytes) {
    (void)cuda_check(c, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, c->stream), "put");
    (void)cuda_check(c, cudaStreamSynchronize(c->stream), "put");
}
WEAK status cuda_get(cuda_backend *c, void *host, const void *from, size_t bytes) {
    (void)cuda_check(c, cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, c->stream), "get");
    return cuda_check(c, cudaStreamSynchronize(c->stream), "get");
}

static inline void scan_device_needed(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) test_skip("there is no GPU");
}

static inline void scan_device_open(cuda_backend *c, uint32_t rows, uint32_t share) {
    *c = (cuda_backend){.options = {.scan_rows_max = rows, .share = share}};
    CHECK_STATUS(cuda_check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "a stream"), ST_OK);
    CHECK_STATUS(cuda_scan_open(c), ST_OK);
    CHECK_STATUS(cuda_check(c, cudaDeviceSynchronize(), "memory"), ST_OK);
}

static inline void scan_device_close(cuda_backend *c) {
    cuda_scan_close(c);
    CHECK_STATUS(cuda_check(c, cudaStreamDestroy(c->stream), "a stream"), ST_OK);
}

#endif
