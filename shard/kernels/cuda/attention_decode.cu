/* Attention of single rows on tensor cores. A block takes one unit of one item: a KV head's query heads,
 * eight at most, over the pages of a split. The left operand of every product is 16 rows: the high halves of
 * eight heads and, below them, their low halves (bf16_split), so that queries and weights count for 16 bits
 * and only the cache is as rounded as it is stored.
 *
 * Eight warps: for scores each has eight keys and all dimensions, for values an eighth of the dimensions and
 * all keys, and in between each has the softmax of one head. Tiles of 64 rows come through a ring of cp.async
 * copies.
 *
 * Half-size pages: queries are turned once a page by the angle from their position to its start, keys as they
 * are read by their offset in the page. A pair's two dimensions lie in the same lane's fragments, so keys
 * turn in registers, and each lane has the same keys and pairs on every page: their angles stay in registers
 * too. Turned keys are split like queries. */
#include "shard/kernels/cuda/attention_tile.cuh"

enum { SCORE_STRIDE = 72 }; /* floats; rows of scores begin 8 banks apart */

/* Sizes of an instance. */
template <int DIM, bool HALF, bool BYTES, int RING> struct decode_shape {
    static constexpr int steps = DIM / 16; /* of the summed dimension of scores */
    static constexpr int pairs = HALF ? DIM / 8 : 0;
    static constexpr int turned = pairs / 16;   /* steps that turn, in each half */
    static constexpr int columns = DIM / 8 / 8; /* of eight values, of a warp */
    static constexpr uint32_t raw = tile_raw_bytes(DIM, BYTES);
    static constexpr uint32_t tile_offset = RING * raw; /* BYTES: the widened tile */
    static constexpr uint32_t scores_offset = tile_offset + (BYTES ? tile_bytes(DIM) : 0);
    static constexpr uint32_t weights_offset = scores_offset + 8 * SCORE_STRIDE * sizeof(float);
    static constexpr uint32_t turned_offset = weights_offset + 16 * 64 * 2;
    static constexpr uint32_t norm_offset = turned_offset + 16 * 2 * pairs * 2;
    static constexpr uint32_t stats_offset = norm_offset + 2 * pairs * sizeof(float);
    static constexpr uint32_t shared_bytes = stats_offset + 2 * ATTENTION_GROUP * sizeof(float);
};

/* What a block has of its unit. */
typedef struct decode_work {
    attention_item item;
    attention_heads heads;
    uint32_t least; /* the first key that the row sees */
    uint32_t tiles;
    uint32_t ahead; /* page of the next tile to be copied */
    unsigned char *shared;
} decode_work;

template <bool HALF> static __device__ __forceinline__ uint32_t page_of_tile(const decode_work &w, uint32_t tile) {
    return w.item.page + (HALF ? tile : tile / 2);
}

template <int DIM, bool HALF, bool BYTES, int RING>
static __device__ __forceinline__ void issue(const attention_call &c, decode_work &w, uint32_t tile) {
    typedef decode_shape<DIM, HALF, BYTES, RING> shape;
    if (tile < w.tiles) {
        uint32_t start = page_of_tile<HALF>(w, tile) * ATTENTION_PAGE, begin = w.least > start ? w.least - start : 0;
        const unsigned char *rows = attention_page(c, w.ahead, w.heads.kv_head);
        if (!HALF && tile % 2) rows += c.rows_bytes;
        tile_issue<DIM, BYTES>(w.shared + tile % RING * shape::raw, rows, begin, w.item.position + 1 - start);
        if (tile + 1 < w.tiles) w.ahead = attention_page_id(c, w.item.slot, page_of_tile<HALF>(w, tile + 1));
    }
    cp_async_commit();
}

