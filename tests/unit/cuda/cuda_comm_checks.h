/* The calls of a GPU's comm against those of the host's comm under it, bit for bit: each rank hands in the same bytes to
 * both. A difference is ST_INTERNAL with a sentence that names it. */
#ifndef TESTS_CUDA_COMM_CHECKS_H
#define TESTS_CUDA_COMM_CHECKS_H

#include <cuda_runtime_api.h>

#include "shard/comm/cuda/cuda_comm.h"
#include "tests/unit/comm/comm_checks.h"

#define GPU_TRY(call)                                                                                        \
    do {                                                                                                     \
        cudaError_t gpu_error_ = (call);                                                                     \
        if (gpu_error_ != cudaSuccess)                                                                       \
            return fail(ST_INTERNAL, "%s:%d: %s: %s", __FILE__, __LINE__, #call, cudaGetErrorString(gpu_error_)); \
    } while (0)

/* One rank of a test. */
typedef struct gpu_rank {
    comm *ranks, *c;
    cudaStream_t stream;
    uint32_t rank, size;
} gpu_rank;

/* A device copy of host bytes, with 64 bytes of 7 behind it. Taking and releasing memory may wait for a whole device, and where
 * ranks share one, another rank's kernel may wait there for this rank: so nobody exchanges before all have done it. */
static inline status gpu_copy_of(gpu_rank *g, const void *host, size_t bytes, void **out) {
    GPU_TRY(cudaMalloc(out, bytes + 64));
    GPU_TRY(cudaMemsetAsync(*out, 7, bytes + 64, g->stream));
    if (bytes) GPU_TRY(cudaMemcpyAsync(*out, host, bytes, cudaMemcpyHostToDevice, g->stream));
    GPU_TRY(cudaStreamSynchronize(g->stream));
    return comm_barrier(g->ranks);
}

/* Compares device memory with what is wanted, and that nothing behind it was written; releases it. */
static inline status gpu_compare(gpu_rank *g, const char *what, void *device, const void *want, size_t bytes) {
    uint8_t *got = memory_alloc(bytes + 64);
    status st = ST_OK;
    GPU_TRY(cudaMemcpyAsync(got, device, bytes + 64, cudaMemcpyDeviceToHost, g->stream));
    GPU_TRY(cudaStreamSynchronize(g->stream));
    for (size_t i = 0; i < bytes && st == ST_OK; i++)
        if (got[i] != ((const uint8_t *)want)[i])
            st = fail(ST_INTERNAL, "%s of %zu bytes: byte %zu is wrong on rank %u of %u", what, bytes, i, g->rank, g->size);
    for (size_t i = bytes; i < bytes + 64 && st == ST_OK; i++)
        if (got[i] != 7) st = fail(ST_INTERNAL, "%s of %zu bytes wrote past the end", what, bytes);
    free(got);
    if (st == ST_OK) st = comm_barrier(g->ranks);
    GPU_TRY(cudaFree(device));
    return st == ST_OK ? comm_barrier(g->ranks) : st;
}

/* `shift` floats off alignment. */
static inline status gpu_check_all_reduce(gpu_rank *g, uint64_t seed, size_t count, size_t shift) {
    float *x = memory_alloc_array(shift + count + 1, sizeof *x);
    void *device = NULL;
    for (size_t i = 0; i < count; i++) x[shift + i] = checks_float(seed, g->rank, i);
    TRY(gpu_copy_of(g, x, (shift + count) * sizeof *x, &device));
    TRY(comm_all_reduce(g->c, (float *)device + shift, count));
    TRY(comm_all_reduce(g->ranks, x + shift, count));
    status st = gpu_compare(g, "all-reduce", device, x, (shift + count) * sizeof *x);
    free(x);
    return st;
}

static inline status gpu_check_all_gather(gpu_rank *g, uint64_t seed, size_t most, bool in_place, bool same) {
    uint32_t n = g->size, me = g->rank;
    size_t *bytes = memory_alloc_array(n, sizeof *bytes), sum = 0, mine_at = 0;
    for (uint32_t r = 0; r < n; r++) {
        bytes[r] = same ? most : checks_size(seed, r, 0, most);
        if (r == me) mine_at = sum;
        sum += bytes[r];
    }
    uint8_t *in = memory_alloc(bytes[me] + 1), *out = memory_alloc(sum + 1);
    for (size_t i = 0; i < bytes[me]; i++) in[i] = checks_byte(seed, me, 0, i);
    TRY(same ? comm_all_gather(g->ranks, in, most, out) : comm_all_gather_v(g->ranks, in, bytes, out));
    void *device_in = NULL, *device_out = NULL;
    uint8_t *empty = memory_alloc(sum + 1);
    memcpy(empty + mine_at, in, bytes[me]);
    TRY(gpu_copy_of(g, in, bytes[me], &device_in));
    TRY(gpu_copy_of(g, empty, sum, &device_out));
    const void *from = in_place ? (char *)device_out + mine_at : device_in;
    TRY(same ? comm_all_gather(g->c, from, most, device_out) : comm_all_gather_v(g->c, from, bytes, device_out));
    status st = gpu_compare(g, "all-gather", device_out, out, sum);
    if (st == ST_OK) st = gpu_compare(g, "input of all-gather", device_in, in, bytes[me]);
    free(empty);
    free(out);
    free(in);
    free(bytes);
    return st;
}

static inline status gpu_check_all_to_all(gpu_rank *g, uint64_t seed, size_t most) {
    checks_blocks b = checks_blocks_open(g->size, g->rank, seed, most);
    void *device_in = NULL, *device_out = NULL;
    status st;
    TRY_OR_FAIL(gpu_copy_of(g, b.in, b.sent, &device_in));
    TRY_OR_FAIL(gpu_copy_of(g, b.out, b.received, &device_out));
    TRY_OR_FAIL(comm_all_to_all_v(g->c, device_in, b.send, device_out, b.recv));
    TRY_OR_FAIL(comm_all_to_all_v(g->ranks, b.in, b.send, b.out, b.recv));
    TRY_OR_FAIL(gpu_compare(g, "all-to-all", device_out, b.out, b.received));
    st = gpu_compare(g, "input of all-to-all", device_in, b.in, b.sent);
fail:
    checks_blocks_close(&b);
    return st;
}

static inline status gpu_check_broadcast(gpu_rank *g, uint64_t seed, size_t bytes, uint32_t root) {
    uint8_t *data = memory_alloc(bytes + 1);
    void *device = NULL;
    for (size_t i = 0; i < bytes; i++) data[i] = checks_byte(seed, g->rank, 0, i);
    TRY(gpu_copy_of(g, data, bytes, &device));
    TRY(comm_broadcast(g->c, device, bytes, root));
    for (size_t i = 0; i < bytes; i++) data[i] = checks_byte(seed, root, 0, i);
    status st = gpu_compare(g, "broadcast", device, data, bytes);
    free(data);
    return st;
}

/* small, large: what the comm was opened with; sizes on both sides of what changes its ways and pieces. */
static inline status gpu_check_exchanges(gpu_rank *g, size_t small, size_t large_bytes) {
    const size_t large = large_bytes / sizeof(float);
    const size_t counts[] = {0,         1,          3,          4,         5,         31,           511,          512,
                             513,       2816,       small - 1,  small,     small + 1, small + 129,  large - 1,    large,
                             large + 1, 2 * large,  3 * large + 5};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        TRY(gpu_check_all_reduce(g, i, counts[i], 0));
        if (i % 3 == 0) TRY(gpu_check_all_reduce(g, i + 50, counts[i], 1 + i % 3));
    }
    for (size_t i = 0; i < 6; i++) {
        uint64_t z = checks_random(i, 5, 2);
        size_t most = i == 0 ? 0 : i == 1 ? 1 : (size_t)(z >> 16) % (large_bytes / 2);
        TRY(gpu_check_all_gather(g, i, most, i % 2, i % 3 == 0));
        TRY(gpu_check_all_to_all(g, i, most));
        TRY(gpu_check_broadcast(g, i, most, (uint32_t)(z % g->size)));
        TRY(comm_barrier(g->c));
    }
    TRY(gpu_check_all_gather(g, 77, 4096, true, true));
    return gpu_check_broadcast(g, 78, 2 * large_bytes + 3, g->size - 1);
}

#endif
