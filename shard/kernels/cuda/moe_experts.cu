/* Experts for few tokens: memory is what counts, each hit expert's weights are streamed once. Weights are operand A in
 * strips of 16 rows, up to 16 tokens operand B, as high and low bf16 (fragments.cuh).
 *
 * gate_up: a block has 16 rows of gate and of up of one expert; its GATE_WARPS warps take every GATE_WARPS'th chunk of
 *          columns, and their sums are added in the order of warps.
 * down:    a warp has 16 rows of one expert, all columns. With very few hit experts a block has 16 rows of y, goes through
 *          them DOWN_WARPS at a time, in the order of ids, and adds up; else what a warp has is written down, by pair.
 *
 * A token is a column of B, and a column's sums do not depend on the others. */
#include "shard/kernels/cuda/fragments.cuh"
#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/cuda/moe_places.cuh"

enum { GATE_WARPS = 4, DOWN_WARPS = 8, TILE_TOKENS = 8, HIT_WORDS = HIT_EXPERTS_MAX / 32, HIT_NONE = 0xFFFF };

/* ---- few: hit experts, found by every block ---- */

typedef struct expert_hits {
    uint32_t total;                 /* own experts that any row has */
    uint32_t bits[HIT_WORDS];       /* of own experts */
    uint16_t id[HIT_PAIRS_MAX];     /* of pairs; HIT_NONE: not an own one */
    uint16_t expert[HIT_PAIRS_MAX]; /* [total], in the order of ids */
    uint16_t hit[HIT_PAIRS_MAX], pair[HIT_PAIRS_MAX]; /* [rows, active], a row's in the order of ids; HIT_NONE behind */
} expert_hits;

static __device__ void find_hits(expert_hits *h, const expert_source &s) {
    uint32_t words = (s.own_count + 31) / 32;
    for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) h->bits[i] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < s.pairs; i += blockDim.x) {
        uint32_t id = s.ids[i] - s.own_begin;
        h->id[i] = (uint16_t)(id < s.own_count ? id : (uint32_t)HIT_NONE);
        h->hit[i] = h->pair[i] = HIT_NONE;
        if (id < s.own_count) atomicOr(&h->bits[id / 32], 1u << id % 32);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t total = 0;
        for (uint32_t w = 0; w < words; w++) total += (uint32_t)__popc(h->bits[w]);
        h->total = total;
    }
    for (uint32_t i = threadIdx.x; i < s.pairs; i += blockDim.x) {
        uint32_t id = h->id[i], row = i / s.active, place = 0, hit = 0;
        if (id == HIT_NONE) continue;
        for (uint32_t k = 0; k < s.active; k++) place += h->id[row * s.active + k] < id;
        for (uint32_t w = 0; w < id / 32; w++) hit += (uint32_t)__popc(h->bits[w]);
        hit += (uint32_t)__popc(h->bits[id / 32] & ((1u << id % 32) - 1));
        h->expert[hit] = (uint16_t)id;
        h->hit[row * s.active + place] = (uint16_t)hit;
        h->pair[row * s.active + place] = (uint16_t)i;
    }
    __syncthreads();
}

/* The pair that makes row `row` a token of hit expert `hit`. */
static __device__ __forceinline__ uint32_t pair_of_hit(const expert_hits *h, const expert_source &s, uint32_t hit,
                                                       uint32_t row) {
    uint32_t pair = MOE_NONE;
    if (row * s.active < s.pairs)
        for (uint32_t k = 0; k < s.active; k++)
            if (h->hit[row * s.active + k] == hit) pair = h->pair[row * s.active + k];
    return pair;
}

