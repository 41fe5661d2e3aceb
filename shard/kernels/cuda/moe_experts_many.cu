/* Experts for many tokens: tiles of 128 tokens of one expert and 128 rows of weights on tensor cores, activations as one
 * bf16. Operand A is tokens, operand B weights; both come in slices of 64 columns to shared memory, three under way. Weights
 * that are not bf16 are read a slice ahead into registers and become bf16 on their way to shared memory.
 *
 * With `gated` the 128 rows are 64 of gate and the same 64 of up, 16 and 16 in turn, so that a warp's 32 rows are both
 * sides of 16 products.
 *
 * In shared memory a row of a slice is 128 bytes, eight pieces of which piece p of row r stands at p ^ (r % 8): what
 * ldmatrix reads at once lies in different banks. */
#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/cuda/moe_places.cuh"
#include "shard/kernels/cuda/stored_values.cuh"
#include "shard/kernels/cuda/weight_shape.cuh"

enum {
    MANY_THREADS = 256,
    MANY_ROWS = 128,
    SLICE = 64,             /* columns */
    SLICES = 3,
    SLICE_BYTES = SLICE * 2,
    OPERAND_BYTES = 128 * SLICE_BYTES,
    MANY_SHARED = SLICES * 2 * OPERAND_BYTES,
    WARP_TOKENS = 64, WARP_ROWS = 32, /* of 2 · 4 warps */
    TOKEN_TILES = WARP_TOKENS / 16, ROW_TILES = WARP_ROWS / 8,
};

static __device__ __forceinline__ unsigned char *piece_at(unsigned char *operand, uint32_t row, uint32_t piece) {
    return operand + row * SLICE_BYTES + (piece ^ row % 8) * 16;
}

/* ---- weights into shared memory ---- */

typedef struct many_weights {
    const unsigned char *gate, *up; /* or down, and nothing */
    weight_shape shape;
    uint32_t first;               /* row of the matrix that the tile begins with */
} many_weights;

/* Groups of 16 rows of a tile: which matrix, and its first row there. */
template <bool gated>
static __device__ __forceinline__ const unsigned char *group_of(const many_weights &w, uint32_t group, uint32_t *row) {
    *row = w.first + (gated ? group / 2 : group) * 16;
    return gated && group % 2 ? w.up : w.gate;
}

/* bf16: eight threads copy a row's 128 bytes; cols is a multiple of 8. */
template <bool gated>
static __device__ __forceinline__ void copy_bf16(unsigned char *to, const many_weights &w, uint32_t column) {
#pragma unroll
    for (uint32_t i = 0; i < MANY_ROWS * 8 / MANY_THREADS; i++) {
        uint32_t at = i * MANY_THREADS + threadIdx.x, r = at / 8, piece = at % 8, first;
        const unsigned char *data = group_of<gated>(w, r / 16, &first);
        uint32_t row = first + r % 16, col = column + piece * 8;
        bool valid = row < w.shape.rows && col < w.shape.cols;
        cp_async_16(piece_at(to, r, piece), valid ? data + ((size_t)row * w.shape.cols + col) * 2 : data, valid);
    }
}

/* What a thread holds of a slice of stored values: q8 and fp8 two pieces of 16 bytes, q4 one. */
template <int type> struct stored_slice {
    static constexpr int pieces = type == WEIGHT_Q4 ? 1 : 2;
    uint4 values[pieces];
    uint2 scales[pieces]; /* four halves; of fp8 one float */
};

