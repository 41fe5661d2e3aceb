/* How the CPU's attention reads a page of the cache. */
#ifndef SHARD_KERNELS_CPU_KV_RUN_H
#define SHARD_KERNELS_CPU_KV_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_PAGE_TOKENS = 64 };

/* How bf16 stands in a page of the cache: of each 32 elements of a row, pairs of element j and element j + 16, so that
 * a shift and a mask give two registers of floats in order. A rest of fewer than 32 stands as it is. */
enum { KV_PAIR_BLOCK = 32 };
static inline uint32_t kv_pair_at(uint32_t d) { return d / 32 * 32 + d % 16 * 2 + d % 32 / 16; }

/* A kernel that reads some rows of a page may read all up to a multiple of so many. */
enum { KV_ROWS_READ = 16 };

/* Memory that is read next, fetched into the second cache meanwhile: as many lines as are worked on, or one in
 * `every` such steps, in order, so that the processor's own prefetcher follows them. */
enum { KV_LINE = 64 };
typedef struct kv_ahead {
    const char *at, *end;
    uint32_t every;
} kv_ahead;

/* A run of elements of a page's rows; row i's begin at data + i · stride. paired: bf16 as above, stride and count
 * multiples of 32; otherwise float and multiples of 16. */
typedef struct kv_run {
    const void *data;
    size_t stride;
    uint32_t count;
    bool paired;
    kv_ahead *ahead; /* or NULL */
} kv_run;

#endif