/* Left fragments of the prepared query. Of steps that turn they are not used. */
template <int DIM>
static __device__ __forceinline__ void load_query(const attention_call &c, const decode_work &w,
                                                  uint32_t (*left)[4]) {
    uint32_t lane = threadIdx.x % WARP, head = lane / 4;
    const float *q = c.q + ((size_t)w.item.row * c.heads + w.heads.begin + head) * DIM + lane % 4 * 2;
    bool there = head < w.heads.count;
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        float2 a = make_float2(0.0f, 0.0f), b = a;
        if (there) {
            a = *(const float2 *)(q + 16 * i);
            b = *(const float2 *)(q + 16 * i + 8);
        }
        bf16_split(a.x, a.y, &left[i][0], &left[i][1]);
        bf16_split(b.x, b.y, &left[i][2], &left[i][3]);
    }
}

/* ---- half-size: what turns ---- */

/* Of a lane: key 8·warp + lane/4, and pairs 16·i + those of elements of a right fragment. */
template <int TURNED> struct key_angles { float cosine[TURNED ? TURNED : 1][4], sine[TURNED ? TURNED : 1][4]; };

template <int TURNED>
static __device__ __forceinline__ void load_angles(const attention_call &c, key_angles<TURNED> &a) {
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    size_t at = (size_t)(8 * warp + lane / 4) * c.pairs + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < TURNED; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            a.cosine[i][e] = c.offset_cosine[at + 16 * i + e / 2 * 8 + e % 2];
            a.sine[i][e] = c.offset_sine[at + 16 * i + e / 2 * 8 + e % 2];
        }
}

/* Two pairs: words of dimensions (d, d + 1) and of their partners, keys k = rope(u · norm), split. */
static __device__ __forceinline__ void turn_keys(uint32_t u0, uint32_t u1, float2 norm0, float2 norm1,
                                                 const float *cosine, const float *sine, uint32_t *high0,
                                                 uint32_t *low0, uint32_t *high1, uint32_t *low1) {
    float ax = bf16_low(u0) * norm0.x, ay = bf16_high(u0) * norm0.y;
    float bx = bf16_low(u1) * norm1.x, by = bf16_high(u1) * norm1.y;
    bf16_split(fmaf(ax, cosine[0], -(bx * sine[0])), fmaf(ay, cosine[1], -(by * sine[1])), high0, low0);
    bf16_split(fmaf(bx, cosine[0], ax * sine[0]), fmaf(by, cosine[1], ay * sine[1]), high1, low1);
}

/* A thread's part of the turning queries: one pair of heads head, head + 256 / pairs, … */
template <int PAIRS> struct query_pairs {
    float low[PAIRS ? PAIRS * 8 / ATTENTION_THREADS : 1], high[PAIRS ? PAIRS * 8 / ATTENTION_THREADS : 1];
    float cosine, sine;           /* of the row's offset in its page */
    float page_cosine, page_sine; /* of the pages between the one that comes next and the row's */
};

static __device__ __forceinline__ void load_page_angle(const attention_call &c, const decode_work &w, uint32_t page,
                                                       float *cosine, float *sine) {
    uint32_t apart = w.item.position / ATTENTION_PAGE - page;
    size_t at = (size_t)apart * c.pairs + threadIdx.x % c.pairs;
    *cosine = c.page_cosine[at];
    *sine = c.page_sine[at];
}

template <int DIM, int PAIRS>
static __device__ __forceinline__ void load_turning(const attention_call &c, const decode_work &w,
                                                    query_pairs<PAIRS> &p) {
    uint32_t pair = threadIdx.x % PAIRS, head = threadIdx.x / PAIRS;
    const float *q = c.q + ((size_t)w.item.row * c.heads + w.heads.begin) * DIM + pair;
#pragma unroll
    for (uint32_t i = 0; i < PAIRS * 8 / ATTENTION_THREADS; i++, head += ATTENTION_THREADS / PAIRS) {
        bool there = head < w.heads.count;
        p.low[i] = there ? q[(size_t)head * DIM] : 0.0f;
        p.high[i] = there ? q[(size_t)head * DIM + DIM / 2] : 0.0f;
    }
    size_t at = (size_t)(w.item.position % ATTENTION_PAGE) * PAIRS + pair;
    p.cosine = c.offset_cosine[at];
    p.sine = c.offset_sine[at];
    load_page_angle(c, w, w.item.page, &p.page_cosine, &p.page_sine);
}

