/* Ways of reading memory as fast as it goes, to know what a machine's bandwidth is: which way is fastest differs from
 * processor to processor, so all are tried and the best one counts.
 *
 * Memory:  reads only. bytes is a multiple of READ_BLOCK_BYTES, p aligned to 64.
 * Threads: any; no state. */
#ifndef SHARD_KERNELS_CPU_READ_KERNELS_H
#define SHARD_KERNELS_CPU_READ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { READ_BLOCK_BYTES = 4096, READ_KERNELS_MAX = 9 };

typedef struct read_kernel {
    const char *name;
    uint64_t (*run)(const void *p, size_t bytes); /* a value that depends on every word, so that none is left out */
} read_kernel;

/* What this machine has; returns how many. */
uint32_t read_kernels(read_kernel out[READ_KERNELS_MAX]);

/* The variants, three each. Only to be called where the processor has the instructions. */
extern const read_kernel read_kernels_ref[3], read_kernels_avx2[3], read_kernels_avx512[3];

#endif