/* Item `index`, of a list, the one row or the hits: its expert, MOE_NONE if there is no such item. */
static __device__ __forceinline__ uint32_t item_expert(const expert_hits *h, const expert_source &s, uint32_t index) {
    if (s.one_row) {
        uint32_t id = index < s.pairs ? s.ids[index] - s.own_begin : MOE_NONE;
        return id < s.own_count ? id : MOE_NONE;
    }
    if (s.items) return index < *s.item_count ? s.items[index].expert : MOE_NONE;
    return index < h->total ? h->expert[index] : MOE_NONE;
}
static __device__ __forceinline__ uint32_t item_pair(const expert_hits *h, const expert_source &s, uint32_t index,
                                                     uint32_t column) {
    if (s.one_row) return column == 0 ? index : MOE_NONE;
    if (!s.items) return pair_of_hit(h, s, index, column);
    return column < s.items[index].count ? s.sorted[s.items[index].begin + column] : MOE_NONE;
}

/* ---- a warp's products ---- */

/* Chunks under way; about 16 KiB a warp for two matrices of bf16, half of it for one. */
static __host__ __device__ constexpr int walk_stages(int type) { return type == WEIGHT_BF16 ? 4 : 6; }
static __host__ __device__ constexpr int walk_bytes(int type, int matrices) {
    return walk_stages(type) * matrices * fragment_bytes(type);
}

/* Four columns of a token for each step of a chunk. */
template <int type, int tiles>
static __device__ __forceinline__ void load_tokens(float4 b[tiles][FRAGMENT_STEPS], const float *const x[tiles],
                                                   uint32_t chunk, uint32_t cols) {
    uint32_t t = threadIdx.x % 4;
#pragma unroll
    for (int tile = 0; tile < tiles; tile++)
#pragma unroll
        for (int step = 0; step < FRAGMENT_STEPS; step++) {
            uint32_t column = chunk * FRAGMENT_COLUMNS + fragment_column<type>(step, t);
            b[tile][step] = x[tile] && column < cols ? *(const float4 *)(x[tile] + column) : make_float4(0, 0, 0, 0);
        }
}

/* sum[matrix][tile] += strip of the matrix · tokens, over chunks first, first + step, …; x[tile] is the row of token
 * lane / 4 of the tile (NULL: none), of x_cols columns, a multiple of 4 and zero beyond the matrix's. */
template <int type, int tiles, int matrices>
static __device__ __forceinline__ void walk(float sum[matrices][tiles][4], unsigned char *shared,
                                            const unsigned char *const strip[matrices], const weight_shape &shape,
                                            uint32_t first_row, uint32_t first, uint32_t step, const float *const x[tiles],
                                            uint32_t x_cols) {
    constexpr int stages = walk_stages(type), bytes = fragment_bytes(type);
    uint32_t chunks = (shape.cols + FRAGMENT_COLUMNS - 1) / FRAGMENT_COLUMNS, fetched = first, slot = 0, fill = 0;
    __syncwarp(); /* lanes may still read what the walk before left here */
    for (int i = 0; i < stages - 1; i++, fetched += step, fill++) {
        if (fetched < chunks)
            for (int m = 0; m < matrices; m++)
                fragment_fetch<type>(shared + (fill * matrices + m) * bytes, strip[m], first_row, shape, fetched);
        cp_async_commit();
    }
    float4 ahead[tiles][FRAGMENT_STEPS], b[tiles][FRAGMENT_STEPS];
    load_tokens<type, tiles>(ahead, x, first, x_cols);
    for (uint32_t chunk = first; chunk < chunks; chunk += step) {
        cp_async_wait<stages - 2>();
        __syncwarp();
        if (fetched < chunks)
#pragma unroll
            for (int m = 0; m < matrices; m++)
                fragment_fetch<type>(shared + (fill * matrices + m) * bytes, strip[m], first_row, shape, fetched);
        cp_async_commit();
        fetched += step;
        fill = fill + 1 == stages ? 0 : fill + 1;
#pragma unroll
        for (int tile = 0; tile < tiles; tile++)
#pragma unroll
            for (int s = 0; s < FRAGMENT_STEPS; s++) b[tile][s] = ahead[tile][s];
        load_tokens<type, tiles>(ahead, x, chunk + step, x_cols);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t high[tiles][2][2], low[tiles][2][2];
#pragma unroll
            for (int tile = 0; tile < tiles; tile++)
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    float4 v = b[tile][2 * half + s];
                    bf16_split(v.x, v.y, &high[tile][s][0], &low[tile][s][0]);
                    bf16_split(v.z, v.w, &high[tile][s][1], &low[tile][s][1]);
                }
#pragma unroll
            for (int m = 0; m < matrices; m++) {
                const unsigned char *at = shared + (slot * matrices + m) * bytes;
                uint32_t a[2][4];
                float scale[2] = {1, 1};
                fragment_load<type>(a, at, half);
                if (type == WEIGHT_Q8 || type == WEIGHT_Q4) fragment_scales<type>(scale, at, half);
#pragma unroll
                for (int tile = 0; tile < tiles; tile++)
                    fragment_multiply<type>(sum[m][tile], a, high[tile], low[tile], scale);
            }
        }
        slot = slot + 1 == stages ? 0 : slot + 1;
    }
    cp_async_wait<0>();
}