template <int type, bool gated>
static __device__ __forceinline__ void load_stored(stored_slice<type> *s, const many_weights &w, uint32_t column) {
#pragma unroll
    for (uint32_t i = 0; i < stored_slice<type>::pieces; i++) {
        uint32_t at = i * MANY_THREADS + threadIdx.x, first;
        s->values[i] = make_uint4(0, 0, 0, 0);
        s->scales[i] = make_uint2(0, 0);
        if (type == WEIGHT_FP8) { /* four threads have a row's 64 bytes */
            uint32_t r = at / 4, col = column + at % 4 * 16;
            const unsigned char *strip = group_of<gated>(w, r / 16, &first);
            strip += first / 16 * w.shape.strip_bytes;
            if (first >= w.shape.rows || col >= w.shape.row_bytes) continue;
            s->values[i] = load_stream(strip + (size_t)(r % 16) * w.shape.row_bytes + col);
            s->scales[i].x = *(const uint32_t *)(strip + w.shape.scales_at + r % 16 * 4);
        } else { /* four threads have a chunk of 64 bytes: 16 rows of 4 columns, or of 4 and 4 */
            constexpr uint32_t bytes = quant_group_bytes((weight_type)type);
            uint32_t strip_index = at / (2 * bytes / 16), within = at % (2 * bytes / 16) * 16;
            uint32_t group = column / QUANT_GROUP + within / bytes;
            const unsigned char *strip = group_of<gated>(w, strip_index, &first);
            strip += first / 16 * w.shape.strip_bytes;
            if (first >= w.shape.rows || group >= quant_groups(w.shape.cols)) continue;
            s->values[i] = load_stream(strip + (size_t)group * bytes + within % bytes);
            s->scales[i] = *(const uint2 *)(strip + w.shape.scales_at + group * QUANT_SCALE_BYTES + within % 64 / 16 * 8);
        }
    }
}

template <int type>
static __device__ __forceinline__ void store_stored(unsigned char *to, const stored_slice<type> &s) {
#pragma unroll
    for (uint32_t i = 0; i < stored_slice<type>::pieces; i++) {
        uint32_t at = i * MANY_THREADS + threadIdx.x, pair[2];
        const uint32_t words[4] = {s.values[i].x, s.values[i].y, s.values[i].z, s.values[i].w};
        if (type == WEIGHT_FP8) {
            float scale = __uint_as_float(s.scales[i].x);
            uint2 out[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                stored_fp8(words[j], pair);
                out[j] = stored_scaled(pair, scale);
            }
            *(uint4 *)piece_at(to, at / 4, at % 4 * 2) = make_uint4(out[0].x, out[0].y, out[1].x, out[1].y);
            *(uint4 *)piece_at(to, at / 4, at % 4 * 2 + 1) = make_uint4(out[2].x, out[2].y, out[3].x, out[3].y);
        } else {
            constexpr uint32_t bytes = quant_group_bytes((weight_type)type);
            uint32_t within = at % (2 * bytes / 16) * 16, group = within / bytes, chunk = within % bytes / 64;
            uint32_t r = at / (2 * bytes / 16) * 16 + within % 64 / 4;
#pragma unroll
            for (int j = 0; j < 4; j++) { /* row r + j */
                uint32_t half = j < 2 ? s.scales[i].x : s.scales[i].y;
                float scale = f16_float((uint16_t)(j % 2 ? half >> 16 : half & 0xFFFFu));
#pragma unroll
                for (int nibble = 0; nibble < (type == WEIGHT_Q4 ? 2 : 1); nibble++) {
                    uint32_t column = group * 32 + nibble * 16 + chunk * 4;
                    if (type == WEIGHT_Q8) stored_q8(words[j], pair);
                    else stored_q4(words[j] >> 4 * nibble, pair);
                    *(uint2 *)(piece_at(to, r + j, column / 8) + column % 8 * 2) = stored_scaled(pair, scale);
                }
            }
        }
    }
}

/* ---- tokens into shared memory ---- */

/* Rows of the tile's tokens; eight threads copy a row's 128 bytes. */
typedef struct many_tokens {
    const uint16_t *row[128 * 8 / MANY_THREADS]; /* NULL: no such token */
    uint32_t stride;
} many_tokens;

static __device__ __forceinline__ void copy_tokens(unsigned char *to, const many_tokens &x, uint32_t column,
                                                   const void *any) {
#pragma unroll
    for (uint32_t i = 0; i < 128 * 8 / MANY_THREADS; i++) {
        uint32_t at = i * MANY_THREADS + threadIdx.x, piece = at % 8, col = column + piece * 8;
        bool valid = x.row[i] != NULL && col < x.stride;
        cp_async_16(piece_at(to, at / 8, piece), valid ? (const void *)(x.row[i] + col) : any, valid);
    }
}

