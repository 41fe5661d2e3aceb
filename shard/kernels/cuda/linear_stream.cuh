/* What a warp of the stream kernel does with one step of weights: 16 rows and 64 (bf16) or 128 columns, from memory
 * through a slot of shared memory into tensor cores.
 *
 * Products are mma with 16 rows of weights as A and 8 tokens as B. Which columns stand for which k is free as long as A
 * and B agree: lane (g, t) = (lane / 4, lane % 4) always holds four neighbouring columns, so that a B fragment is one quad
 * of a token's columns: 16 bytes, two words of high halves and two of low ones (bf16_split). A word is columns 0, 1 or 2, 3
 * of the quad with bf16 weights, and 0, 2 or 1, 3 with the others (stored_pairs.cuh).
 *
 *     bf16, fp8:  a slot is 16 rows of 128 bytes; lane (g, t) reads 16 bytes of rows g and g + 8: 2 or 4 fragments
 *     q8, q4:     a slot is 4 groups as they lie in the strip, then their scales; lane (g, t) reads words (4 columns) of
 *                 rows 2g and 2g + 1
 *
 * Pieces of 16 bytes are moved within 128 bytes where lanes that read together would otherwise meet in the same banks. */
#ifndef SHARD_KERNELS_CUDA_LINEAR_STREAM_CUH
#define SHARD_KERNELS_CUDA_LINEAR_STREAM_CUH

#include "shard/kernels/cuda/linear.h"
#include "shard/kernels/cuda/stored_pairs.cuh"
#include "shard/kernels/cuda/weight_shape.cuh"

template <int type> struct stream_type {
    static constexpr uint32_t columns = stream_step_columns((weight_type)type);
    static constexpr uint32_t slot_bytes = stream_slot_bytes((weight_type)type);
    static constexpr uint32_t fragments = columns / 16;       /* k16 steps of a step */
    static constexpr bool in_rows = type == WEIGHT_BF16 || type == WEIGHT_FP8;
    static constexpr uint32_t group_bytes = quant_group_bytes((weight_type)type);
    static constexpr uint32_t quant_bytes = columns / QUANT_GROUP * group_bytes; /* of a step */
};

