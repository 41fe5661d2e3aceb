/* What a warp of the stream kernel does with one step of weights: 16 rows and 64 (bf16) or 128 columns, from memory
 * through a slot of shared memory into tensor cores.
 *
 * Products are mma with 16 rows of weights as A and 8 tokens as B. Which columns stand for which k is free as long as A and
 * B agree: lane (g, t) = (lane / 4, lane % 4) always holds four neighbouring columns, k = 2t, 2t+1, 2t+8, 2t+9, so that a
 * B fragment is one quad of a token's columns: 16 bytes, two words of high halves and two of low ones (bf16_split).
 *
 *     bf16, fp8:  a slot is 16 rows of 128 bytes; lane (g, t) reads 16 bytes of rows g and g + 8: 2 or 4 fragments
 *     q8, q4:     a slot is 4 groups as they lie in the strip; a lane reads words (4 columns) of rows 2g and 2g + 1
 *
 * Pieces of 16 bytes are moved within 128 bytes where all lanes of a phase would otherwise meet in the same banks. */
#ifndef SHARD_KERNELS_CUDA_LINEAR_STREAM_CUH
#define SHARD_KERNELS_CUDA_LINEAR_STREAM_CUH

#include "shard/kernels/cuda/linear.h"
#include "shard/kernels/cuda/stored_values.cuh"

/* Where a lane finds what its warp reads next. */
typedef struct stream_place {
    const unsigned char *data;  /* of the tile */
    uint32_t unit, step;
    uint32_t rows;              /* of the tile that exist */
} stream_place;

template <int type> struct stream_type {
    static constexpr uint32_t columns = stream_step_columns((weight_type)type);
    static constexpr uint32_t slot_bytes = stream_slot_bytes((weight_type)type);
    static constexpr uint32_t fragments = columns / 16;       /* k16 steps of a step */
    static constexpr bool in_rows = type == WEIGHT_BF16 || type == WEIGHT_FP8;
    static constexpr uint32_t group_bytes = type == WEIGHT_Q8 ? (uint32_t)Q8_GROUP_BYTES : (uint32_t)Q4_GROUP_BYTES;
    static constexpr uint32_t quant_bytes = columns / QUANT_GROUP * group_bytes; /* of a step */
};

static __device__ __forceinline__ uint32_t stream_groups_of(uint32_t cols) { return (cols + QUANT_GROUP - 1) / QUANT_GROUP; }
static __device__ __forceinline__ uint32_t stream_fp8_row(uint32_t cols) { return (cols + 15) / 16 * 16; }
template <int type> static __device__ __forceinline__ uint32_t stream_row_bytes(uint32_t cols) {
    return type == WEIGHT_BF16 ? cols * 2 : stream_fp8_row(cols);
}

/* ---- memory to slot ---- */

/* Row r's pieces in a slot: neighbouring rows use different halves of the 128 bytes first. */
static __device__ __forceinline__ uint32_t row_piece(uint32_t row, uint32_t piece) {
    return row * 128 + (piece ^ (row & 1) << 2) * 16;
}
/* Pieces of 4 rows of chunk v of a group: chunks 2 and 3 (6 and 7) have halves exchanged. */
static __device__ __forceinline__ uint32_t chunk_piece(uint32_t chunk, uint32_t piece) {
    return chunk * 64 + (piece ^ (chunk & 2)) * 16;
}