/* [16, 2·pairs] of left operand: the pairs' first dimensions, then their partners. */
template <int PAIRS>
static __device__ __forceinline__ void turn_query(unsigned char *turned, const query_pairs<PAIRS> &p) {
    constexpr uint32_t row_bytes = 2 * PAIRS * 2;
    float cosine = fmaf(p.page_cosine, p.cosine, -(p.page_sine * p.sine));
    float sine = fmaf(p.page_sine, p.cosine, p.page_cosine * p.sine);
    uint32_t pair = threadIdx.x % PAIRS, head = threadIdx.x / PAIRS, within = pair % 8 * 2;
#pragma unroll
    for (uint32_t i = 0; i < PAIRS * 8 / ATTENTION_THREADS; i++, head += ATTENTION_THREADS / PAIRS) {
        float x = fmaf(p.low[i], cosine, -(p.high[i] * sine)), y = fmaf(p.high[i], cosine, p.low[i] * sine);
        uint32_t high, low;
        bf16_split(x, y, &high, &low);
        *(uint16_t *)(turned + tile_at(head, pair / 8, row_bytes) + within) = (uint16_t)(high & 0xFFFFu);
        *(uint16_t *)(turned + tile_at(head, (PAIRS + pair) / 8, row_bytes) + within) = (uint16_t)(high >> 16);
        *(uint16_t *)(turned + tile_at(head + 8, pair / 8, row_bytes) + within) = (uint16_t)(low & 0xFFFFu);
        *(uint16_t *)(turned + tile_at(head + 8, (PAIRS + pair) / 8, row_bytes) + within) = (uint16_t)(low >> 16);
    }
}

/* ---- a page ---- */

/* Scores of the warp's eight keys with eight heads. sum: four sums that the steps take in turn. */
template <int DIM, bool HALF, bool BYTES, int RING>
static __device__ __forceinline__ void
page_scores(const decode_work &w, const unsigned char *tile, const uint32_t (*left)[4],
            const key_angles<decode_shape<DIM, HALF, BYTES, RING>::turned> &angles) {
    typedef decode_shape<DIM, HALF, BYTES, RING> shape;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float sum[4][4] = {{0.0f}};
    uint32_t right[4];
    /* Chunks 4 … 7 of each 128 bytes lie where 0 … 3 do, with one bit of the exchange turned. */
    const unsigned char *near = tile + tile_right(8 * warp, 0, 2 * DIM),
                        *far = tile + tile_right(8 * warp, 4, 2 * DIM);
#pragma unroll
    for (int i = 0; i < shape::steps; i += 2) {
        if (i % (shape::steps / 2) < shape::turned) continue;
        ldmatrix_x4(right, (i % 4 ? far : near) + i / 4 * 128);
        mma_bf16(sum[i % 4], left[i], right);
        mma_bf16(sum[i % 4 + 1], left[i + 1], right + 2);
    }
    const float *norm = (const float *)(w.shared + shape::norm_offset) + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < shape::turned; i++) {
        /* matrices 0, 1: 16 first dimensions of the pairs; 2, 3: their partners */
        ldmatrix_x4(right,
                    tile + tile_at(8 * warp + lane % 8, 2 * i + lane / 8 % 2 + lane / 16 * (DIM / 16), 2 * DIM));
        uint32_t high0[2], low0[2], high1[2], low1[2], first[4], partner[4];
#pragma unroll
        for (int e = 0; e < 2; e++)
            turn_keys(right[e], right[2 + e], *(const float2 *)(norm + 16 * i + 8 * e),
                      *(const float2 *)(norm + shape::pairs + 16 * i + 8 * e), &angles.cosine[i][2 * e],
                      &angles.sine[i][2 * e], &high0[e], &low0[e], &high1[e], &low1[e]);
        const unsigned char *turned = w.shared + shape::turned_offset;
        ldmatrix_x4(first, turned + tile_left(0, 2 * i, 4 * shape::pairs));
        ldmatrix_x4(partner, turned + tile_left(0, 2 * (shape::turned + i), 4 * shape::pairs));
        mma_bf16(sum[0], first, high0);
        mma_bf16(sum[1], first, low0);
        mma_bf16(sum[2], partner, high1);
        mma_bf16(sum[3], partner, low1);
    }
    float *scores = (float *)(w.shared + shape::scores_offset) + lane / 4 * SCORE_STRIDE + 8 * warp + lane % 4 * 2;
    float x[4];
