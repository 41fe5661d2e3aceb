/* Attention of many rows of a sequence on Hopper's tensor cores: what attention_prefill.cu does, by products of warpgroups that
 * read shared memory themselves. bf16 pages, half-size ones with heads of 512 and separate keys and values of 256.
 *
 * Two warpgroups. Each has the sums of 64 queries by 256 dimensions in registers:
 * - heads of 256: a block has 128 queries, each warpgroup 64 of them;
 * - half-size, 512: a block has 64 queries, each warpgroup half of the dimensions. Scores are halves of dimensions too, which
 *   the warpgroups exchange, each thread with its like in the other one, so that both go on with the same scores.
 * Weights stay in registers, where scores arrive as the left operand of the next product lies.
 *
 * Two pages are in shared memory, one of them on its way. The elements of half-size pages are read along K as keys and along N
 * as values; the two blocks of dimensions that turn have a tile of their own as keys, made while the others are multiplied. */
#include "shard/kernels/cuda/attention_prefill.cuh"
#include "shard/kernels/cuda/device_wgmma.cuh"

template <int DIM, bool HALF> struct wgmma_shape {
    static constexpr uint32_t queries = HALF ? 64 : 128;      /* of a block */
    static constexpr uint32_t part = 4 * ATTENTION_BLOCK_BYTES; /* 64 rows of 256 elements, what a warpgroup has of queries */
    static constexpr uint32_t page_bytes = tile_bytes(DIM) * (HALF ? 1 : 2);
    static constexpr uint32_t ring_offset = 2 * part;
    /* Turned keys, then scores on their way: float4 [8, 2 warpgroups, 128 threads]. */
    static constexpr uint32_t turned_offset = ring_offset + 2 * page_bytes;
    static constexpr uint32_t exchange_bytes = HALF ? 8 * 2 * WARPGROUP * sizeof(float4) : 0;
    static constexpr uint32_t shared_bytes = turned_offset + exchange_bytes + 1024; /* of alignment */
    static_assert(HALF ? DIM == 512 : DIM == 256, "a warpgroup has 256 dimensions");
    static_assert(part == queries * DIM, "queries are 2 bytes");
};

/* ---- loading ---- */

/* Starts copying the page-th page that the tile sees, if there is one. */
template <int DIM, bool HALF>
static __device__ __forceinline__ void issue_page(const attention_call &c, const prefill_work &w, uint32_t page) {
    typedef wgmma_shape<DIM, HALF> shape;
    if (page < w.tiles) {
        uint32_t index = w.least / ATTENTION_PAGE + page, start = index * ATTENTION_PAGE;
        uint32_t begin = w.least > start ? w.least - start : 0, end = w.last + 1 - start;
        const unsigned char *rows = attention_page(c, attention_page_id(c, w.span.slot, index), w.heads.kv_head);
        unsigned char *to = w.shared + shape::ring_offset + page % 2 * shape::page_bytes;
        tile_issue<DIM, false, true>(to, rows, begin, end);
        if (!HALF) tile_issue<DIM, false, true>(to + tile_bytes(DIM), rows + c.rows_bytes, begin, end);
    }
    cp_async_commit();
}

/* ---- scores ---- */

/* A block's 64 dimensions of 64 queries and 64 keys, both along K. */
static __device__ __forceinline__ void add_scores(float (&s)[32], const unsigned char *queries, const unsigned char *keys) {
    uint64_t a = wgmma_matrix(queries, 16, 1024), b = wgmma_matrix(keys, 16, 1024);
#pragma unroll
    for (uint32_t step = 0; step < 4; step++) wgmma_n64<false>(s, wgmma_further(a, 32 * step), wgmma_further(b, 32 * step));
}

/* Adds what the other warpgroup has of the same scores. Two barriers: the exchange's bytes were keys that the other one's
 * products may read until it comes here. */
static __device__ __forceinline__ void exchange_scores(float (&s)[32], unsigned char *exchange) {
    uint32_t group = threadIdx.x / WARPGROUP, thread = threadIdx.x % WARPGROUP;
    float4 *own = (float4 *)exchange + group * WARPGROUP + thread;
    const float4 *other = (const float4 *)exchange + (1 - group) * WARPGROUP + thread;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) own[i * 2 * WARPGROUP] = make_float4(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float4 x = other[i * 2 * WARPGROUP];
        s[4 * i] += x.x, s[4 * i + 1] += x.y, s[4 * i + 2] += x.z, s[4 * i + 3] += x.w;
    }
}