/* ---- a slice's products ---- */

static __device__ __forceinline__ void multiply_slice(float sum[TOKEN_TILES][ROW_TILES][4], unsigned char *tokens,
                                                      unsigned char *weights) {
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint32_t token = warp % 2 * WARP_TOKENS + lane % 16, token_piece = lane / 16;
    uint32_t row = warp / 2 * WARP_ROWS + lane / 16 * 8 + lane % 8, row_piece = lane / 8 % 2;
#pragma unroll
    for (uint32_t step = 0; step < SLICE / 16; step++) {
        uint32_t a[TOKEN_TILES][4], b[ROW_TILES / 2][4];
#pragma unroll
        for (uint32_t i = 0; i < TOKEN_TILES; i++) ldmatrix_x4(a[i], piece_at(tokens, token + i * 16, step * 2 + token_piece));
#pragma unroll
        for (uint32_t j = 0; j < ROW_TILES / 2; j++) ldmatrix_x4(b[j], piece_at(weights, row + j * 16, step * 2 + row_piece));
#pragma unroll
        for (uint32_t i = 0; i < TOKEN_TILES; i++)
#pragma unroll
            for (uint32_t j = 0; j < ROW_TILES; j++) mma_bf16(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
    }
}

/* ---- kernels ---- */

typedef struct many_output {
    uint16_t *act;  /* [pair, act_stride], gated */
    float *y_pair;  /* [pair, rows] */
    uint32_t act_stride;
} many_output;

/* A lane's two neighbouring columns of one token; behind the width are zeros up to the stride, which is even. */
static __device__ __forceinline__ void store_act(const many_output &o, uint32_t pair, uint32_t row, uint32_t rows,
                                                 const float *gate, const float *up) {
    if (row >= o.act_stride) return;
    float first = row < rows ? ref_gelu(gate[0]) * up[0] : 0.0f, second = row + 1 < rows ? ref_gelu(gate[1]) * up[1] : 0.0f;
    *(uint32_t *)(o.act + (size_t)pair * o.act_stride + row) = bf16_pack(first, second);
}
static __device__ __forceinline__ void store_y(const many_output &o, uint32_t pair, uint32_t row, uint32_t rows,
                                               const float *sum) {
    float *to = o.y_pair + (size_t)pair * rows + row;
    if (rows % 2 == 0 && row < rows) {
        *(float2 *)to = make_float2(sum[0], sum[1]);
    } else {
        if (row < rows) to[0] = sum[0];
        if (row + 1 < rows) to[1] = sum[1];
    }
}

template <bool gated>
static __device__ __forceinline__ void store_tile(const many_output &o, const float sum[TOKEN_TILES][ROW_TILES][4],
                                                  const uint32_t *pairs, uint32_t first, uint32_t rows) {
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    uint32_t row = first + warp / 2 * (gated ? WARP_ROWS / 2 : WARP_ROWS) + 2 * t;
#pragma unroll
    for (uint32_t i = 0; i < TOKEN_TILES; i++)
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t pair = pairs[warp % 2 * WARP_TOKENS + i * 16 + half * 8 + g];
            if (pair == MOE_NONE) continue;
#pragma unroll
            for (uint32_t j = 0; j < (gated ? ROW_TILES / 2 : ROW_TILES); j++) {
                if (gated) store_act(o, pair, row + j * 8, rows, &sum[i][j][2 * half], &sum[i][j + ROW_TILES / 2][2 * half]);
                else store_y(o, pair, row + j * 8, rows, &sum[i][j][2 * half]);
            }
        }
}