/* A lane's sums to[16 rows, 8 · tiles columns]. */
template <int tiles> static __device__ __forceinline__ void store_sums(float *to, const float sum[tiles][4]) {
    uint32_t g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int tile = 0; tile < tiles; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[(g + i / 2 * 8) * (tiles * TILE_TOKENS) + tile * TILE_TOKENS + 2 * t + i % 2] = sum[tile][i];
}

/* What is left to multiply a row's sum by; 1 but for fp8. */
template <int type>
static __device__ __forceinline__ float row_scale(const unsigned char *strip, const weight_shape &shape, uint32_t row) {
    return type == WEIGHT_FP8 ? ((const float *)(strip + shape.scales_at))[row] : 1.0f;
}

/* ---- gate and up ---- */

/* What a block asks for early, with one row: else the memory would idle where kernels follow each other. */
typedef struct gate_hints {
    uint32_t own_bytes;              /* of each of its two strips, before it knows which they are; a multiple of 256 */
    uint32_t down_share, down_bytes; /* of its expert's down: how far blocks are apart, and what each asks for */
    uint64_t down_end;
} gate_hints;

/* The beginning of a strip, or of each of its rows, by a warp. */
template <int type>
static __device__ __forceinline__ void prefetch_strip(const unsigned char *strip, const weight_shape &shape,
                                                      uint32_t first_row, uint32_t bytes) {
    uint32_t lane = threadIdx.x % WARP;
    if (type == WEIGHT_BF16 || type == WEIGHT_FP8) {
        uint32_t each = bytes / FRAGMENT_ROWS;
        if (lane < FRAGMENT_ROWS && first_row + lane < shape.rows)
            prefetch_l2_bytes(strip + (size_t)lane * shape.row_bytes, each < shape.row_bytes ? each : shape.row_bytes);
    } else if (lane == 0) {
        prefetch_l2_bytes(strip, bytes < shape.strip_bytes ? bytes : (uint32_t)shape.strip_bytes);
    }
}

/* Strips of the block's expert, if the kernel that chose it has ended; else of whatever stands there. */
template <int type>
static __device__ __forceinline__ void prefetch_own(const expert_source &s, const expert_matrix &gate, const expert_matrix &up,
                                                    const weight_shape &shape, uint32_t bytes) {
    uint32_t warp = threadIdx.x / WARP;
    if (bytes == 0 || warp > 1) return;
    uint32_t id = load_hint(s.ids + blockIdx.y) - s.own_begin;
    if (id >= s.own_count) return;
    const unsigned char *data = warp ? expert_data(up, id) : expert_data(gate, id);
    prefetch_strip<type>(data + blockIdx.x * shape.strip_bytes, shape, blockIdx.x * FRAGMENT_ROWS, bytes);
}

