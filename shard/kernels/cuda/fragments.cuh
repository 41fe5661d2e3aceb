/* Weights as operand A of the tensor cores, for few tokens: a warp takes 16 rows and walks their columns in chunks of 64,
 * each a k of four mma. Bytes go from memory to a place of the warp's own in shared memory (cp.async, several chunks under
 * way) and become fragments when they are read from there.
 *
 * Which column is which k of an mma is free as long as A and B agree, and so is which row is which of the 16. Both are
 * chosen so that a lane finds what it needs in pieces of 16 or 8 bytes:
 *
 *   lane (g, t) = (lane / 4, lane % 4) of step s = 0 … 3 has columns fragment_column(s, t) … + 3:
 *       k 2t, 2t+1 are the first two, k 2t+8, 2t+9 the others
 *   rows of the fragment are rows of the strip; of q8 and q4 row r is strip row 2r, row r + 8 is 2r + 1 (fragment_row)
 *
 * bf16:    cols a multiple of 8; rows beyond the matrix and columns beyond it are zeros
 * strips:  columns beyond the row are whatever the strip has there: the other operand is 0
 *
 * Values are exact in bf16: integers of q8 and q4 (scales are applied to sums of a group), e4m3 of fp8 (the row's scale is
 * applied at the end). */
#ifndef SHARD_KERNELS_CUDA_FRAGMENTS_CUH
#define SHARD_KERNELS_CUDA_FRAGMENTS_CUH

#include "shard/kernels/cuda/stored_values.cuh"
#include "shard/kernels/cuda/weight_shape.cuh"

enum { FRAGMENT_ROWS = QUANT_ROWS, FRAGMENT_COLUMNS = 64, FRAGMENT_STEPS = 4, FRAGMENT_SCALE_BYTES = 64 };

/* Shared memory of a chunk, a multiple of 64. */
static __host__ __device__ constexpr int fragment_bytes(int type) {
    return type == WEIGHT_BF16  ? FRAGMENT_ROWS * FRAGMENT_COLUMNS * 2
           : type == WEIGHT_FP8 ? FRAGMENT_ROWS * FRAGMENT_COLUMNS
                                : 2 * (int)quant_group_bytes((weight_type)type) + FRAGMENT_SCALE_BYTES;
}

template <int type> static __device__ __forceinline__ uint32_t fragment_column(int step, uint32_t t) {
    if (type == WEIGHT_BF16) return 32 * (step / 2) + 8 * t + 4 * (step % 2);
    if (type == WEIGHT_FP8) return 16 * t + 4 * step;
    return 16 * step + 4 * t;
}
/* Row of the strip that row r = 0 … 15 of a fragment is. */
template <int type> static __device__ __forceinline__ uint32_t fragment_row(uint32_t r) {
    return type == WEIGHT_Q8 || type == WEIGHT_Q4 ? r % 8 * 2 + r / 8 : r;
}

/* Where 8 columns of a bf16 row stand: rows next to each other use other halves of 128 bytes, so that the 8 lanes that read
 * at once (two rows, four pieces) meet in no bank. */
static __device__ __forceinline__ uint32_t fragment_piece(uint32_t row, uint32_t piece) {
    return row * 128 + (piece ^ (row & 1) << 2) * 16;
}

/* Starts copying a chunk of the strip of rows first_row … first_row + 15 (a multiple of 16) to `shared`, by a whole warp. */
template <int type>
static __device__ __forceinline__ void fragment_fetch(unsigned char *shared, const unsigned char *strip, uint32_t first_row,
                                                      const weight_shape &s, uint32_t chunk) {
    uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    if (type == WEIGHT_BF16) {
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = lane / 8 + 4 * i, column = chunk * FRAGMENT_COLUMNS + lane % 8 * 8;
            bool valid = first_row + row < s.rows && column < s.cols;
            cp_async_16(shared + fragment_piece(row, lane % 8),
                        valid ? strip + (size_t)row * s.row_bytes + 2 * column : strip, valid);
        }
    } else if (type == WEIGHT_FP8) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t row = g + i * 8, column = chunk * FRAGMENT_COLUMNS + 16 * t;
            bool valid = column < s.row_bytes;
            cp_async_16(shared + (i * WARP + lane) * 16, valid ? strip + (size_t)row * s.row_bytes + column : strip, valid);
        }
    } else {
        constexpr uint32_t group_bytes = quant_group_bytes((weight_type)type);
        uint32_t quant_end = s.scales_at, begin = chunk * 2 * group_bytes;
#pragma unroll
        for (uint32_t i = 0; i < 2 * group_bytes / (16 * WARP); i++) {
            uint32_t at = (i * WARP + lane) * 16;
            bool valid = begin + at < quant_end;
            cp_async_16(shared + at, valid ? strip + begin + at : strip, valid);
        }
        if (lane < FRAGMENT_SCALE_BYTES / 16) {
            bool valid = begin + lane / 2 * group_bytes < quant_end;
            uint32_t at = quant_end + chunk * FRAGMENT_SCALE_BYTES + lane * 16;
            cp_async_16(shared + 2 * group_bytes + lane * 16, valid ? strip + at : strip, valid);
        }
    }
}

