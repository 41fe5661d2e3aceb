/* Products of float weights in float32.
 *
 * A warp computes rows × tokens outputs: lane j adds the columns of quads j, j + 32, … in order with fmaf, and lanes are
 * added by a butterfly (16, 8, 4, 2, 1): the same order for every number of tokens and every tile size. */
#include "shard/kernels/cuda/linear.h"
#include "shard/kernels/cuda/weight_element.cuh"

/* Four columns of a row, of which `left` exist, at least one; with vector all four. Others are zeros. */
template <int type, bool vector>
static __device__ __forceinline__ float4 load_quad(const void *w, size_t at, uint32_t left) {
    if constexpr (vector && type == WEIGHT_F32) return *(const float4 *)((const float *)w + at);
    else if constexpr (vector) {
        uint2 pairs = *(const uint2 *)((const uint16_t *)w + at);
        if constexpr (type == WEIGHT_BF16)
            return make_float4(bf16_low(pairs.x), bf16_high(pairs.x), bf16_low(pairs.y), bf16_high(pairs.y));
        return make_float4(f16_float((uint16_t)(pairs.x & 0xFFFFu)), f16_float((uint16_t)(pairs.x >> 16)),
                           f16_float((uint16_t)(pairs.y & 0xFFFFu)), f16_float((uint16_t)(pairs.y >> 16)));
    } else {
        float4 v = make_float4(float_element<type>(w, at), 0.0f, 0.0f, 0.0f);
        if (left > 1) v.y = float_element<type>(w, at + 1);
        if (left > 2) v.z = float_element<type>(w, at + 2);
        if (left > 3) v.w = float_element<type>(w, at + 3);
        return v;
    }
}

/* Adds sums[values] over the lanes by the butterfly; lane l then has the sums of values l · per … + per - 1 at 0 … per - 1,
 * per = values / 32 (a lane keeps the half of the values that its bit says, so that each level moves half of what the one
 * before did). With less than 32 values all lanes have all sums. */
template <int values> static __device__ __forceinline__ void add_lanes(float sums[values], uint32_t lane) {
    if constexpr (values < WARP) {
        #pragma unroll
        for (int i = 0; i < values; i++) sums[i] = warp_sum(sums[i]);
    } else {
        #pragma unroll
        for (int level = 0; level < 5; level++) {
            int bit = WARP / 2 >> level, kept = values / 2 >> level;
            bool upper = (lane & (uint32_t)bit) != 0;
            #pragma unroll
            for (int i = 0; i < values / 2; i++) {
                if (i >= kept) continue;
                float keep = upper ? sums[i + kept] : sums[i], give = upper ? sums[i] : sums[i + kept];
                sums[i] = keep + __shfl_xor_sync(0xFFFFFFFFu, give, bit);
            }
        }
    }
}

