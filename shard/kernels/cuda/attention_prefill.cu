/* Attention of many rows of a sequence on tensor cores. A block takes a tile of 64 queries, which are the
 * rows of a span times the query heads of one KV head, over all pages that any of them sees. Queries and
 * weights are one bf16, sums float32.
 *
 * Eight warps. For scores each has 32 queries, 32 keys and half of the dimensions; the halves are added
 * through shared memory, and each warp goes on with 16 of its queries. For values each has 32 queries and a
 * quarter of the dimensions.
 *
 * Half-size pages: queries turn once by their positions, keys as they are read by theirs, into a tile of the
 * turned dimensions, rounded to bf16 like a key that is stored. */
#include "shard/kernels/cuda/attention_prefill.cuh"

enum { EXCHANGE_STRIDE = 72 }; /* floats */

template <int DIM, bool HALF, bool BYTES, int RING> struct prefill_shape {
    static constexpr int pairs = HALF ? DIM / 8 : 0;
    static constexpr int turned = pairs / 16; /* steps that turn, in each half */
    static constexpr int columns = DIM / 32;  /* of eight values, of a warp */
    static constexpr uint32_t raw = tile_raw_bytes(DIM, BYTES);
    static constexpr uint32_t ring_offset = tile_bytes(DIM);
    static constexpr uint32_t wide_offset = ring_offset + RING * raw;
    /* Turned keys, then scores on their way, then weights: each is read before the next is written over it. */
    static constexpr uint32_t turned_offset = wide_offset + (BYTES ? tile_bytes(DIM) : 0);
    static constexpr uint32_t turned_bytes = 64 * 2 * pairs * 2;
    static constexpr uint32_t exchange_bytes = 64 * EXCHANGE_STRIDE * sizeof(float);
    static constexpr uint32_t weights_offset = turned_offset + turned_bytes;
    static constexpr uint32_t part_bytes = turned_bytes + 64 * 64 * 2;
    static constexpr uint32_t stats_offset =
        turned_offset + (part_bytes > exchange_bytes ? part_bytes : exchange_bytes);
    static constexpr uint32_t shared_bytes = stats_offset + 5 * ATTENTION_TILE * sizeof(float);
};

typedef struct prefill_stats {
    float largest[2][ATTENTION_TILE]; /* of each half of the keys */
    float sum[2][ATTENTION_TILE];
    float rescale[ATTENTION_TILE];
} prefill_stats;

template <int DIM, bool HALF, bool BYTES, int RING>
static __device__ __forceinline__ void issue(const attention_call &c, const prefill_work &w, uint32_t tile) {
    typedef prefill_shape<DIM, HALF, BYTES, RING> shape;
    if (tile < w.tiles) {
        uint32_t page = w.least / ATTENTION_PAGE + (HALF ? tile : tile / 2), start = page * ATTENTION_PAGE;
        const unsigned char *rows = attention_page(c, attention_page_id(c, w.span.slot, page), w.heads.kv_head);
        if (!HALF && tile % 2) rows += c.rows_bytes;
        tile_issue<DIM, BYTES>(w.shared + shape::ring_offset + tile % RING * shape::raw, rows,
                               w.least > start ? w.least - start : 0, w.last + 1 - start);
    }
    cp_async_commit();
}

/* ---- scores ---- */

/* Right operands of 16 keys and one step: r[0], r[1] are the first eight keys', r[2], r[3] the others'. */
static __device__ __forceinline__ uint32_t keys_at(uint32_t key, uint32_t chunk, uint32_t row_bytes) {
    uint32_t lane = threadIdx.x % WARP;
    return tile_at(key + lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2, row_bytes);
}