/* A part of the expert's down, by the first lanes of all warps. */
static __device__ __forceinline__ void prefetch_down(const expert_matrix &down, uint32_t expert, const gate_hints &hints) {
    uint32_t warp = threadIdx.x / WARP, each = hints.down_bytes / GATE_WARPS;
    uint64_t at = (uint64_t)blockIdx.x * hints.down_share + warp * each;
    if (each == 0 || threadIdx.x % WARP != 0 || at >= hints.down_end) return;
    prefetch_l2_bytes(expert_data(down, expert) + at, hints.down_end - at < each ? (uint32_t)(hints.down_end - at) : each);
}

template <int type, int tiles>
static __global__ void __launch_bounds__(GATE_WARPS *WARP, 3)
    gate_up_kernel(expert_source s, expert_matrix gate, expert_matrix up, expert_matrix down, weight_shape shape,
                   gate_hints early, const float *x, float *act, uint32_t act_stride) {
    enum { COLUMNS = tiles * TILE_TOKENS };
    __shared__ expert_hits hits;
    __shared__ float part[GATE_WARPS][2][FRAGMENT_ROWS * COLUMNS];
    DYNAMIC_SHARED(shared);
    uint32_t warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, index = blockIdx.y;
    grid_release();
    prefetch_own<type>(s, gate, up, shape, early.own_bytes);
    grid_wait();
    if (!s.items && !s.one_row) find_hits(&hits, s);
    uint32_t expert = item_expert(&hits, s, index), first_row = blockIdx.x * FRAGMENT_ROWS;
    if (expert == MOE_NONE) return;
    const float *rows[tiles];
#pragma unroll
    for (int tile = 0; tile < tiles; tile++) {
        uint32_t pair = item_pair(&hits, s, index, tile * TILE_TOKENS + g);
        rows[tile] = pair == MOE_NONE ? NULL : x + (size_t)(pair / s.active) * shape.cols;
    }
    size_t at = blockIdx.x * shape.strip_bytes;
    const unsigned char *const strip[2] = {expert_data(gate, expert) + at, expert_data(up, expert) + at};
    float sum[2][tiles][4] = {};
    walk<type, tiles, 2>(sum, shared + warp * walk_bytes(type, 2), strip, shape, first_row, warp, GATE_WARPS, rows,
                         shape.cols);
    prefetch_down(down, expert, early);
    store_sums<tiles>(part[warp][0], sum[0]);
    store_sums<tiles>(part[warp][1], sum[1]);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < FRAGMENT_ROWS * COLUMNS; i += GATE_WARPS * WARP) {
        uint32_t column = i / FRAGMENT_ROWS, r = i % FRAGMENT_ROWS, row = fragment_row<type>(r);
        uint32_t pair = item_pair(&hits, s, index, column);
        if (pair == MOE_NONE || first_row + row >= act_stride) continue;
        float v = 0, u = 0;
        for (int w = 0; w < GATE_WARPS; w++) {
            v += part[w][0][r * COLUMNS + column];
            u += part[w][1][r * COLUMNS + column];
        }
        v *= row_scale<type>(strip[0], shape, row);
        u *= row_scale<type>(strip[1], shape, row);
        act[(size_t)pair * act_stride + first_row + row] = first_row + row < shape.rows ? ref_gelu(v) * u : 0.0f;
    }
}

/* ---- down ---- */