template <int type> static __device__ __forceinline__ uint32_t stream_row_bytes(uint32_t cols) {
    return type == WEIGHT_BF16 ? cols * 2 : fp8_row_bytes(cols);
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

/* Where a lane finds its part of its warp's next step. */
typedef struct stream_place {
    const unsigned char *from;  /* its first piece */
    const unsigned char *scales; /* q8, q4: its piece of the scales, lanes 0 … 7 */
    uint32_t further[3];        /* bf16, fp8: to its pieces 4, 8 and 12 rows below; rows that do not exist are the last one */
    uint32_t unit, step;
} stream_place;

/* The place at step `step` of the tile at `data`, of which `rows` rows exist. */
template <int type>
static __device__ __forceinline__ void stream_begin(stream_place *place, const unsigned char *data, uint32_t rows,
                                                    uint32_t cols, uint32_t lane) {
    using form = stream_type<type>;
    if constexpr (form::in_rows) {
        uint32_t row_bytes = stream_row_bytes<type>(cols), last = type == WEIGHT_FP8 || rows > 15 ? 15 : rows - 1;
        uint32_t row = lane / 8 < last ? lane / 8 : last;
        place->from = data + row * row_bytes + place->step * 128 + lane % 8 * 16;
        #pragma unroll
        for (uint32_t i = 1; i < 4; i++)
            place->further[i - 1] = ((lane / 8 + 4 * i < last ? lane / 8 + 4 * i : last) - row) * row_bytes;
    } else {
        place->from = data + place->step * form::quant_bytes + lane * 16;
        place->scales = data + (size_t)quant_groups(cols) * form::group_bytes +
                        place->step * (form::columns / QUANT_GROUP * QUANT_SCALE_BYTES) + lane * 16;
    }
}

/* Where in a slot a lane's first piece goes; the others are 512 bytes further each. */
template <int type> static __device__ __forceinline__ uint32_t stream_slot_place(uint32_t lane) {
    using form = stream_type<type>;
    if constexpr (form::in_rows) return row_piece(lane / 8, lane % 8);
    uint32_t at = lane * 16;
    return at / form::group_bytes * form::group_bytes + chunk_piece(at % form::group_bytes / 64, lane % 4);
}

/* Asks for a step's pieces and moves on to the warp's next step of the tile. */
template <int type>
static __device__ __forceinline__ void stream_fetch(unsigned char *slot, uint32_t slot_place, stream_place *place,
                                                    uint32_t cols, uint32_t lane) {
    using form = stream_type<type>;
    unsigned char *to = slot + slot_place;
    if constexpr (form::in_rows) {
        bool inside = place->step * 128 + lane % 8 * 16 < stream_row_bytes<type>(cols);
        cp_async_16(to, place->from, inside);
        #pragma unroll
        for (uint32_t i = 1; i < 4; i++) cp_async_16(to + i * 512, place->from + place->further[i - 1], inside);
        place->from += STREAM_WARPS * 128;
    } else {
        /* Columns that do not exist multiply zeros; a group that does not exist has scales of 0, and finite quants. */
        constexpr uint32_t groups_at_once = form::columns / QUANT_GROUP, pieces = form::quant_bytes / 512;
        uint32_t left = quant_groups(cols) - place->step * groups_at_once;
        #pragma unroll
        for (uint32_t i = 0; i < pieces; i++)
            cp_async_16(to + i * 512, place->from + i * 512, (i * 512 + lane * 16) / form::group_bytes < left);
        if (lane < 8) cp_async_16(slot + form::quant_bytes + lane * 16, place->scales, lane / 2 < left);
        place->from += STREAM_WARPS * form::quant_bytes;
        place->scales += STREAM_WARPS * groups_at_once * QUANT_SCALE_BYTES;
    }
    place->step += STREAM_WARPS;
}

/* ---- slot to sums ---- */

/* Sums of a warp: rows g, g + 8 (q8, q4: 2g, 2g + 1) and tokens 2t, 2t + 1 of up to two octets of tokens. Products with
 * high and low halves are apart where nothing else parts the long chain of mma. */
template <int octets> struct stream_sums { float high[octets][4], low[octets][4]; };

/* x[o] is where token g of octet o begins, at quad t of the step. */
template <int octets>
static __device__ __forceinline__ void stream_mma(float high[octets][4], float low[octets][4], const uint32_t a0[2],
                                                  const uint32_t a1[2], const unsigned char *const x[octets],
                                                  uint32_t fragment) {
    const uint32_t a[4] = {a0[0], a1[0], a0[1], a1[1]};
    #pragma unroll
    for (int o = 0; o < octets; o++) {
        uint4 b = *(const uint4 *)(x[o] + fragment * 64);
        const uint32_t b_high[2] = {b.x, b.y}, b_low[2] = {b.z, b.w};
        mma_bf16(high[o], a, b_high);
        mma_bf16(low[o], a, b_low);
    }
}

/* Where in a slot a lane's first words are. */
template <int type> static __device__ __forceinline__ uint32_t stream_word_place(uint32_t lane) {
    uint32_t g = lane / 4, t = lane % 4;
    return stream_type<type>::in_rows ? row_piece(g, t) : chunk_piece(t, g / 2) + g % 2 * 8;
}

template <int type, int octets>
static __device__ __forceinline__ void stream_rows(stream_sums<octets> *sums, const unsigned char *slot,
                                                   uint32_t word_place, const unsigned char *const x[octets]) {
    #pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const unsigned char *row = slot + (word_place ^ half * 64); /* row_piece(g, half * 4 + t) */
        uint4 top = *(const uint4 *)row, bottom = *(const uint4 *)(row + 8 * 128);
        const uint32_t w0[4] = {top.x, top.y, top.z, top.w}, w1[4] = {bottom.x, bottom.y, bottom.z, bottom.w};
        constexpr uint32_t fragments = stream_type<type>::fragments / 2;
        #pragma unroll
        for (uint32_t s = 0; s < fragments; s++) {
            uint32_t a0[2], a1[2];
            if constexpr (type == WEIGHT_BF16) {
                a0[0] = w0[2 * s], a0[1] = w0[2 * s + 1], a1[0] = w1[2 * s], a1[1] = w1[2 * s + 1];
            } else {
                pairs_fp8(w0[s], a0);
                pairs_fp8(w1[s], a1);
            }
            stream_mma<octets>(sums->high, sums->low, a0, a1, x, half * fragments + s);
        }
    }
}