/* The warp's 32 queries, 32 keys, and half of the dimensions. */
template <int DIM, bool HALF, bool BYTES, int RING>
static __device__ __forceinline__ void tile_scores(const prefill_work &w, const unsigned char *tile,
                                                   float sum[2][4][4]) {
    typedef prefill_shape<DIM, HALF, BYTES, RING> shape;
    uint32_t warp = threadIdx.x / WARP, query = warp % 2 * 32, key = warp / 2 % 2 * 32, part = warp / 4;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[m][i][e] = 0.0f;
#pragma unroll 4
    for (int i = 0; i < DIM / 32; i++) {
        uint32_t left[2][4], right[2][4], chunk = part * (DIM / 16) + 2 * i;
        const unsigned char *keys = tile;
        uint32_t keys_chunk = chunk, row_bytes = 2 * DIM;
        if (HALF && i < shape::turned) {
            keys = w.shared + shape::turned_offset;
            keys_chunk = part * (shape::pairs / 8) + 2 * i;
            row_bytes = 4 * shape::pairs;
        }
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
            ldmatrix_x4(left[m], w.shared + tile_left(query + 16 * m, chunk, 2 * DIM));
            ldmatrix_x4(right[m], keys + keys_at(key + 16 * m, keys_chunk, row_bytes));
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int k = 0; k < 4; k++) mma_bf16(sum[m][k], left[m], right[k / 2] + k % 2 * 2);
    }
}

/* Adds the halves of the dimensions: the warp keeps queries 16·part … of its 32, in s[4][4]. A barrier before
 * it frees the exchange, one inside. */
static __device__ __forceinline__ void exchange_scores(float *exchange, float sum[2][4][4], float s[4][4]) {
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = warp / 4;
    uint32_t row = warp % 2 * 32 + lane / 4, column = warp / 2 % 2 * 32 + lane % 4 * 2;
    float *sent = exchange + (row + 16 * (1 - part)) * EXCHANGE_STRIDE + column;
    const float *got = exchange + (row + 16 * part) * EXCHANGE_STRIDE + column;
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            float2 x =
                part ? make_float2(sum[0][k][e], sum[0][k][e + 1]) : make_float2(sum[1][k][e], sum[1][k][e + 1]);
            *(float2 *)(sent + e / 2 * 8 * EXCHANGE_STRIDE + 8 * k) = x;
        }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            float2 x = *(const float2 *)(got + e / 2 * 8 * EXCHANGE_STRIDE + 8 * k);
            s[k][e] = (part ? sum[1][k][e] : sum[0][k][e]) + x.x;
            s[k][e + 1] = (part ? sum[1][k][e + 1] : sum[0][k][e + 1]) + x.y;
        }
}

/* ---- softmax ---- */

/* Scores become weights. One barrier inside; weights are there after another. */
template <bool BYTES>
static __device__ __forceinline__ void tile_softmax(float s[4][4], query_pair *q, prefill_stats *stats,
                                                    unsigned char *weights, uint32_t start, const float *key_scales,
                                                    const float *value_scales) {
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = warp / 2 % 2;
    uint32_t column = part * 32 + lane % 4 * 2;
    float largest[2] = {-INFINITY, -INFINITY}, factor[2];
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            uint32_t key = start + column + 8 * k + e % 2;
            if (BYTES) s[k][e] *= key_scales[column + 8 * k + e % 2];
            s[k][e] = key >= q->least[e / 2] && key <= q->position[e / 2] ? s[k][e] : -INFINITY;
            largest[e / 2] = fmaxf(largest[e / 2], s[k][e]);
        }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xFFFFFFFFu, largest[i], 1));
        largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xFFFFFFFFu, largest[i], 2));
        if (lane % 4 == 0) stats->largest[part][q->row[i]] = largest[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        largest[i] = fmaxf(q->m[i], fmaxf(stats->largest[0][q->row[i]], stats->largest[1][q->row[i]]));
        float base = largest[i] == -INFINITY ? 0.0f : largest[i]; /* sees nothing so far */
        factor[i] = ref_softmax_exp(q->m[i] - base);
        q->m[i] = largest[i];
        q->l[i] *= factor[i];
        largest[i] = base;
        if (part == 0 && lane % 4 == 0) stats->rescale[q->row[i]] = factor[i];
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float p[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            bool seen = s[k][e] != -INFINITY;
            p[e] = ref_softmax_exp(s[k][e] - largest[e / 2]);
            q->l[e / 2] += p[e];
            if (BYTES) p[e] = seen ? p[e] * value_scales[column + 8 * k + e % 2] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
            *(uint32_t *)(weights + tile_at(q->row[i], part * 4 + k, 128) + lane % 4 * 4) =
                bf16_pack(p[2 * i], p[2 * i + 1]);
    }
}