/* A warp: 16 rows of item `index`, into to[16, 8 · tiles]. */
template <int type, int tiles>
static __device__ __forceinline__ void down_rows(float *to, unsigned char *shared, const expert_hits *hits,
                                                 const expert_source &s, const expert_matrix &down,
                                                 const weight_shape &shape, const float *act, uint32_t act_stride,
                                                 uint32_t index, uint32_t expert) {
    const float *rows[tiles];
    uint32_t g = threadIdx.x % WARP / 4;
#pragma unroll
    for (int tile = 0; tile < tiles; tile++) {
        uint32_t pair = item_pair(hits, s, index, tile * TILE_TOKENS + g);
        rows[tile] = pair == MOE_NONE ? NULL : act + (size_t)pair * act_stride;
    }
    const unsigned char *const strip[1] = {expert_data(down, expert) + blockIdx.x * shape.strip_bytes};
    float sum[1][tiles][4] = {};
    walk<type, tiles, 1>(sum, shared, strip, shape, blockIdx.x * FRAGMENT_ROWS, 0, 1, rows, act_stride);
    if (type == WEIGHT_FP8) {
        float low = row_scale<type>(strip[0], shape, g), high = row_scale<type>(strip[0], shape, g + 8);
#pragma unroll
        for (int tile = 0; tile < tiles; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[0][tile][i] *= i < 2 ? low : high;
    }
    store_sums<tiles>(to, sum[0]);
}

/* A thread has one row of y for one token, whose experts come by in the order of ids. While a slow warp still adds a round
 * up, a fast one may be in the next: its sums go to the other buffer. */
template <int type, int tiles>
static __global__ void __launch_bounds__(DOWN_WARPS *WARP, 2)
    down_few_kernel(expert_source s, expert_matrix down, weight_shape shape, const float *act, uint32_t act_stride,
                    const float *weights, float *y, uint32_t n) {
    enum { COLUMNS = tiles * TILE_TOKENS };
    __shared__ expert_hits hits;
    __shared__ float weight_of[HIT_PAIRS_MAX], part[2][DOWN_WARPS][FRAGMENT_ROWS * COLUMNS];
    DYNAMIC_SHARED(shared);
    uint32_t warp = threadIdx.x / WARP;
    uint32_t column = threadIdx.x / FRAGMENT_ROWS, r = threadIdx.x % FRAGMENT_ROWS;
    grid_release();
    grid_wait();
    for (uint32_t i = threadIdx.x; i < s.pairs; i += DOWN_WARPS * WARP) weight_of[i] = weights[i];
    find_hits(&hits, s);
    float sum = 0;
    uint32_t next = 0, buffer = 0;
    for (uint32_t first = 0; first < hits.total; first += DOWN_WARPS, buffer ^= 1) {
        uint32_t index = first + warp;
        if (index < hits.total)
            down_rows<type, tiles>(part[buffer][warp], shared + warp * walk_bytes(type, 1), &hits, s, down, shape, act,
                                   act_stride, index, hits.expert[index]);
        __syncthreads();
        if (column >= n) continue;
        for (; next < s.active; next++) {
            uint32_t at = column * s.active + next, hit = hits.hit[at];
            if (hit >= first + DOWN_WARPS) break; /* HIT_NONE as well */
            sum = fmaf(weight_of[hits.pair[at]], part[buffer][hit - first][r * COLUMNS + column], sum);
        }
    }
    uint32_t row = blockIdx.x * FRAGMENT_ROWS + fragment_row<type>(r);
    if (column < n && row < shape.rows) y[(size_t)column * shape.rows + row] = sum;
}

template <int type, int tiles>
static __global__ void __launch_bounds__(DOWN_WARPS *WARP, 2)
    down_pairs_kernel(expert_source s, expert_matrix down, weight_shape shape, const float *act, uint32_t act_stride,
                       float *y_pair) {
    enum { COLUMNS = tiles * TILE_TOKENS };
    __shared__ expert_hits hits;
    __shared__ float part[DOWN_WARPS][FRAGMENT_ROWS * COLUMNS];
    DYNAMIC_SHARED(shared);
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, index = blockIdx.y * DOWN_WARPS + warp;
    grid_release();
    grid_wait();
    if (!s.items && !s.one_row) find_hits(&hits, s);
    uint32_t expert = item_expert(&hits, s, index);
    if (expert == MOE_NONE) return;
    down_rows<type, tiles>(part[warp], shared + warp * walk_bytes(type, 1), &hits, s, down, shape, act, act_stride, index,
                           expert);
    __syncwarp();
    for (uint32_t i = lane; i < FRAGMENT_ROWS * COLUMNS; i += WARP) {
        uint32_t column = i / FRAGMENT_ROWS, r = i % FRAGMENT_ROWS;
        uint32_t row = blockIdx.x * FRAGMENT_ROWS + fragment_row<type>(r), pair = item_pair(&hits, s, index, column);
        if (pair != MOE_NONE && row < shape.rows) y_pair[(size_t)pair * shape.rows + row] = part[warp][r * COLUMNS + column];
    }
}

/* ---- launches ---- */

static uint32_t strips_of(uint32_t rows) { return (rows + FRAGMENT_ROWS - 1) / FRAGMENT_ROWS; }

/* Few rows fill one tile or two; so may the items of a list. */
static bool one_tile(const expert_source *s) { return s->pairs <= TILE_TOKENS * s->active; }
#define LAUNCH_TILES(kernel, type, ...)                                                                                \
    if (one_tile(s)) LAUNCH((kernel<type, 1>), __VA_ARGS__);                                                           \
    else LAUNCH((kernel<type, 2>), __VA_ARGS__)

/* Hints fill half of the second cache; with more rows there are soon more experts than that holds. */
static gate_hints hints_for(const expert_source *s, const weight_shape *shape, const expert_matrix *down, dim3 grid) {
    const uint64_t most = 24 << 20, blocks = (uint64_t)grid.x * grid.y;
    gate_hints h = {0, 0, 0, 0};
    if (!s->one_row || blocks == 0) return h;
    h.own_bytes = (uint32_t)(most / (2 * blocks) < shape->strip_bytes ? most / (2 * blocks) : shape->strip_bytes) / 256 * 256;
    h.down_end = weight_rows_bytes(down->type, down->rows, down->cols);
    uint64_t share = (h.down_end + grid.x - 1) / grid.x;
    h.down_share = (uint32_t)((share + 63) / 64 * 64);
    h.down_bytes = (uint32_t)(most / blocks < h.down_share ? most / blocks / 64 * 64 : h.down_share);
    return h;
}

extern "C" void moe_gate_up_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *gate,
                                   const expert_matrix *up, const expert_matrix *down, const float *x, float *act,
                                   uint32_t act_stride) {
    weight_shape shape = weight_shape_of(gate->type, gate->rows, gate->cols);
    dim3 grid(strips_of(act_stride), s->items_max);
    gate_hints early = hints_for(s, &shape, down, grid);
#define GATE_UP(type)                                                                                                  \
    LAUNCH_TILES(gate_up_kernel, type, grid, dim3(GATE_WARPS *WARP), GATE_WARPS *walk_bytes(type, 2), stream, *s,      \
                 *gate, *up, *down, shape, early, x, act, act_stride)
    TENSOR_TYPE_SWITCH(gate->type, GATE_UP);
#undef GATE_UP
}

