/* Blocks of quantised weights as GGUF files hold them: how many elements share how many bytes, and what float32 values
 * they stand for, exactly: every value is the one rounding chain that the format's published decoder has.
 *
 * Memory:  the caller's; blocks need no alignment.
 * Threads: any. */
#ifndef SHARD_KERNELS_BLOCK_FORMATS_H
#define SHARD_KERNELS_BLOCK_FORMATS_H

#include <stddef.h>
#include <stdint.h>

typedef enum block_format {
    BLOCK_Q4_0, /* 32: half scale, 4 bits minus 8 */
    BLOCK_Q4_1, /* 32: half scale and minimum, 4 bits */
    BLOCK_Q5_0, /* 32: half scale, 5 bits minus 16 */
    BLOCK_Q5_1, /* 32: half scale and minimum, 5 bits */
    BLOCK_Q8_0, /* 32: half scale, signed bytes */
    BLOCK_Q4_K, /* 256 in groups of 32: 6-bit scales and minima of half ones, 4 bits */
    BLOCK_Q5_K, /* as Q4_K, 5 bits */
    BLOCK_Q6_K, /* 256 in groups of 16: 8-bit scales of a half one, 6 bits minus 32 */
    BLOCK_FORMATS,
} block_format;

enum { BLOCK_ELEMENTS_MAX = 256, BLOCK_BYTES_MAX = 210 };

uint32_t block_elements(block_format format);
uint32_t block_bytes(block_format format);
/* out[elements]; elements is a multiple of block_elements(format). */
void block_dequantise(block_format format, const void *blocks, float *out, size_t elements);

#endif