/* ---- values ---- */

/* The warp's 32 queries and a quarter of the dimensions. */
template <int DIM>
static __device__ __forceinline__ void tile_values(const unsigned char *tile, const unsigned char *weights,
                                                   const float *rescale, float (*o)[DIM / 32][4]) {
    constexpr int columns = DIM / 32;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, query = warp % 2 * 32, quarter = warp / 2;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        float above = rescale[query + 16 * m + lane / 4], below = rescale[query + 16 * m + lane / 4 + 8];
#pragma unroll
        for (int i = 0; i < columns; i++) {
            o[m][i][0] *= above, o[m][i][1] *= above;
            o[m][i][2] *= below, o[m][i][3] *= below;
        }
    }
#pragma unroll
    for (int step = 0; step < 4; step++) {
        uint32_t left[2][4], right[4];
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) ldmatrix_x4(left[m], weights + tile_left(query + 16 * m, 2 * step, 128));
#pragma unroll
        for (int i = 0; i < columns; i += 2) {
            ldmatrix_x4_trans(right, tile + tile_right_trans(16 * step, quarter * columns + i, 2 * DIM));
#pragma unroll
            for (int m = 0; m < 2; m++) {
                mma_bf16(o[m][i], left[m], right);
                mma_bf16(o[m][i + 1], left[m], right + 2);
            }
        }
    }
}

template <int DIM>
static __device__ __forceinline__ void write_tile(const attention_call &c, const prefill_work &w, query_pair *q,
                                                  prefill_stats *stats, float (*o)[DIM / 32][4]) {
    constexpr int columns = DIM / 32;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        q->l[i] += __shfl_xor_sync(0xFFFFFFFFu, q->l[i], 1);
        q->l[i] += __shfl_xor_sync(0xFFFFFFFFu, q->l[i], 2);
        if (lane % 4 == 0) stats->sum[warp / 2 % 2][q->row[i]] = q->l[i];
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t query = warp % 2 * 32 + 16 * m + 8 * i + lane / 4, index = query / w.heads.count;
            if (index >= w.rows) continue;
            float scale = 1.0f / (stats->sum[0][query] + stats->sum[1][query]);
            size_t row = w.span.row + w.first + index, head = w.heads.begin + query % w.heads.count;
            float *y = c.y + (row * c.heads + head) * DIM + warp / 2 * columns * 8 + lane % 4 * 2;
#pragma unroll
            for (int k = 0; k < columns; k++)
                *(float2 *)(y + 8 * k) = make_float2(o[m][k][2 * i] * scale, o[m][k][2 * i + 1] * scale);
        }
}

