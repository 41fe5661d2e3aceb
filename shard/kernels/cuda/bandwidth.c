#include "shard/kernels/cuda/bandwidth.h"

#include <stdio.h>

enum { PASSES = 5 };

typedef struct way {
    int unroll;
    uint32_t blocks_each; /* of a multiprocessor */
} way;

static status time_pass(cuda_backend *c, const way *w, const void *memory, uint64_t bytes, uint32_t *sink,
                        cudaEvent_t begin, cudaEvent_t end, float *ms) {
    TRY(cuda_check(c, cudaEventRecord(begin, c->stream), "bandwidth"));
    cuda_read_all(c->stream, memory, bytes, w->blocks_each * c->multiprocessors, w->unroll, sink);
    TRY(cuda_check(c, cudaEventRecord(end, c->stream), "bandwidth"));
    TRY(cuda_check(c, cudaEventSynchronize(end), "bandwidth"));
    return cuda_check(c, cudaEventElapsedTime(ms, begin, end), "bandwidth");
}

status cuda_read_bandwidth(backend *b, const void *memory, uint64_t bytes, double *gb_per_s, char kernel[24]) {
    static const way ways[] = {{1, 4}, {4, 2}, {4, 4}, {8, 2}, {8, 4}};
    cuda_backend *c = cuda_of(b);
    cudaEvent_t begin = NULL, end = NULL;
    void *sink = NULL;
    status st;
    *gb_per_s = 0;
    TRY_OR_FAIL(cuda_take(c, sizeof(uint32_t), "bandwidth", &sink));
    TRY_OR_FAIL(cuda_check(c, cudaEventCreate(&begin), "bandwidth"));
    TRY_OR_FAIL(cuda_check(c, cudaEventCreate(&end), "bandwidth"));
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        for (int pass = 0; pass < PASSES; pass++) {
            float ms = 0;
            TRY_OR_FAIL(time_pass(c, &ways[i], memory, bytes, sink, begin, end, &ms));
            double rate = ms > 0 ? (double)bytes / (double)ms / 1e6 : 0;
            if (rate <= *gb_per_s) continue;
            *gb_per_s = rate;
            snprintf(kernel, 24, "cuda %d x 16 x %u", ways[i].unroll, ways[i].blocks_each);
        }
fail:
    if (begin) (void)cudaEventDestroy(begin);
    if (end) (void)cudaEventDestroy(end);
    cuda_give(sink);
    return st;
}