#pragma unroll
    for (int e = 0; e < 4; e++) x[e] = (sum[0][e] + sum[1][e]) + (sum[2][e] + sum[3][e]);
    *(float2 *)scores = make_float2(x[0] + x[2], x[1] + x[3]);
}

/* The warp's head: scores become weights, in two halves; m and l, of which each lane has a part, move on.
 * Scales of keys and values only with BYTES. */
template <bool BYTES>
static __device__ __forceinline__ void
page_softmax(const float *scores, unsigned char *weights, float *rescale, uint32_t start, uint32_t least,
             uint32_t position, const float *key_scales, const float *value_scales, float *m, float *l) {
    uint32_t head = threadIdx.x / WARP, lane = threadIdx.x % WARP, key = start + 2 * lane;
    float2 s = *(const float2 *)(scores + head * SCORE_STRIDE + 2 * lane);
    bool see0 = key >= least && key <= position, see1 = key + 1 >= least && key + 1 <= position;
    if (BYTES) s.x *= key_scales[2 * lane], s.y *= key_scales[2 * lane + 1];
    s.x = see0 ? s.x : -INFINITY;
    s.y = see1 ? s.y : -INFINITY;
    float largest = fmaxf(*m, warp_max(fmaxf(s.x, s.y)));
    float factor = ref_softmax_exp(*m - largest);
    float p0 = ref_softmax_exp(s.x - largest), p1 = ref_softmax_exp(s.y - largest);
    *l = fmaf(*l, factor, p0 + p1);
    *m = largest;
    if (BYTES) {
        p0 = see0 ? p0 * value_scales[2 * lane] : 0.0f;
        p1 = see1 ? p1 * value_scales[2 * lane + 1] : 0.0f;
    }
    uint32_t high, low;
    bf16_split(p0, p1, &high, &low);
    *(uint32_t *)(weights + tile_at(head, lane / 4, 128) + lane % 4 * 4) = high;
    *(uint32_t *)(weights + tile_at(head + 8, lane / 4, 128) + lane % 4 * 4) = low;
    if (lane == 0) rescale[head] = factor;
}

/* o of the warp's dimensions: rows 0 … 7 from the weights' high halves, 8 … 15 from their low ones. */
template <int DIM>
static __device__ __forceinline__ void page_values(const unsigned char *tile, const unsigned char *weights,
                                                   const float *rescale, float (*o)[4]) {
    constexpr int columns = DIM / 64;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float factor = rescale[lane / 4];
#pragma unroll
    for (int i = 0; i < columns; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) o[i][e] *= factor;
#pragma unroll
    for (int step = 0; step < 4; step++) {
        uint32_t left[4], right[4];
        ldmatrix_x4(left, weights + tile_left(0, 2 * step, 128));
#pragma unroll
        for (int i = 0; i < columns; i += 2) {
            ldmatrix_x4_trans(right, tile + tile_right_trans(16 * step, warp * columns + i, 2 * DIM));
            mma_bf16(o[i], left, right);
            mma_bf16(o[i + 1], left, right + 2);
        }
    }
}

/* ---- an item ---- */