extern "C" void moe_down_few_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down,
                                    const float *act, uint32_t act_stride, const float *weights, float *y, uint32_t n) {
    weight_shape shape = weight_shape_of(down->type, down->rows, down->cols);
    expert_source hits = *s;
    dim3 grid(strips_of(down->rows));
    hits.one_row = false; /* sums are in the order of experts */
#define DOWN_FEW(type)                                                                                                 \
    LAUNCH_TILES(down_few_kernel, type, grid, dim3(DOWN_WARPS *WARP), DOWN_WARPS *walk_bytes(type, 1), stream, hits,   \
                 *down, shape, act, act_stride, weights, y, n)
    TENSOR_TYPE_SWITCH(down->type, DOWN_FEW);
#undef DOWN_FEW
}

extern "C" void moe_down_pairs_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down,
                                       const float *act, uint32_t act_stride, float *y_pair) {
    weight_shape shape = weight_shape_of(down->type, down->rows, down->cols);
    dim3 grid(strips_of(down->rows), (s->items_max + DOWN_WARPS - 1) / DOWN_WARPS);
#define DOWN_PAIRS(type)                                                                                               \
    LAUNCH_TILES(down_pairs_kernel, type, grid, dim3(DOWN_WARPS *WARP), DOWN_WARPS *walk_bytes(type, 1), stream, *s,   \
                 *down, shape, act, act_stride, y_pair)
    TENSOR_TYPE_SWITCH(down->type, DOWN_PAIRS);
#undef DOWN_PAIRS
}
