/* A matrix of weights as kernels see it.
 *
 * Float types are row-major. Q8 and Q4 are groups of 32 consecutive columns of one row with one binary16 scale, laid out
 * in strips of 16 rows so that a vector register holds the same columns of 16 rows, whatever the processor:
 *
 *     strip = groups · quants, then groups · 16 scales, filled up to 64 bytes;  groups = ceil(cols / 32)
 *     quants of a Q8 group: 8 chunks of 64 bytes; byte 4·row + k of chunk v is column 4·v + k, stored as value + 128
 *     quants of a Q4 group: 4 chunks of 64 bytes; byte 4·row + k of chunk v has column 4·v + k in its low nibble and
 *                           column 16 + 4·v + k in its high one, stored as value + 8
 *
 * FP8 (e4m3: 1, 4 and 3 bits, no infinity) has one float scale a row, in strips of 16 rows as well:
 *
 *     strip = 16 rows · fp8_row_bytes(cols), columns in order, then the 16 rows' scales as floats
 *
 * A weight is value · scale; Q4's values (-8 … 7) and scales are exactly those of GGUF's Q4_0, Q8's those of Q8_0. Rows
 * that do not exist have scale 0; columns that do not exist hold anything, since activations are 0 there. */
#ifndef SHARD_KERNELS_WEIGHT_H
#define SHARD_KERNELS_WEIGHT_H

#include <stdbool.h>
#include <stdint.h>
#include "shard/kernels/block_formats.h"
#include "shard/kernels/host_device.h"

typedef enum weight_type {
    WEIGHT_F32,
    WEIGHT_BF16,
    WEIGHT_F16,
    WEIGHT_FLOAT_TYPES, /* how many of them are floats */
    WEIGHT_Q8 = WEIGHT_FLOAT_TYPES,
    WEIGHT_Q4,
    WEIGHT_FP8,    /* on a GPU */
    WEIGHT_BLOCKS, /* rows as a GGUF file stores them: tables that are looked up in the mapped file, never multiplied */
    WEIGHT_TYPES
} weight_type;

enum { QUANT_GROUP = 32, QUANT_ROWS = 16, Q8_GROUP_BYTES = 512, Q4_GROUP_BYTES = 256, QUANT_SCALE_BYTES = 32 };

typedef struct weight {
    const void *data;   /* [rows, cols], 64-byte aligned; NULL: this rank holds none or the layer has none */
    uint32_t rows, cols;
    weight_type type;
    block_format blocks; /* of WEIGHT_BLOCKS */
} weight;

typedef struct expert_weights {
    weight gate, up;    /* [expert width share, hidden] */
    weight down;        /* [hidden, expert width share] */
} expert_weights;

HOST_DEVICE_CONSTANT bool weight_is_quantised(weight_type type) { return type == WEIGHT_Q8 || type == WEIGHT_Q4; }

/* Of float types. */
HOST_DEVICE_CONSTANT uint32_t weight_element_bytes(weight_type type) { return type == WEIGHT_F32 ? 4 : 2; }

HOST_DEVICE_CONSTANT uint32_t quant_groups(uint32_t cols) { return cols / QUANT_GROUP + (cols % QUANT_GROUP != 0); }

HOST_DEVICE_CONSTANT uint32_t quant_group_bytes(weight_type type) { return type == WEIGHT_Q8 ? Q8_GROUP_BYTES : Q4_GROUP_BYTES; }

/* A row of FP8 in a strip: whole 16 bytes; columns that do not exist are 0. */
HOST_DEVICE_CONSTANT uint32_t fp8_row_bytes(uint32_t cols) { return (cols + 15) / 16 * 16; }

/* Types that lie in strips of QUANT_ROWS rows. */
HOST_DEVICE_CONSTANT bool weight_in_strips(weight_type type) { return type == WEIGHT_FP8 || weight_is_quantised(type); }

HOST_DEVICE_CONSTANT uint64_t quant_strip_bytes(weight_type type, uint32_t cols) {
    if (type == WEIGHT_FP8) return (uint64_t)QUANT_ROWS * fp8_row_bytes(cols) + QUANT_ROWS * sizeof(float);
    uint64_t bytes = (uint64_t)quant_groups(cols) * (quant_group_bytes(type) + QUANT_SCALE_BYTES);
    return (bytes + 63) / 64 * 64;
}

/* Bytes of `rows` rows in memory; of types in strips the whole strips that hold them. */
HOST_DEVICE_CONSTANT uint64_t weight_rows_bytes(weight_type type, uint64_t rows, uint32_t cols) {
    if (!weight_in_strips(type)) return rows * cols * weight_element_bytes(type);
    return (rows + QUANT_ROWS - 1) / QUANT_ROWS * quant_strip_bytes(type, cols);
}

#endif