template <int type, int rows, int tokens, bool vector>
static __global__ void __launch_bounds__(256, rows *tokens < 64 ? 2 : 1)
    float_kernel(const float_call c, uint32_t warps_of_rows) {
    const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const uint32_t warps_of_tokens = blockDim.x / WARP / warps_of_rows;
    const uint32_t row = (blockIdx.x * warps_of_rows + warp % warps_of_rows) * rows;
    const uint32_t token = (blockIdx.y * warps_of_tokens + warp / warps_of_rows) * tokens;
    const bool mine = row < c.rows && token < c.n;
    if (tokens == 1 && mine && lane < rows && row + lane < c.rows && vector && c.cols > 0) {
        const uint32_t most = 16 << 10;
        uint32_t bytes = c.cols * (type == WEIGHT_F32 ? 4 : 2) & ~15u;
        const char *at = (const char *)c.w + (size_t)(row + lane) * c.cols * (type == WEIGHT_F32 ? 4 : 2);
        if ((uintptr_t)at % 16 == 0 && bytes > 0) prefetch_l2_bytes(at, bytes < most ? bytes : most);
    }
    grid_release();
    grid_wait();
    if (!mine) return;

    /* Rows and tokens beyond the last one repeat it and are not written. */
    size_t w_at[rows], x_at[tokens];
    #pragma unroll
    for (uint32_t r = 0; r < rows; r++) w_at[r] = (size_t)(row + r < c.rows ? row + r : c.rows - 1) * c.cols;
    #pragma unroll
    for (uint32_t i = 0; i < tokens; i++) x_at[i] = (token + i < c.n ? token + i : c.n - 1) * c.x_stride;
    float sums[rows * tokens] = {};
    constexpr uint32_t batch = rows * tokens == 1 ? 8 : 1; /* quads whose loads are under way at once */
    for (uint32_t begin = 4 * lane; begin < c.cols; begin += 4 * WARP * batch) {
        float4 w[batch][rows], x[batch][tokens];
        #pragma unroll
        for (uint32_t b = 0; b < batch; b++) {
            /* Beyond the last quad the first one is loaded, without a branch that would part the loads, and counts 0. */
            uint32_t there = begin + 4 * WARP * b, column = there < c.cols ? there : begin, left = c.cols - column;
            #pragma unroll
            for (int r = 0; r < rows; r++) w[b][r] = load_quad<type, vector>(c.w, w_at[r] + column, left);
            #pragma unroll
            for (int i = 0; i < tokens; i++) {
                x[b][i] = load_quad<WEIGHT_F32, vector>(c.x, x_at[i] + column, left);
                if (batch > 1 && there >= c.cols) x[b][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
        }
        #pragma unroll
        for (uint32_t b = 0; b < batch; b++) {
            #pragma unroll
            for (int i = 0; i < tokens; i++) {
                #pragma unroll
                for (int r = 0; r < rows; r++) {
                    float s = fmaf(w[b][r].x, x[b][i].x, sums[i * rows + r]);
                    s = fmaf(w[b][r].y, x[b][i].y, s);
                    s = fmaf(w[b][r].z, x[b][i].z, s);
                    sums[i * rows + r] = fmaf(w[b][r].w, x[b][i].w, s);
                }
            }
        }
    }
    __syncwarp();
    add_lanes<rows * tokens>(sums, lane);
    constexpr uint32_t per = rows * tokens < WARP ? 1 : rows * tokens / WARP;
    #pragma unroll
    for (uint32_t i = 0; i < (rows * tokens < WARP ? rows * tokens : per); i++) {
        uint32_t value = rows * tokens < WARP ? i : lane * per + i, r = value % rows, k = value / rows;
        if ((rows * tokens < WARP && lane != i) || row + r >= c.rows || token + k >= c.n) continue;
        c.y[(token + k) * c.y_stride + row + r] = sums[i];
    }
}

template <int type, int rows, int tokens>
static void launch(cudaStream_t stream, const float_call *c, uint32_t warps_of_rows, uint32_t warps_of_tokens) {
    enum { GRID_Y_MAX = 65535 };
    uint32_t rows_at_once = rows * warps_of_rows, tokens_at_once = tokens * warps_of_tokens;
    uint32_t most = GRID_Y_MAX * tokens_at_once;
    for (uint32_t first = 0; first < c->n; first += most) {
        float_call part = *c;
        part.n = c->n - first < most ? c->n - first : most;
        part.x += first * c->x_stride;
        part.y += first * c->y_stride;
        dim3 grid((c->rows + rows_at_once - 1) / rows_at_once, (part.n + tokens_at_once - 1) / tokens_at_once);
        dim3 block(WARP * warps_of_rows * warps_of_tokens);
        if (c->vector) LAUNCH((float_kernel<type, rows, tokens, true>), grid, block, 0, stream, part, warps_of_rows);
        else LAUNCH((float_kernel<type, rows, tokens, false>), grid, block, 0, stream, part, warps_of_rows);
    }
}

template <int type> static void launch_type(cudaStream_t stream, const float_call *c) {
    enum { FEW_ROWS = 1024 }; /* a warp in a block each, so that all multiprocessors read */
    if (c->n == 1) launch<type, 1, 1>(stream, c, c->rows <= FEW_ROWS ? 1 : 8, 1);
    else if (c->n <= 16) launch<type, 2, 8>(stream, c, c->rows <= FEW_ROWS ? 1 : 4, c->n <= 8 ? 1 : 2);
    else launch<type, 8, 8>(stream, c, c->rows <= FEW_ROWS && c->n <= 256 ? 1 : 4, 2);
}

void linear_float_launch(cudaStream_t stream, weight_type type, const float_call *c) {
    if (type == WEIGHT_F32) launch_type<WEIGHT_F32>(stream, c);
    else if (type == WEIGHT_F16) launch_type<WEIGHT_F16>(stream, c);
    else launch_type<WEIGHT_BF16>(stream, c);
}