template <int type>
static __device__ __forceinline__ void stream_fetch(unsigned char *slot, const stream_place *place, uint32_t cols,
                                                    uint32_t lane) {
    using form = stream_type<type>;
    if constexpr (form::in_rows) {
        uint32_t row_bytes = stream_row_bytes<type>(cols), row = lane / 8, at = place->step * 128 + lane % 8 * 16;
        const unsigned char *from = place->data + (size_t)row * row_bytes + at;
        bool inside = at < row_bytes;
        #pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            cp_async_16(slot + row_piece(row + 4 * i, lane % 8), from + (size_t)(4 * i) * row_bytes,
                        inside && row + 4 * i < place->rows);
    } else {
        uint32_t groups = stream_groups_of(cols), first = place->step * (form::columns / QUANT_GROUP);
        const unsigned char *from = place->data + (size_t)first * form::group_bytes + lane * 16;
        #pragma unroll
        for (uint32_t i = 0; i < form::quant_bytes / 512; i++) {
            uint32_t at = i * 512 + lane * 16, chunk = at % form::group_bytes / 64;
            uint32_t group = at / form::group_bytes;
            cp_async_16(slot + group * form::group_bytes + chunk_piece(chunk, lane % 4), from + i * 512,
                        first + group < groups);
        }
        /* Columns that do not exist multiply zeros; a group that does not exist has scales of 0. */
        if (lane < 8)
            cp_async_16(slot + form::quant_bytes + lane * 16,
                        place->data + (size_t)groups * form::group_bytes + first * QUANT_SCALE_BYTES + lane * 16,
                        first + lane / 2 < groups);
    }
}

/* ---- slot to sums ---- */

/* Sums of a warp: rows (g, g) or (g, g + 8) and tokens 2t, 2t + 1 of up to two octets of tokens. */
template <int octets> struct stream_sums { float high[octets][4], low[octets][4]; };

/* The fragments of a lane: x[o] is where token g of octet o begins, at quad t of the step. */
template <int octets>
static __device__ __forceinline__ void stream_mma(float high[octets][4], float low[octets][4], const uint32_t a[4],
                                                  const unsigned char *const x[octets], uint32_t fragment) {
    #pragma unroll
    for (int o = 0; o < octets; o++) {
        uint4 b = *(const uint4 *)(x[o] + fragment * 64);
        const uint32_t b_high[2] = {b.x, b.y}, b_low[2] = {b.z, b.w};
        mma_bf16(high[o], a, b_high);
        mma_bf16(low[o], a, b_low);
    }
}

template <int type, int octets>
static __device__ __forceinline__ void stream_rows(stream_sums<octets> *sums, const unsigned char *slot,
                                                   const unsigned char *const x[octets], uint32_t g, uint32_t t) {
    #pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        uint4 top = *(const uint4 *)(slot + row_piece(g, half * 4 + t));
        uint4 bottom = *(const uint4 *)(slot + row_piece(g + 8, half * 4 + t));
        const uint32_t w0[4] = {top.x, top.y, top.z, top.w}, w1[4] = {bottom.x, bottom.y, bottom.z, bottom.w};
        #pragma unroll
        for (uint32_t s = 0; s < stream_type<type>::fragments / 2; s++) {
            uint32_t a0[2], a1[2];
            if constexpr (type == WEIGHT_BF16) {
                a0[0] = w0[2 * s], a0[1] = w0[2 * s + 1], a1[0] = w1[2 * s], a1[1] = w1[2 * s + 1];
            } else {
                stored_fp8(w0[s], a0);
                stored_fp8(w1[s], a1);
            }
            const uint32_t a[4] = {a0[0], a1[0], a0[1], a1[1]};
            stream_mma<octets>(sums->high, sums->low, a, x, half * (stream_type<type>::fragments / 2) + s);
        }
    }
}