template <int DIM>
static __device__ __forceinline__ void write_item(const attention_call &c, const decode_work &w, uint32_t slot,
                                                  float *stats, float m, float l, float (*o)[4]) {
    constexpr int columns = DIM / 64;
    uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, head = lane / 4;
    float *partial = attention_partial(c, slot);
    bool whole = w.item.splits == 1;
    l = warp_sum(l);
    if (lane == 0) {
        stats[warp] = l;
        if (!whole && warp < w.heads.count) {
            partial[(size_t)c.group * DIM + warp] = m;
            partial[(size_t)c.group * DIM + c.group + warp] = l;
        }
    }
    __syncthreads();
    if (head >= w.heads.count) return;
    float scale = whole ? 1.0f / stats[head] : 1.0f;
    float *to = whole ? c.y + ((size_t)w.item.row * c.heads + w.heads.begin) * DIM : partial;
    to += (size_t)head * DIM + warp * columns * 8 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < columns; i++)
        *(float2 *)(to + 8 * i) = make_float2((o[i][0] + o[i][2]) * scale, (o[i][1] + o[i][3]) * scale);
}

template <int DIM, bool HALF, bool BYTES, int RING>
static __device__ __forceinline__ void
run_item(const attention_call &c, decode_work &w, uint32_t slot,
         const key_angles<decode_shape<DIM, HALF, BYTES, RING>::turned> &angles) {
    typedef decode_shape<DIM, HALF, BYTES, RING> shape;
    float *scores = (float *)(w.shared + shape::scores_offset), *rescale = (float *)(w.shared + shape::stats_offset);
    unsigned char *weights = w.shared + shape::weights_offset, *wide = w.shared + shape::tile_offset;
    w.least = attention_first_key(c, w.item.position);
    w.tiles = w.item.pages * (HALF ? 1 : 2);
    w.ahead = attention_page_id(c, w.item.slot, w.item.page);
#pragma unroll
    for (int i = 0; i < RING - 1; i++) issue<DIM, HALF, BYTES, RING>(c, w, i);
    uint32_t left[shape::steps][4];
    load_query<DIM>(c, w, left);
    query_pairs<shape::pairs> turning;
    if constexpr (HALF) {
        load_turning<DIM, shape::pairs>(c, w, turning);
        turn_query<shape::pairs>(w.shared + shape::turned_offset, turning);
    }
    float o[shape::columns][4] = {{0.0f}}, m = -INFINITY, l = 0.0f;
    uint32_t tile = 0;
    for (uint32_t i = 0; i < w.item.pages; i++) {
        uint32_t start = (w.item.page + i) * ATTENTION_PAGE;
        const unsigned char *keys = w.shared + tile % RING * shape::raw, *values = keys;
        cp_async_wait<RING - 2>();
        __syncthreads(); /* the tile is there, and everyone is done with the one before it */
        issue<DIM, HALF, BYTES, RING>(c, w, tile + RING - 1);
        if constexpr (HALF)
            if (i + 1 < w.item.pages)
                load_page_angle(c, w, w.item.page + i + 1, &turning.page_cosine, &turning.page_sine);
        if constexpr (BYTES) {
            tile_expand<DIM>(wide, keys);
            __syncthreads();
        }
        page_scores<DIM, HALF, BYTES, RING>(w, BYTES ? wide : keys, left, angles);
        if (!HALF) {
            tile++;
            values = w.shared + tile % RING * shape::raw;
            cp_async_wait<RING - 2>();
        }
        __syncthreads();
        page_softmax<BYTES>(scores, weights, rescale, start, w.least, w.item.position, tile_scales(keys, DIM),
                            tile_scales(values, DIM), &m, &l);
        __syncthreads();
        if (!HALF) {
            issue<DIM, HALF, BYTES, RING>(c, w, tile + RING - 1);
            if constexpr (BYTES) {
                tile_expand<DIM>(wide, values);
                __syncthreads();
            }
        }
        page_values<DIM>(BYTES ? wide : values, weights, rescale, o);
        if constexpr (HALF)
            if (i + 1 < w.item.pages) turn_query<shape::pairs>(w.shared + shape::turned_offset, turning);
        tile++;
    }
    cp_async_wait<0>();
    write_item<DIM>(c, w, slot, rescale + ATTENTION_GROUP, m, l, o);
}