/* Block (row tile, item). x is rows of tokens (gated) or of pairs. */
template <int type, bool gated>
static __global__ void __launch_bounds__(MANY_THREADS, 2)
    many_kernel(expert_source s, expert_matrix first, expert_matrix second, weight_shape shape, const uint16_t *x,
                uint32_t x_stride, many_output out) {
    __shared__ uint32_t pairs[MANY_TOKENS];
    DYNAMIC_SHARED(shared);
    grid_release();
    grid_wait();
    if (blockIdx.y >= *s.item_count) return;
    expert_item item = s.items[blockIdx.y];
    if (threadIdx.x < MANY_TOKENS)
        pairs[threadIdx.x] = threadIdx.x < item.count ? s.sorted[item.begin + threadIdx.x] : MOE_NONE;
    __syncthreads();
    many_tokens tokens;
    tokens.stride = x_stride;
#pragma unroll
    for (uint32_t i = 0; i < 128 * 8 / MANY_THREADS; i++) {
        uint32_t pair = pairs[(i * MANY_THREADS + threadIdx.x) / 8];
        tokens.row[i] = pair == MOE_NONE ? NULL : x + (size_t)(gated ? pair / s.active : pair) * x_stride;
    }
    many_weights w = {expert_data(first, item.expert), gated ? expert_data(second, item.expert) : NULL, shape,
                      blockIdx.x * (gated ? MANY_ROWS / 2 : MANY_ROWS)};
    float sum[TOKEN_TILES][ROW_TILES][4] = {};
    uint32_t slices = (shape.cols + SLICE - 1) / SLICE, fill = 0, slot = 0;
    stored_slice<type> ahead;
    for (; fill < SLICES - 1; fill++) {
        unsigned char *to = shared + fill * 2 * OPERAND_BYTES;
        copy_tokens(to, tokens, fill * SLICE, x);
        if (type == WEIGHT_BF16) {
            copy_bf16<gated>(to + OPERAND_BYTES, w, fill * SLICE);
        } else {
            load_stored<type, gated>(&ahead, w, fill * SLICE);
            store_stored<type>(to + OPERAND_BYTES, ahead);
        }
        cp_async_commit();
    }
    for (uint32_t i = 0; i < slices; i++) {
        cp_async_wait<SLICES - 2>();
        __syncthreads(); /* everyone's part of slice i is there, and everyone has done with the slot that is filled next */
        unsigned char *to = shared + fill % SLICES * 2 * OPERAND_BYTES;
        copy_tokens(to, tokens, fill * SLICE, x);
        if (type == WEIGHT_BF16) copy_bf16<gated>(to + OPERAND_BYTES, w, fill * SLICE);
        else load_stored<type, gated>(&ahead, w, fill * SLICE);
        cp_async_commit();
        unsigned char *from = shared + slot * 2 * OPERAND_BYTES;
        multiply_slice(sum, from, from + OPERAND_BYTES);
        if (type != WEIGHT_BF16) store_stored<type>(to + OPERAND_BYTES, ahead);
        fill++;
        slot = slot + 1 == SLICES ? 0 : slot + 1;
    }
    cp_async_wait<0>();
    store_tile<gated>(out, sum, pairs, w.first, shape.rows);
}

extern "C" void moe_many_gate_up_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *gate,
                                        const expert_matrix *up, const uint16_t *x, uint32_t x_stride, uint16_t *act,
                                        uint32_t act_stride) {
    weight_shape shape = weight_shape_of(gate->type, gate->rows, gate->cols);
    many_output out = {act, NULL, act_stride};
    dim3 grid((act_stride + MANY_ROWS / 2 - 1) / (MANY_ROWS / 2), s->items_max);
#define MANY_GATE_UP(type)                                                                                             \
    LAUNCH((many_kernel<type, true>), grid, dim3(MANY_THREADS), MANY_SHARED, stream, *s, *gate, *up, shape, x, x_stride, out)
    TENSOR_TYPE_SWITCH(gate->type, MANY_GATE_UP);
#undef MANY_GATE_UP
}

extern "C" void moe_many_down_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down,
                                     const uint16_t *act, uint32_t act_stride, float *y_pair) {
    weight_shape shape = weight_shape_of(down->type, down->rows, down->cols);
    many_output out = {NULL, y_pair, 0};
    dim3 grid((down->rows + MANY_ROWS - 1) / MANY_ROWS, s->items_max);
#define MANY_DOWN(type)                                                                                                \
    LAUNCH((many_kernel<type, false>), grid, dim3(MANY_THREADS), MANY_SHARED, stream, *s, *down, *down, shape, act,     \
           act_stride, out)
    TENSOR_TYPE_SWITCH(down->type, MANY_DOWN);
#undef MANY_DOWN
}
