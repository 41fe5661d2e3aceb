/* Products of quantised weights (weight.h) with activations quantised to int8: one table a variant, all giving the same
 * bits.
 *
 * Arithmetic (docs/numerics.md): activations are cut into groups of 32 columns of one token. A group's scale is
 * max|x| / 127, its values round(x · (127 / max|x|)) to even; below QUANT_LEAST both are 0. An output is
 *
 *     sum = +0;  for each group in order:  sum = fmaf((float)dot, weight scale · activation scale, sum)
 *
 * with dot the integer sum of value · value, which no order of adding changes.
 *
 * Memory:  callers own everything. Products take up to 96 KiB of stack.
 * Threads: any; no state.
 * Bounds:  finite activations; one that is not gives an unspecified value, in its own token alone. */
#ifndef SHARD_KERNELS_CPU_QUANT_H
#define SHARD_KERNELS_CPU_QUANT_H

#include "base/status.h"
#include "shard/kernels/cpu/math_constants.h"
#include "shard/kernels/weight.h"
#include <stddef.h>
#include <stdint.h>

enum { QUANT_BLOCK = 16 }; /* tokens that lie together */

/* Quantised activations. Tokens stand in blocks of block_rows; a last block that is not full has its other rows zero. */
typedef struct quant_input {
    int8_t *values; /* [blocks, groups, block_rows, 32], 64-byte aligned */
    float *scale;   /* [blocks, groups, block_rows] */
    int32_t *bias;  /* like scale: -8 · the sum of the group's values, for weights stored with an offset */
    uint32_t tokens, groups, block_rows; /* block_rows: tokens, at most QUANT_BLOCK */
} quant_input;

static inline uint32_t quant_block_rows(uint32_t tokens) {
    return tokens < QUANT_BLOCK ? tokens : QUANT_BLOCK;
}
/* Rows that memory is taken for. */
static inline uint32_t quant_padded(uint32_t tokens) {
    return tokens < QUANT_BLOCK ? tokens : (tokens + QUANT_BLOCK - 1) / QUANT_BLOCK * QUANT_BLOCK;
}
/* Where a token's group stands, in units of groups: times 32 in values. */
static inline size_t quant_place(const quant_input *x, uint32_t token, uint32_t group) {
    return ((size_t)(token / QUANT_BLOCK) * x->groups + group) * x->block_rows + token % QUANT_BLOCK;
}

/* y[t · y_stride + r] for r < rows and t in first … first + tokens - 1; weights points at the strip of row 0, strips at
 * intervals of quant_strip_bytes. first is a multiple of QUANT_BLOCK. */
typedef void quant_product(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                           const void *weights, uint32_t rows, uint32_t cols);

typedef struct quant_kernels {
    const char *name; /* "scalar", "avx2", "avxvnni", "avx512", "amx" */
    /* `groups` whole groups of one token: values[g · 32 · stride], scale[g · stride], bias[g · stride]. */
    void (*quantise)(const float *x, uint32_t groups, int8_t *values, float *scale, int32_t *bias,
                     size_t stride);
    quant_product *q8, *q4;
} quant_kernels;

static inline quant_product *quant_product_of(const quant_kernels *k, weight_type type) {
    return type == WEIGHT_Q8 ? k->q8 : k->q4;
}

/* Columns first_group · 32 … of one token, `groups` of them or fewer where the row of `cols` ends. */
void quant_token(const quant_kernels *k, const quant_input *to, uint32_t token, const float *x, uint32_t cols,
                 uint32_t first_group, uint32_t groups);
/* The rows of the last block that no token has: zero. */
void quant_clear_rest(const quant_input *x);

/* Best variant that this machine has and GEMMAD_ISA allows. */
STATUS_CHECKED status quant_kernels_pick(const quant_kernels **out);
extern const quant_kernels quant_kernels_scalar;
/* NULL where the build or the machine does not have it. For tests. */
const quant_kernels *quant_kernels_avx2(void);
const quant_kernels *quant_kernels_avxvnni(void);
const quant_kernels *quant_kernels_avx512(void);
const quant_kernels *quant_kernels_amx(void);

#endif