template <int DIM, bool HALF, bool BYTES, int RING, int BLOCKS>
static __global__ void __launch_bounds__(ATTENTION_THREADS, BLOCKS) decode_kernel(const attention_call c) {
    typedef decode_shape<DIM, HALF, BYTES, RING> shape;
    DYNAMIC_SHARED(shared);
    __shared__ attention_merge merge;
    grid_wait();
    grid_release();
    decode_work w;
    w.shared = shared;
    key_angles<shape::turned> angles;
    if constexpr (HALF) {
        load_angles<shape::turned>(c, angles);
        float *norm = (float *)(shared + shape::norm_offset);
        uint32_t i = threadIdx.x;
        if (i < 2 * shape::pairs) norm[i] = c.k_norm[i < shape::pairs ? i : DIM / 2 - shape::pairs + i];
    }
    uint32_t begin, end, units = c.kv_heads * c.groups;
    attention_launch_items(c, &begin, &end);
    for (uint32_t work = blockIdx.x; work < (end - begin) * units; work += gridDim.x) {
        w.item = c.lists.items[begin + work / units];
        w.heads = attention_unit_heads(c, work % units);
        if (w.heads.count == 0) continue;
        run_item<DIM, HALF, BYTES, RING>(c, w, work, angles);
        if (w.item.splits > 1) attention_merge_item(c, &merge, w.item, begin, work % units, w.heads);
        __syncthreads(); /* shared memory is free for the next item */
    }
    attention_fill(c);
}

/* ---- launching ---- */

template <int DIM, bool HALF, bool BYTES, int RING, int BLOCKS>
static bool launch(const attention_device *d, const attention_call *c, bool run) {
    size_t bytes = decode_shape<DIM, HALF, BYTES, RING>::shared_bytes;
    if (bytes + sizeof(attention_merge) > d->shared_bytes_max) return false;
    if (run) {
        dim3 grid(BLOCKS * d->multiprocessors), block(ATTENTION_THREADS);
        LAUNCH((decode_kernel<DIM, HALF, BYTES, RING, BLOCKS>), grid, block, bytes, d->stream, *c);
    }
    return true;
}

/* The longest ring that the device has room for. */
template <int DIM, bool HALF, bool BYTES>
static bool launch_wide(const attention_device *d, const attention_call *c, bool run) {
    return launch<DIM, HALF, BYTES, 3, 1>(d, c, run) || launch<DIM, HALF, BYTES, 2, 1>(d, c, run);
}

static bool choose(const attention_device *d, const attention_call *c, bool run) {
    bool bytes = c->type == KV_Q8;
    if (c->type == KV_F32) return false;
    if (c->half_size) {
        if (c->head_dim != 512 || c->pairs != 64) return false;
        return bytes ? launch_wide<512, true, true>(d, c, run) : launch_wide<512, true, false>(d, c, run);
    }
    if (c->head_dim == 512)
        return bytes ? launch_wide<512, false, true>(d, c, run) : launch_wide<512, false, false>(d, c, run);
    if (c->head_dim == 256)
        return bytes ? launch<256, false, true, 3, 2>(d, c, run) : launch<256, false, false, 3, 2>(d, c, run);
    if (c->head_dim == 128)
        return bytes ? launch<128, false, true, 3, 2>(d, c, run) : launch<128, false, false, 3, 2>(d, c, run);
    return false;
}

extern "C" bool attention_decode_takes(const attention_device *d, const attention_call *c) {
    return choose(d, c, false);
}
extern "C" bool attention_decode_launch(const attention_device *d, const attention_call *c) {
    return choose(d, c, true);
}
