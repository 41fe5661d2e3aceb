/* Products of the CUDA back end: what their kernels are told, and the launchers.
 *
 * stream: up to 16 tokens against weights that are read once, by tensor cores; the bits of a token depend on the weights'
 *         columns alone, never on what else a call holds. More tokens: tiles of 16, which share the reads.
 * float:  float32 products of float weights of any shape, the same bits for any number of tokens.
 * lt:     cuBLASLt, activations and weights as bf16.
 *
 * Memory: pointers are device memory. Threads: the engine thread. */
#ifndef SHARD_KERNELS_CUDA_LINEAR_H
#define SHARD_KERNELS_CUDA_LINEAR_H

#include "shard/kernels/cuda/cuda_backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device memory that cuda_linear_open takes, or less where there is no cuBLASLt. */
uint64_t cuda_linear_bytes(const cuda_backend_options *o);

/* ---- stream (linear_stream.cu; linear_stream_plan.c) ---- */

enum {
    STREAM_TILE = 16,           /* rows of weights, and tokens, that one pass of a group covers */
    STREAM_WARPS = 4,           /* of a group; they share the columns of a tile: part of the answer's definition */
    STREAM_THREADS = STREAM_WARPS * 32,
    STREAM_GROUPS_MAX = 4,      /* of a block; each has a tile of its own */
    STREAM_SLOTS = 4,           /* steps of a warp that are on their way or in use */
    STREAM_SUM_STRIDE = STREAM_TILE + 4, /* floats between tokens of partial sums: no two lanes meet in a bank */
};

/* Columns of one step of a warp, and its bytes in shared memory (quants, then scales). */
HOST_DEVICE_CONSTANT uint32_t stream_step_columns(weight_type type) { return type == WEIGHT_BF16 ? 64 : 128; }
HOST_DEVICE_CONSTANT uint32_t stream_slot_bytes(weight_type type) {
    return type == WEIGHT_Q4 ? 1024 + 128 : type == WEIGHT_Q8 ? 2048 + 128 : 2048;
}

/* Groups on a multiprocessor: four keep 96 KiB on their way, which is enough; q4 has half the bytes in as many slots, and needs
 * warps for its arithmetic, as far as there are registers. */
HOST_DEVICE_CONSTANT uint32_t stream_groups_wanted(weight_type type, uint32_t n) { return type == WEIGHT_Q4 && n <= 8 ? 5 : 4; }

typedef struct stream_product {
    const void *w;
    float *y;
    size_t y_stride;
    uint32_t rows, tiles_end;   /* tiles of this product and those before it */
} stream_product;

typedef struct stream_call {
    stream_product product[PRODUCTS_MAX];
    const float *x;             /* [n, cols] */
    size_t x_stride;
    uint64_t tile_bytes;        /* from one tile's weights to the next one's */
    uint32_t count, n, cols;
    uint32_t units;             /* tiles; gated: pairs of the gate's and the up matrix's tile */
    uint32_t chunk_columns;     /* of x in shared memory at a time; a multiple of what all warps' steps cover */
    uint32_t token_tiles, blocks, groups; /* blocks for each token tile */
    uint32_t ahead;             /* bytes of a group's first tile that are asked for early; a multiple of 256 */
    bool gated;                 /* product[0].y = gelu(product[0]) · product[1] */
    bool vector_x;              /* rows of x may be read 16 bytes at a time, to their ends */
} stream_call;

/* Fills in how the work is cut (units are there), for a GPU; returns the dynamic shared memory of a block. */
size_t linear_stream_plan(stream_call *call, weight_type type, uint32_t multiprocessors, size_t shared_bytes_max);
void linear_stream_launch(cudaStream_t stream, weight_type type, const stream_call *call, size_t shared_bytes);

/* ---- float (linear_float.cu) ---- */

typedef struct float_call {
    const void *w;              /* [rows, cols] */
    const float *x;             /* [n, cols] */
    float *y;                   /* [n, rows] */
    size_t x_stride, y_stride;
    uint32_t rows, cols, n;
    bool vector;                /* four columns may be read at a time, of w and of x */
} float_call;
void linear_float_launch(cudaStream_t stream, weight_type type, const float_call *call);

/* ---- lt (linear_lt.c, linear_widen.cu) ---- */

/* to[n, stride] = bf16 of x[n, cols], zeros up to stride (a multiple of 8). */
void linear_round_launch(cudaStream_t stream, uint16_t *to, uint32_t stride, const float *x, size_t x_stride,
                         uint32_t cols, uint32_t n);
/* to[rows, stride] = bf16 of rows first … first + rows - 1 of a q8, q4 or fp8 matrix; first is a multiple of 16. */
void linear_widen_launch(cudaStream_t stream, uint16_t *to, uint32_t stride, const weight *w, uint32_t first,
                         uint32_t rows);

typedef struct linear_lt linear_lt;
enum { LT_WORKSPACE_BYTES = 64 << 20 };
status linear_lt_open(linear_lt **out, cuda_backend *c);
void linear_lt_close(linear_lt *l);
/* y[n, rows] = x[n, cols] · w[rows, cols]ᵀ, cols a multiple of 8; both with `cols` from row to row, at multiples of 16 bytes.
 * false: the library does not do such shapes. A failure is kept in c. */
bool linear_lt_product(linear_lt *l, cuda_backend *c, float *y, size_t y_stride, const uint16_t *w, const uint16_t *x,
                       uint32_t rows, uint32_t cols, uint32_t n);

#ifdef __cplusplus
}
#endif
#endif
