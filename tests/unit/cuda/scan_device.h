/* A CUDA back end that can scan and nothing else, for the tests of scan and of the sampler on it. */
#ifndef TESTS_UNIT_CUDA_SCAN_DEVICE_H
#define TESTS_UNIT_CUDA_SCAN_DEVICE_H

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/cuda/scan.h"
#include "tests/unit/cuda/stand_in.h"

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