/* A group's products are summed apart and enter the sums times their scales. */
template <int type, int octets>
static __device__ __forceinline__ void stream_quants(stream_sums<octets> *sums, const unsigned char *slot,
                                                     uint32_t word_place, const unsigned char *const x[octets],
                                                     uint32_t g) {
    using form = stream_type<type>;
    #pragma unroll
    for (uint32_t group = 0; group < form::columns / QUANT_GROUP; group++) {
        const unsigned char *quants = slot + word_place + group * form::group_bytes;
        float products[octets][4] = {};
        uint2 word = *(const uint2 *)quants; /* rows 2g and 2g + 1 */
        #pragma unroll
        for (uint32_t s = 0; s < 2; s++) {
            uint32_t a0[2], a1[2];
            if constexpr (type == WEIGHT_Q8) {
                if (s == 1) word = *(const uint2 *)(quants + 256); /* four chunks further */
                pairs_q8(word.x, a0);
                pairs_q8(word.y, a1);
            } else {
                pairs_q4(word.x >> (4 * s), a0);
                pairs_q4(word.y >> (4 * s), a1);
            }
            stream_mma<octets>(products, products, a0, a1, x, group * 2 + s);
        }
        uint32_t scales = *(const uint32_t *)(slot + form::quant_bytes + group * QUANT_SCALE_BYTES + g * 4);
        float scale0 = f16_float((uint16_t)(scales & 0xFFFFu)), scale1 = f16_float((uint16_t)(scales >> 16));
        #pragma unroll
        for (int o = 0; o < octets; o++) {
            #pragma unroll
            for (int i = 0; i < 4; i++)
                sums->high[o][i] = fmaf(products[o][i], i < 2 ? scale0 : scale1, sums->high[o][i]);
        }
    }
}

template <int type, int octets>
static __device__ __forceinline__ void stream_step(stream_sums<octets> *sums, const unsigned char *slot,
                                                   uint32_t word_place, const unsigned char *const x[octets],
                                                   uint32_t g) {
    if constexpr (stream_type<type>::in_rows) stream_rows<type, octets>(sums, slot, word_place, x);
    else stream_quants<type, octets>(sums, slot, word_place, x, g);
}

/* ---- activations ---- */

/* Where quad q of a token's columns stands, so that the four lanes t of a fragment read 64 bytes in a row. */
template <int type> static __device__ __forceinline__ uint32_t stream_quad_place(uint32_t q) {
    if constexpr (type == WEIGHT_BF16) return (q & ~7u) | (q & 1) << 2 | (q >> 1 & 3);
    else if constexpr (type == WEIGHT_FP8) return (q & ~15u) | (q & 3) << 2 | (q >> 2 & 3);
    else return q;
}

/* Four columns of a row, of which the first exists; with vector they all do. Others are zeros. */
template <bool vector>
static __device__ __forceinline__ float4 stream_load_x(const float *row, uint32_t column, uint32_t left) {
    if (vector) return *(const float4 *)(row + column);
    float4 v = make_float4(row[column], 0.0f, 0.0f, 0.0f);
    if (column + 1 < left) v.y = row[column + 1];
    if (column + 2 < left) v.z = row[column + 2];
    if (column + 3 < left) v.w = row[column + 3];
    return v;
}