template <int DIM, bool HALF, bool BYTES, int RING>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 1)
    prefill_kernel(const attention_call c, uint32_t tiles) {
    typedef prefill_shape<DIM, HALF, BYTES, RING> shape;
    DYNAMIC_SHARED(shared);
    grid_wait();
    grid_release();
    prefill_work w;
    uint32_t units = c.kv_heads * c.groups;
    w.shared = shared;
    w.heads = attention_unit_heads(c, blockIdx.x % units);
    if (w.heads.count == 0) return;
    find_tile(c, tiles - 1 - blockIdx.x / units, &w); /* the longest first */
    uint32_t first_page = w.least / ATTENTION_PAGE, pages = w.last / ATTENTION_PAGE - first_page + 1;
    w.tiles = pages * (HALF ? 1 : 2);
    if (RING == 2) issue<DIM, HALF, BYTES, RING>(c, w, 0);
    load_queries<DIM, HALF, ATTENTION_TILE, false>(c, w);
    query_pair q;
    uint32_t warp = threadIdx.x / WARP;
    begin_queries(c, w, &q, warp % 2 * 32 + warp / 4 * 16 + threadIdx.x % WARP / 4);
    key_turn turn;
    if constexpr (HALF) load_turn(c, &turn);
    prefill_stats *stats = (prefill_stats *)(shared + shape::stats_offset);
    unsigned char *weights = shared + shape::weights_offset, *wide = shared + shape::wide_offset;
    float o[2][shape::columns][4] = {{{0.0f}}};
    uint32_t tile = 0;
    for (uint32_t i = 0; i < pages; i++) {
        uint32_t page = first_page + i;
        const unsigned char *keys = shared + shape::ring_offset + tile % RING * shape::raw, *values = keys;
        if (RING == 2) cp_async_wait<0>();
        __syncthreads(); /* the tile is there, and everyone is done with the one before it */
        issue<DIM, HALF, BYTES, RING>(c, w, tile + RING - 1);
        if (RING == 1) {
            cp_async_wait<0>();
            __syncthreads();
        }
        if constexpr (BYTES) {
            tile_expand<DIM>(wide, keys);
            __syncthreads();
        }
        if constexpr (HALF) {
            turn_keys<DIM, false>(c, turn, page, BYTES ? wide : keys, shared + shape::turned_offset);
            __syncthreads();
        }
        float sum[2][4][4], s[4][4];
        tile_scores<DIM, HALF, BYTES, RING>(w, BYTES ? wide : keys, sum);
        if (!HALF) {
            tile++;
            values = shared + shape::ring_offset + tile % RING * shape::raw;
            if (RING == 2) cp_async_wait<0>();
        }
        __syncthreads();
        exchange_scores((float *)(shared + shape::turned_offset), sum, s);
        tile_softmax<BYTES>(s, &q, stats, weights, page * ATTENTION_PAGE, tile_scales(keys, DIM),
                            tile_scales(values, DIM));
        __syncthreads();
        if (!HALF) {
            issue<DIM, HALF, BYTES, RING>(c, w, tile + RING - 1);
            if (RING == 1) {
                cp_async_wait<0>();
                __syncthreads();
            }
            if constexpr (BYTES) {
                tile_expand<DIM>(wide, values);
                __syncthreads();
            }
        }
        tile_values<DIM>(BYTES ? wide : values, weights, stats->rescale, o);
        tile++;
    }
    write_tile<DIM>(c, w, &q, stats, o);
}

/* ---- launching ---- */

template <int DIM, bool HALF, bool BYTES, int RING>
static bool launch(const attention_device *d, const attention_call *c, uint32_t tiles) {
    size_t bytes = prefill_shape<DIM, HALF, BYTES, RING>::shared_bytes;
    if (bytes > d->shared_bytes_max) return false;
    LAUNCH((prefill_kernel<DIM, HALF, BYTES, RING>), dim3(tiles * c->kv_heads * c->groups), dim3(ATTENTION_THREADS),
           bytes, d->stream, *c, tiles);
    return true;
}

/* Two tiles in the ring where there is room, and else one; with 8 bits two, because weights need the values'
 * scales. tiles 0: nothing is launched. */
template <int DIM, bool HALF>
static bool choose_type(const attention_device *d, const attention_call *c, uint32_t tiles) {
    if (c->type == KV_Q8) return launch<DIM, HALF, true, 2>(d, c, tiles);
    return launch<DIM, HALF, false, 2>(d, c, tiles) || launch<DIM, HALF, false, 1>(d, c, tiles);
}

static bool choose(const attention_device *d, const attention_call *c, uint32_t tiles) {
    if (c->type == KV_F32) return false;
    if (c->half_size) return c->head_dim == 512 && c->pairs == 64 && choose_type<512, true>(d, c, tiles);
    if (c->head_dim == 512) return choose_type<512, false>(d, c, tiles);
    if (c->head_dim == 256) return choose_type<256, false>(d, c, tiles);
    if (c->head_dim == 128) return choose_type<128, false>(d, c, tiles);
    return false;
}

extern "C" bool attention_prefill_takes(const attention_device *d, const attention_call *c) {
    return choose(d, c, 0);
}
extern "C" bool attention_prefill_launch(const attention_device *d, const attention_call *c, uint32_t tiles) {
    return choose(d, c, tiles);
}