/* A group's products are summed apart and enter the sums times their scales. */
template <int type, int octets>
static __device__ __forceinline__ void stream_quants(stream_sums<octets> *sums, const unsigned char *slot,
                                                     const unsigned char *const x[octets], uint32_t g, uint32_t t) {
    using form = stream_type<type>;
    #pragma unroll
    for (uint32_t group = 0; group < form::columns / QUANT_GROUP; group++) {
        const unsigned char *quants = slot + group * form::group_bytes + g % 2 * 8;
        float high[octets][4] = {}, low[octets][4] = {};
        uint2 word = *(const uint2 *)(quants + chunk_piece(t, g / 2)); /* rows 2g and 2g + 1 */
        #pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t a0[2], a1[2];
            if constexpr (type == WEIGHT_Q8) {
                if (s == 1) word = *(const uint2 *)(quants + chunk_piece(4 + t, g / 2));
                stored_q8(word.x, a0);
                stored_q8(word.y, a1);
            } else {
                stored_q4(word.x >> (4 * s), a0);
                stored_q4(word.y >> (4 * s), a1);
            }
            const uint32_t a[4] = {a0[0], a1[0], a0[1], a1[1]};
            stream_mma<octets>(high, low, a, x, group * 2 + s);
        }
        uint32_t scales = *(const uint32_t *)(slot + form::quant_bytes + group * QUANT_SCALE_BYTES + g * 4);
        float scale0 = f16_float((uint16_t)(scales & 0xFFFFu)), scale1 = f16_float((uint16_t)(scales >> 16));
        #pragma unroll
        for (int o = 0; o < octets; o++) {
            #pragma unroll
            for (int i = 0; i < 4; i++)
                sums->high[o][i] = fmaf(high[o][i] + low[o][i], i < 2 ? scale0 : scale1, sums->high[o][i]);
        }
    }
}

template <int type, int octets>
static __device__ __forceinline__ void stream_step(stream_sums<octets> *sums, const unsigned char *slot,
                                                   const unsigned char *const x[octets], uint32_t g, uint32_t t) {
    if constexpr (stream_type<type>::in_rows) stream_rows<type, octets>(sums, slot, x, g, t);
    else stream_quants<type, octets>(sums, slot, x, g, t);
}

/* ---- activations ---- */

/* Where quad q of a token's columns stands, so that the four lanes t of a fragment read 64 bytes in a row. */
template <int type> static __device__ __forceinline__ uint32_t stream_quad_place(uint32_t q) {
    if constexpr (type == WEIGHT_BF16) return (q & ~7u) | (q & 1) << 2 | (q >> 1 & 3);
    else if constexpr (type == WEIGHT_FP8) return (q & ~15u) | (q & 3) << 2 | (q >> 2 & 3);
    else return q;
}

static __device__ __forceinline__ float4 stream_load_x(const float *row, uint32_t column, uint32_t cols, bool vector) {
    if (vector && column + 4 <= cols) return *(const float4 *)(row + column);
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (column < cols) v.x = row[column];
    if (column + 1 < cols) v.y = row[column + 1];
    if (column + 2 < cols) v.z = row[column + 2];
    if (column + 3 < cols) v.w = row[column + 3];
    return v;
}

/* Columns first … first + 4 quads - 1 of n tokens into to[n, stride bytes], by all threads of the block. */
template <int type>
static __device__ __forceinline__ void stream_stage(unsigned char *to, uint32_t stride, const float *x, size_t x_stride,
                                                    uint32_t first, uint32_t quads, uint32_t cols, uint32_t n,
                                                    bool vector) {
    enum { BATCH = 4 }; /* loads under way at once */
    uint32_t token = 0, quad = threadIdx.x;
    for (;;) {
        float4 v[BATCH];
        unsigned char *at[BATCH];
        #pragma unroll
        for (int i = 0; i < BATCH; i++) {
            while (quad >= quads && token < n) quad -= quads, token++;
            at[i] = NULL;
            if (token < n) {
                v[i] = stream_load_x(x + token * x_stride, first + 4 * quad, cols, vector);
                at[i] = to + token * stride + stream_quad_place<type>(quad) * 16;
            }
            quad += blockDim.x;
        }
        #pragma unroll
        for (int i = 0; i < BATCH; i++) {
            if (!at[i]) return;
            uint4 halves;
            bf16_split(v[i].x, v[i].y, &halves.x, &halves.z);
            bf16_split(v[i].z, v[i].w, &halves.y, &halves.w);
            *(uint4 *)at[i] = halves;
        }
    }
}

#endif
