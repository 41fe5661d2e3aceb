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

/* A run of elements of a page's rows; row i's begin at data + i · stride. paired: bf16 as above, stride and count
 * multiples of 32; otherwise float and multiples of 16. */
typedef struct kv_run {
    const void *data;
    size_t stride;
    uint32_t count;
    bool paired;
    const void *ahead; /* NULL or rows of the same stride, type and number that are read next: fetched meanwhile, … */
    uint32_t ahead_from; /* … the rows from this one on */
} kv_run;

#endif