/* Of the warpgroup's queries, keys and dimensions. */
template <int DIM, bool HALF>
static __device__ __forceinline__ void page_scores(const attention_call &c, const key_turn &turn, uint32_t page,
                                                   unsigned char *shared, const unsigned char *tile, uint32_t group,
                                                   float (&s)[32]) {
    typedef wgmma_shape<DIM, HALF> shape;
    uint32_t part = group * shape::part;
    const unsigned char *queries = shared + part, *keys = HALF ? tile + part : tile;
    unsigned char *turned = shared + shape::turned_offset;
#pragma unroll
    for (int i = 0; i < 32; i++) s[i] = 0.0f;
    wgmma_hold(s);
    wgmma_fence();
#pragma unroll
    for (uint32_t block = HALF ? 1 : 0; block < 4; block++)
        add_scores(s, queries + block * ATTENTION_BLOCK_BYTES, keys + block * ATTENTION_BLOCK_BYTES);
    wgmma_commit();
    if constexpr (HALF) {
        turn_keys<DIM, true>(c, turn, page, tile, turned);
        fence_proxy_async();
        __syncthreads();
        wgmma_fence();
        add_scores(s, queries, turned + group * ATTENTION_BLOCK_BYTES);
        wgmma_commit();
    }
    wgmma_wait<0>();
    wgmma_hold(s);
    if constexpr (HALF) exchange_scores(s, turned);
}

/* ---- softmax ---- */

/* Scores become weights, in the order of a left operand: 16 keys in each p[k]. factor: what earlier sums shrink by. */
static __device__ __forceinline__ void page_softmax(float (&s)[32], query_pair *q, uint32_t (&p)[4][4], float (&factor)[2],
                                                    uint32_t start, bool whole) {
    float largest[2] = {-INFINITY, -INFINITY}, base[2];
    if (!whole) {
        uint32_t first = start + threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < 32; i++) {
            uint32_t key = first + i / 4 * 8 + i % 2;
            s[i] = key >= q->least[i / 2 % 2] && key <= q->position[i / 2 % 2] ? s[i] : -INFINITY;
        }
    }
#pragma unroll
    for (int i = 0; i < 32; i++) largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], s[i]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xFFFFFFFFu, largest[i], 1));
        largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xFFFFFFFFu, largest[i], 2));
        largest[i] = fmaxf(largest[i], q->m[i]);
        base[i] = largest[i] == -INFINITY ? 0.0f : largest[i] * LOG2_E; /* sees nothing so far */
        factor[i] = exp2_near(fmaf(q->m[i], LOG2_E, -base[i]));
        q->m[i] = largest[i];
        q->l[i] *= factor[i];
    }
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
        int row = i / 2 % 2;
        float low = exp2_near(fmaf(s[i], LOG2_E, -base[row])), high = exp2_near(fmaf(s[i + 1], LOG2_E, -base[row]));
        q->l[row] += low + high;
        p[i / 8][i / 2 % 4] = bf16_pack(low, high);
    }
}

/* ---- values ---- */

static __device__ __forceinline__ void page_values(float (&o)[128], uint32_t (&p)[4][4], const float (&factor)[2],
                                                   const unsigned char *values) {
    if (__any_sync(0xFFFFFFFFu, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
        for (int i = 0; i < 128; i++) o[i] *= factor[i / 2 % 2];
    }
    uint64_t v = wgmma_matrix(values, ATTENTION_BLOCK_BYTES, 1024);
#pragma unroll
    for (int i = 0; i < 4; i++) wgmma_hold(p[i]);
    wgmma_hold(o);
    wgmma_fence();
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) wgmma_n256<true>(o, p[i], wgmma_further(v, 16 * 128 * i));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(o);
}

template <int DIM, bool HALF>
static __device__ __forceinline__ void write_tile(const attention_call &c, const prefill_work &w, query_pair *q,
                                                  const float (&o)[128]) {
    uint32_t first = (HALF ? threadIdx.x / WARPGROUP * 256 : 0) + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        q->l[i] += __shfl_xor_sync(0xFFFFFFFFu, q->l[i], 1);
        q->l[i] += __shfl_xor_sync(0xFFFFFFFFu, q->l[i], 2);
        uint32_t index = q->row[i] / w.heads.count;
        if (index >= w.rows) continue;
        float scale = 1.0f / q->l[i];
        size_t row = w.span.row + w.first + index, head = w.heads.begin + q->row[i] % w.heads.count;
        float *y = c.y + (row * c.heads + head) * DIM + first;
#pragma unroll
        for (int k = 0; k < 32; k++)
            *(float2 *)(y + 8 * k) = make_float2(o[4 * k + 2 * i] * scale, o[4 * k + 2 * i + 1] * scale);
    }
}

