/* What operators ask of the back end, in its simplest form: for tests of one operator on a cuda_backend that they fill by hand, without
 * cuda_backend.c and its pinned memory. Where that file is linked too, it is the one that counts. */
#ifndef TESTS_UNIT_CUDA_STAND_IN_H
#define TESTS_UNIT_CUDA_STAND_IN_H

#include "shard/kernels/cuda/cuda_backend.h"
#include "tests/unit/cuda/cuda_test.h"

#define WEAK __attribute__((weak))

/* What memory holds that operators take. The back end promises zeros; a test whose operators do not count on them sets 0xFF, which is
 * NaN: what they read they have written. */
static int stand_in_fill;

WEAK status cuda_check(cuda_backend *c, cudaError_t e, const char *what) {
    if (e == cudaSuccess) return c->failed;
    return c->failed = fail(ST_INTERNAL, "%s: %s", what, cudaGetErrorString(e));
}
WEAK status cuda_take(cuda_backend *c, size_t bytes, const char *what, void **out) {
    *out = NULL;
    if (bytes == 0) return ST_OK;
    TRY(cuda_check(c, cudaMalloc(out, bytes), what));
    return cuda_check(c, cudaMemsetAsync(*out, stand_in_fill, bytes, c->stream), what);
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

#endif
