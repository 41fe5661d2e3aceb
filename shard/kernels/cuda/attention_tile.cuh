/* Pages as tensor-core kernels hold them in shared memory: 64 rows of bf16, whose 16-byte chunks are
 * exchanged within each 128 bytes by the row's number, so that eight rows at one chunk meet all 32 banks.
 * Pages of 8 bits arrive as they are stored and are widened, without their scales: an int8 is a bf16 exactly.
 *
 * By all of ATTENTION_THREADS threads of a block. */
#ifndef SHARD_KERNELS_CUDA_ATTENTION_TILE_CUH
#define SHARD_KERNELS_CUDA_ATTENTION_TILE_CUH

#include "shard/kernels/cuda/attention_page.cuh"

enum { ATTENTION_THREADS = 256 };

/* Bytes of a tile of bf16, and of what is copied for it. */
static __host__ __device__ constexpr uint32_t tile_bytes(int dim) { return 64u * 2u * (uint32_t)dim; }
static __host__ __device__ constexpr uint32_t tile_raw_bytes(int dim, bool bytes) {
    return bytes ? 64u * (uint32_t)dim + 256u : tile_bytes(dim);
}

/* Where chunk `chunk` of row `row` lies in a tile whose rows have row_bytes. */
static __device__ __forceinline__ uint32_t tile_at(uint32_t row, uint32_t chunk, uint32_t row_bytes) {
    return row * row_bytes + ((chunk ^ (row & 7u)) << 4);
}

/* The same in a tile of blocks, each the 64 rows' next 128 bytes: what wgmma reads in its mode of 128 swizzled
 * bytes (device_wgmma.cuh), where the tile begins at a multiple of 1024 bytes. */
enum { ATTENTION_BLOCK_BYTES = 64 * 128 };
static __device__ __forceinline__ uint32_t block_at(uint32_t row, uint32_t chunk) {
    return chunk / 8 * ATTENTION_BLOCK_BYTES + row * 128 + (((chunk ^ row) & 7u) << 4);
}

/* Where this thread's i-th chunk of a copy goes. Every `period` chunks rows begin again at the same row
 * modulo 8, where chunks are exchanged alike. */
template <int DIM, bool BYTES, bool BLOCKS, bool ALL>
static __device__ __forceinline__ void tile_copy(unsigned char *raw, const unsigned char *rows, uint32_t begin,
                                                 uint32_t end) {
    constexpr uint32_t chunks = DIM * (BYTES ? 1 : 2) / 16, step = ATTENTION_THREADS / chunks,
                       period = step < 8 ? 8 / step : 1, row_bytes = BLOCKS ? 128 : chunks * 16;
    static_assert(!(BYTES && BLOCKS), "products read no bytes");
    uint32_t row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
#pragma unroll
    for (uint32_t p = 0; p < period; p++) {
        uint32_t first = p * step + row, at = (first * chunks + chunk) * 16;
        uint32_t place = BYTES ? at : BLOCKS ? block_at(first, chunk) : tile_at(first, chunk, row_bytes);
        unsigned char *to = raw + place;
        const unsigned char *from = rows + at;
#pragma unroll
        for (uint32_t i = 0; i < 64 / step / period; i++) {
            uint32_t further = i * period * step, r = first + further;
            cp_async_16(to + further * row_bytes, from + further * chunks * 16, ALL || (r >= begin && r < end));
        }
    }
}

/* Starts copying the 64 rows at `rows` (global): begin … end - 1 of them, and zeros for the others, which may
 * hold anything. BLOCKS: to a tile of blocks. */
template <int DIM, bool BYTES, bool BLOCKS = false>
static __device__ __forceinline__ void tile_issue(unsigned char *raw, const unsigned char *rows, uint32_t begin,
                                                  uint32_t end) {
    if (begin == 0 && end >= 64) tile_copy<DIM, BYTES, BLOCKS, true>(raw, rows, begin, end);
    else tile_copy<DIM, BYTES, BLOCKS, false>(raw, rows, begin, end);
    if (BYTES && threadIdx.x < 16)
        cp_async_16(raw + 64 * DIM + threadIdx.x * 16, rows + 64 * DIM + threadIdx.x * 16, true);
}

/* Two int8 in the low bytes of each half to two bf16: (128 + low 7 bits) - (128, or 256 with the sign bit). */
static __device__ __forceinline__ uint32_t bf16_of_bytes(uint32_t halves) {
    return bf16_fma2((halves & 0x007F007Fu) | 0x43004300u, 0x3F803F80u, (halves & 0x00800080u) | 0xC300C300u);
}

template <int DIM> static __device__ __forceinline__ void tile_expand(unsigned char *tile, const unsigned char *raw) {
    constexpr uint32_t chunks = DIM / 16;
#pragma unroll 4
    for (uint32_t i = 0; i < 64 * chunks / ATTENTION_THREADS; i++) {
        uint32_t at = i * ATTENTION_THREADS + threadIdx.x, row = at / chunks, chunk = at % chunks;
        uint4 x = *(const uint4 *)(raw + at * 16), low, high;
        low.x = bf16_of_bytes(__byte_perm(x.x, 0, 0x4140));
        low.y = bf16_of_bytes(__byte_perm(x.x, 0, 0x4342));
        low.z = bf16_of_bytes(__byte_perm(x.y, 0, 0x4140));
        low.w = bf16_of_bytes(__byte_perm(x.y, 0, 0x4342));
        high.x = bf16_of_bytes(__byte_perm(x.z, 0, 0x4140));
        high.y = bf16_of_bytes(__byte_perm(x.z, 0, 0x4342));
        high.z = bf16_of_bytes(__byte_perm(x.w, 0, 0x4140));
        high.w = bf16_of_bytes(__byte_perm(x.w, 0, 0x4342));
        *(uint4 *)(tile + tile_at(row, 2 * chunk, 2 * DIM)) = low;
        *(uint4 *)(tile + tile_at(row, 2 * chunk + 1, 2 * DIM)) = high;
    }
}
static __device__ __forceinline__ const float *tile_scales(const unsigned char *raw, int dim) {
    return (const float *)(raw + 64 * dim);
}

/* Where matrices 0 … 3 of ldmatrix_x4 lie, for this lane:
 * - left: the left operand [16 rows, 16]: rows `row` …, chunks `chunk`, + 1;
 * - right: the right operand of eight columns stored as rows, two steps of 16: rows `row` …, chunks `chunk` … + 3;
 * - right_trans: the right operand [16, 16 columns] stored as 16 rows, for ldmatrix_x4_trans; r[0], r[1] are the first
 *   eight columns, r[2], r[3] the next. */
static __device__ __forceinline__ uint32_t tile_left(uint32_t row, uint32_t chunk, uint32_t row_bytes) {
    uint32_t lane = threadIdx.x % WARP;
    return tile_at(row + lane % 16, chunk + lane / 16, row_bytes);
}
static __device__ __forceinline__ uint32_t tile_right(uint32_t row, uint32_t chunk, uint32_t row_bytes) {
    uint32_t lane = threadIdx.x % WARP;
    return tile_at(row + lane % 8, chunk + lane / 8, row_bytes);
}
static __device__ __forceinline__ uint32_t tile_right_trans(uint32_t row, uint32_t chunk, uint32_t row_bytes) {
    return tile_left(row, chunk, row_bytes);
}

#endif