/* Words of rows g and g + 8 of a fragment, as pairs of bf16 in the order of operand A. */
static __device__ __forceinline__ void fragment_order(uint32_t a[4], const uint32_t top[2], const uint32_t bottom[2]) {
    a[0] = top[0], a[1] = bottom[0], a[2] = top[1], a[3] = bottom[1];
}

/* What a lane reads of a chunk at once: `half` 0 has steps 0 and 1, 1 has 2 and 3. */
template <int type>
static __device__ __forceinline__ void fragment_load(uint32_t a[2][4], const unsigned char *shared, int half) {
    uint32_t lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    if (type == WEIGHT_BF16) {
        uint4 top = *(const uint4 *)(shared + fragment_piece(g, half * 4 + t));
        uint4 bottom = *(const uint4 *)(shared + fragment_piece(g + 8, half * 4 + t));
        a[0][0] = top.x, a[0][1] = bottom.x, a[0][2] = top.y, a[0][3] = bottom.y;
        a[1][0] = top.z, a[1][1] = bottom.z, a[1][2] = top.w, a[1][3] = bottom.w;
        return;
    }
    uint32_t top[2], bottom[2];
    uint2 v[2]; /* words of rows g and g + 8, of both steps */
    if (type == WEIGHT_FP8) {
        uint2 first = *(const uint2 *)(shared + lane * 16 + half * 8);
        uint2 second = *(const uint2 *)(shared + (WARP + lane) * 16 + half * 8);
        v[0] = make_uint2(first.x, second.x);
        v[1] = make_uint2(first.y, second.y);
    } else if (type == WEIGHT_Q8) {
        for (int s = 0; s < 2; s++) v[s] = *(const uint2 *)(shared + half * Q8_GROUP_BYTES + (4 * s + t) * 64 + 8 * g);
    } else {
        v[0] = *(const uint2 *)(shared + half * Q4_GROUP_BYTES + t * 64 + 8 * g);
        v[1] = make_uint2(v[0].x >> 4, v[0].y >> 4);
    }
#pragma unroll
    for (int s = 0; s < 2; s++) {
        if (type == WEIGHT_FP8) stored_fp8(v[s].x, top), stored_fp8(v[s].y, bottom);
        else if (type == WEIGHT_Q8) stored_q8(v[s].x, top), stored_q8(v[s].y, bottom);
        else stored_q4(v[s].x, top), stored_q4(v[s].y, bottom);
        fragment_order(a[s], top, bottom);
    }
}

/* Scales of a group (half) of q8 and q4: of fragment rows g and g + 8. */
template <int type>
static __device__ __forceinline__ void fragment_scales(float scale[2], const unsigned char *shared, int half) {
    uint32_t g = threadIdx.x % WARP / 4;
    const unsigned char *at = shared + 2 * quant_group_bytes((weight_type)type);
    uint32_t pair = *(const uint32_t *)(at + half * QUANT_SCALE_BYTES + 4 * g);
    scale[0] = f16_float((uint16_t)(pair & 0xFFFFu));
    scale[1] = f16_float((uint16_t)(pair >> 16));
}

/* Sums over a chunk's half: sum[16 rows, 8 tokens] += A · B with B as high and low parts of two steps; q8 and q4 first by
 * themselves, then times their group's scales. */
template <int type>
static __device__ __forceinline__ void fragment_multiply(float sum[4], const uint32_t a[2][4], const uint32_t high[2][2],
                                                         const uint32_t low[2][2], const float scale[2]) {
    if (type == WEIGHT_Q8 || type == WEIGHT_Q4) {
        float d[4] = {0, 0, 0, 0};
        for (int s = 0; s < 2; s++) {
            mma_bf16(d, a[s], low[s]);
            mma_bf16(d, a[s], high[s]);
        }
        sum[0] = fmaf(d[0], scale[0], sum[0]);
        sum[1] = fmaf(d[1], scale[0], sum[1]);
        sum[2] = fmaf(d[2], scale[1], sum[2]);
        sum[3] = fmaf(d[3], scale[1], sum[3]);
    } else {
        for (int s = 0; s < 2; s++) {
            mma_bf16(sum, a[s], low[s]);
            mma_bf16(sum, a[s], high[s]);
        }
    }
}
#endif
