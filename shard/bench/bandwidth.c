#include "shard/bench/bandwidth.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "shard/bench/over_ranks.h"
#include "shard/kernels/cpu/read_kernels.h"
#include "shard/model/budget.h"

enum { CHUNK_BYTES = 4 << 20, PASSES = 2 };

typedef struct reading {
    char *memory;
    uint64_t bytes; /* whole chunks */
    const read_kernel *kernel;
    _Atomic uint64_t sum; /* keeps the reads alive */
} reading;

static void read_chunk(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    reading *r = context;
    atomic_fetch_add(&r->sum, r->kernel->run(r->memory + (uint64_t)item * CHUNK_BYTES, CHUNK_BYTES));
}

static void touch_chunk(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    reading *r = context;
    memset(r->memory + (uint64_t)item * CHUNK_BYTES, (int)(item % 251) + 1, CHUNK_BYTES);
}

static status one_pass(reading *r, comm *ranks, pool *threads, double *seconds) {
    TRY(comm_barrier(ranks));
    uint64_t begin = clock_now_ns();
    pool_run(threads, (uint32_t)(r->bytes / CHUNK_BYTES), read_chunk, r);
    return over_ranks_most(ranks, (double)(clock_now_ns() - begin) / 1e9, seconds);
}

static status try_kernel(bandwidth *out, reading *r, comm *ranks, pool *threads, const read_kernel *k) {
    double seconds;
    r->kernel = k;
    TRY(one_pass(r, ranks, threads, &seconds));
    double rate = (double)out->bytes / seconds / 1e9;
    if (rate <= out->gb_per_s) return ST_OK;
    out->gb_per_s = rate;
    snprintf(out->kernel, sizeof out->kernel, "%s", k->name);
    return ST_OK;
}

/* Each way once, then the best one again: a pass over gigabytes takes its time. Ranks see the same figures, so they
 * choose alike. */
static status try_all(bandwidth *out, reading *r, comm *ranks, pool *threads, const char *only) {
    read_kernel kernels[READ_KERNELS_MAX];
    uint32_t n = read_kernels(kernels);
    TRY(over_ranks_sum_bytes(ranks, r->bytes, &out->bytes));
    for (uint32_t i = 0; i < n && !only; i++) TRY(try_kernel(out, r, ranks, threads, &kernels[i]));
    char best[sizeof out->kernel];
    snprintf(best, sizeof best, "%s", only ? only : out->kernel);
    for (uint32_t i = 0; i < n; i++)
        for (int pass = 0; !strcmp(kernels[i].name, best) && pass < PASSES; pass++)
            TRY(try_kernel(out, r, ranks, threads, &kernels[i]));
    return ST_OK;
}

status bandwidth_measure(bandwidth *out, comm *ranks, pool *threads, const void *weights, uint64_t bytes,
                         uint64_t least, const char *only) {
    const uint64_t want = least ? least : (uint64_t)BANDWIDTH_GIB << 30;
    uint64_t together, usable = bytes / CHUNK_BYTES * CHUNK_BYTES;
    *out = (bandwidth){0};
    TRY(over_ranks_sum_bytes(ranks, usable, &together));
    out->of_weights = together >= want;
    if (out->of_weights) {
        reading r = {.memory = (char *)weights, .bytes = usable}; /* only read from */
        return try_all(out, &r, ranks, threads, only);
    }
    uint64_t share = want / comm_size(ranks),
             free_share = budget_free_memory() / 2 / comm_where(ranks).local_ranks;
    if (share > free_share) share = free_share;
    reading r = {.bytes = (share / CHUNK_BYTES + 1) * CHUNK_BYTES};
    void *p;
    TRY(memory_map(&p, r.bytes));
    r.memory = p;
    pool_run(threads, (uint32_t)(r.bytes / CHUNK_BYTES), touch_chunk, &r);
    status st = try_all(out, &r, ranks, threads, only);
    memory_unmap(p, r.bytes);
    return st;
}

/* As many bytes as there are, half as many, …; weights are better than very little. */
static void *take_gpu_memory(backend *b, uint64_t want, uint64_t least, uint64_t *bytes) {
    void *memory = NULL;
    for (*bytes = want; b->ops->alloc(b, *bytes, "bandwidth", &memory) != ST_OK; *bytes /= 2)
        if (*bytes / 2 < least) return NULL;
    return memory;
}

status bandwidth_measure_gpu(bandwidth *out, comm *ranks, const gpu_provider *gpu, backend *b, const void *weights,
                             uint64_t bytes, uint64_t least) {
    const uint64_t want = least ? least : (uint64_t)BANDWIDTH_GPU_GIB << 30, little = (uint64_t)64 << 20;
    uint64_t taken_bytes = 0;
    double mine = 0;
    void *taken = bytes < want ? take_gpu_memory(b, want, bytes > little ? bytes : little, &taken_bytes) : NULL;
    *out = (bandwidth){.of_weights = !taken};
    status st = taken || bytes ? ST_OK : fail(ST_NO_MEMORY, "no memory of the GPU to read");
    if (st == ST_OK)
        st = gpu->read_bandwidth(b, taken ? taken : weights, taken ? taken_bytes : bytes, &mine, out->kernel);
    if (taken) b->ops->release(b, taken, taken_bytes);
    TRY(st);
    TRY(over_ranks_sum(ranks, mine, &out->gb_per_s));
    out->bytes = (taken ? taken_bytes : bytes) * comm_size(ranks);
    return ST_OK;
}