template <int DIM, bool HALF>
static __device__ __forceinline__ void prefill(const attention_call &c, uint32_t tiles, unsigned char *shared) {
    typedef wgmma_shape<DIM, HALF> shape;
    prefill_work w;
    uint32_t units = c.kv_heads * c.groups, group = wgmma_group();
    w.shared = shared;
    w.heads = attention_unit_heads(c, blockIdx.x % units);
    if (w.heads.count == 0) return;
    find_tile(c, tiles - 1 - blockIdx.x / units, &w); /* the longest first */
    uint32_t first_page = w.least / ATTENTION_PAGE;
    w.tiles = w.last / ATTENTION_PAGE - first_page + 1;
    issue_page<DIM, HALF>(c, w, 0);
    load_queries<DIM, HALF, shape::queries, true>(c, w);
    query_pair q;
    begin_queries(c, w, &q, (HALF ? 0 : group * 64) + threadIdx.x % WARPGROUP / WARP * 16 + threadIdx.x % WARP / 4);
    key_turn turn = {};
    if constexpr (HALF) load_turn(c, &turn);
    /* Pages that every query sees whole. */
    uint32_t whole_begin = attention_first_key(c, w.last), whole_end = w.span.position + w.first + 1;
    float o[128];
#pragma unroll
    for (int i = 0; i < 128; i++) o[i] = 0.0f;
    for (uint32_t i = 0; i < w.tiles; i++) {
        uint32_t page = first_page + i, start = page * ATTENTION_PAGE;
        unsigned char *tile = shared + shape::ring_offset + i % 2 * shape::page_bytes;
        cp_async_wait<0>();
        fence_proxy_async(); /* the page, and at first the queries */
        __syncthreads();     /* everyone is done with the page before */
        issue_page<DIM, HALF>(c, w, i + 1);
        float s[32], factor[2];
        uint32_t p[4][4];
        page_scores<DIM, HALF>(c, turn, page, shared, tile, group, s);
        page_softmax(s, &q, p, factor, start, start >= whole_begin && start + ATTENTION_PAGE <= whole_end);
        page_values(o, p, factor, HALF ? tile + group * shape::part : tile + tile_bytes(DIM));
    }
    write_tile<DIM, HALF>(c, w, &q, o);
}

template <int DIM, bool HALF>
static __global__ void __launch_bounds__(ATTENTION_THREADS, 1) prefill_wgmma_kernel(const attention_call c, uint32_t tiles) {
    DYNAMIC_SHARED(shared);
    grid_wait();
    grid_release();
    if (WGMMA_HERE) prefill<DIM, HALF>(c, tiles, shared_align_1024(shared));
}

/* ---- launching ---- */

/* tiles 0: nothing is launched. */
template <int DIM, bool HALF> static uint32_t launch(const attention_device *d, const attention_call *c, uint32_t tiles) {
    typedef wgmma_shape<DIM, HALF> shape;
    if (shape::shared_bytes > d->shared_bytes_max) return 0;
    LAUNCH((prefill_wgmma_kernel<DIM, HALF>), dim3(tiles * c->kv_heads * c->groups), dim3(ATTENTION_THREADS), shape::shared_bytes,
           d->stream, *c, tiles);
    return shape::queries;
}

static uint32_t choose(const attention_device *d, const attention_call *c, uint32_t tiles) {
    if (c->type != KV_BF16) return 0;
    if (c->half_size) return c->head_dim == 512 && c->pairs == 64 ? launch<512, true>(d, c, tiles) : 0;
    return c->head_dim == 256 ? launch<256, false>(d, c, tiles) : 0;
}

extern "C" uint32_t attention_wgmma_takes(const attention_device *d, const attention_call *c) { return choose(d, c, 0); }
extern "C" bool attention_wgmma_launch(const attention_device *d, const attention_call *c, uint32_t tiles) {
    return choose(d, c, tiles) != 0;
}