template <int type> static __device__ __forceinline__ uint4 stream_halves(float4 v) {
    uint4 halves;
    bf16_split(v.x, type == WEIGHT_BF16 ? v.y : v.z, &halves.x, &halves.z);
    bf16_split(type == WEIGHT_BF16 ? v.z : v.y, v.w, &halves.y, &halves.w);
    return halves;
}

/* The first `there` quads of one token: every block does this before its first product, so it takes few instructions. Each
 * thread has `batch` loads under way at once, without conditions, of which compilers make branches. */
template <int type, int batch>
static __device__ __forceinline__ void stream_stage_one(unsigned char *to, const float *x, uint32_t there) {
    const float4 *from = (const float4 *)x;
    to += stream_quad_place<type>(threadIdx.x) * 16; /* quads move inside of 16 neighbours, and threads are whole warps */
    for (uint32_t done = 0; done < there; done += batch * blockDim.x) {
        float4 v[batch];
        uint32_t quad = done + threadIdx.x;
        #pragma unroll
        for (int i = 0; i < batch; i++) v[i] = from[quad + i * blockDim.x < there ? quad + i * blockDim.x : 0];
        __syncwarp(); /* all loads are before it: compilers would mix them with what follows, to save registers */
        #pragma unroll
        for (int i = 0; i < batch; i++) {
            uint4 halves = stream_halves<type>(v[i]);
            if (quad + i * blockDim.x < there) *(uint4 *)(to + (done + i * blockDim.x) * 16) = halves;
        }
    }
}

/* The same of n tokens, to[n, stride bytes]. */
template <int type, int batch, bool vector>
static __device__ __forceinline__ void stream_stage_some(unsigned char *to, uint32_t stride, const float *x, uint32_t x_stride,
                                                         uint32_t there, uint32_t left, uint32_t n) {
    const uint32_t nowhere = UINT32_MAX, more_tokens = blockDim.x / there, more_quads = blockDim.x % there;
    uint32_t token = threadIdx.x / there, quad = threadIdx.x % there;
    for (uint32_t done = 0; done < n * there; done += batch * blockDim.x) {
        float4 v[batch];
        uint32_t at[batch];
        #pragma unroll
        for (int i = 0; i < batch; i++) {
            v[i] = stream_load_x<vector>(x + (token < n ? token : 0) * x_stride, 4 * quad, left);
            at[i] = token < n ? token * stride + stream_quad_place<type>(quad) * 16 : nowhere;
            token += more_tokens, quad += more_quads;
            if (quad >= there) quad -= there, token++;
        }
        __syncwarp();
        #pragma unroll
        for (int i = 0; i < batch; i++) {
            uint4 halves = stream_halves<type>(v[i]);
            if (at[i] != nowhere) *(uint4 *)(to + at[i]) = halves;
        }
    }
}

/* 4 quads columns of n tokens, of which `left` exist, at least one, into to[n, stride bytes], by all threads of the block. */
template <int type, int batch>
static __device__ __forceinline__ void stream_stage(unsigned char *to, uint32_t stride, const float *x, uint32_t x_stride,
                                                    uint32_t quads, uint32_t left, uint32_t n, bool vector) {
    const uint32_t exist = (left + 3) / 4, there = exist < quads ? exist : quads;
    if (vector && n == 1) stream_stage_one<type, 8>(to, x, there);
    else if (vector) stream_stage_some<type, batch, true>(to, stride, x, x_stride, there, left, n);
    else stream_stage_some<type, 1, false>(to, stride, x, x_stride, there, left, n);
    #pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n * (quads - there); i += blockDim.x) {
        uint32_t empty = there + i % (quads - there);
        *(uint4 *)(to + i / (quads - there) * stride + stream_quad_place<type>(empty) * 16) = make_uint4(0, 0, 0, 0);
    }
}

#endif
