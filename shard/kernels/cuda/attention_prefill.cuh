/* What the two kernels of prefill share: which tile of queries a block takes, its queries, and keys that turn. */
#ifndef SHARD_KERNELS_CUDA_ATTENTION_PREFILL_CUH
#define SHARD_KERNELS_CUDA_ATTENTION_PREFILL_CUH

#include "shard/kernels/cuda/attention_tile.cuh"

typedef struct prefill_work {
    attention_span span;
    attention_heads heads;
    uint32_t first, rows; /* of the span */
    uint32_t least, last; /* keys that any row sees */
    uint32_t tiles;       /* of keys, values */
    unsigned char *shared;
} prefill_work;

/* The index-th tile of the spans. */
static __device__ __forceinline__ void find_tile(const attention_call &c, uint32_t index, prefill_work *w) {
    const attention_span *span = c.lists.spans;
    for (;; span++) {
        uint32_t tiles = (span->count + c.tile_rows - 1) / c.tile_rows;
        if (index < tiles) break;
        index -= tiles;
    }
    w->span = *span;
    w->first = index * c.tile_rows;
    w->rows = w->span.count - w->first < c.tile_rows ? w->span.count - w->first : c.tile_rows;
    w->least = attention_first_key(c, w->span.position + w->first);
    w->last = w->span.position + w->first + w->rows - 1;
}

/* Eight elements of a query, turned if they are of a pair that turns. */
template <int DIM, bool HALF>
static __device__ __forceinline__ uint4 query_chunk(const attention_call &c, const float *q, uint32_t row,
                                                    uint32_t d) {
    float x[8];
    uint32_t pair = d % (DIM / 2);
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) x[i] = q[d + i];
    if (HALF && pair < DIM / 8) {
        const float *cosine = c.cosine + (size_t)row * c.pairs + pair, *sine = c.sine + (size_t)row * c.pairs + pair;
        bool first = d < DIM / 2;
        const float *partner = q + (first ? d + DIM / 2 : pair);
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            float turn = partner[i] * sine[i];
            x[i] = fmaf(x[i], cosine[i], first ? -turn : turn);
        }
    }
    return make_uint4(bf16_pack(x[0], x[1]), bf16_pack(x[2], x[3]), bf16_pack(x[4], x[5]), bf16_pack(x[6], x[7]));
}

/* The tile's queries to the beginning of shared memory. BLOCKS: as tiles of blocks, 64 queries each (attention_tile.cuh). */
template <int DIM, bool HALF, uint32_t QUERIES, bool BLOCKS>
static __device__ __forceinline__ void load_queries(const attention_call &c, const prefill_work &w) {
    constexpr uint32_t chunks = DIM / 8;
    for (uint32_t at = threadIdx.x; at < QUERIES * chunks; at += ATTENTION_THREADS) {
        uint32_t query = at / chunks, chunk = at % chunks, index = query / w.heads.count;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (index < w.rows) {
            uint32_t row = w.span.row + w.first + index, head = w.heads.begin + query % w.heads.count;
            x = query_chunk<DIM, HALF>(c, c.q + ((size_t)row * c.heads + head) * DIM, row, 8 * chunk);
        }
        uint32_t place = BLOCKS ? query / 64 * tile_bytes(DIM) + block_at(query % 64, chunk) : tile_at(query, chunk, 2 * DIM);
        *(uint4 *)(w.shared + place) = x;
    }
}

/* A lane's two queries of the tile, eight apart: what they see, and their sums. */
typedef struct query_pair {
    uint32_t row[2]; /* of the tile */
    uint32_t least[2], position[2];
    float m[2], l[2];
} query_pair;

static __device__ __forceinline__ void begin_queries(const attention_call &c, const prefill_work &w, query_pair *q,
                                                     uint32_t first) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        q->row[i] = first + 8 * i;
        uint32_t index = q->row[i] / w.heads.count;
        if (index >= w.rows) index = w.rows - 1; /* there is no such query: what the last one sees is harmless */
        q->position[i] = w.span.position + w.first + index;
        q->least[i] = attention_first_key(c, q->position[i]);
        q->m[i] = -INFINITY;
        q->l[i] = 0.0f;
    }
}

/* ---- keys that turn ---- */

/* A thread turns two neighbouring pairs of keys warp, warp + 8, …: it begins at the angle of its first key
 * and goes on by that of eight positions, which after eight steps is still nearer to the truth than a bf16
 * can tell. */
typedef struct key_turn {
    float2 first_cosine, first_sine, step_cosine, step_sine, norm, partner_norm;
} key_turn;

static __device__ __forceinline__ float2 load2(const float *p) { return make_float2(p[0], p[1]); }

static __device__ __forceinline__ void load_turn(const attention_call &c, key_turn *t) {
    uint32_t pair = threadIdx.x % WARP * 2;
    size_t at = (size_t)(threadIdx.x / WARP) * c.pairs + pair, step = (size_t)8 * c.pairs + pair;
    t->first_cosine = load2(c.offset_cosine + at);
    t->first_sine = load2(c.offset_sine + at);
    t->step_cosine = load2(c.offset_cosine + step);
    t->step_sine = load2(c.offset_sine + step);
    t->norm = load2(c.k_norm + pair);
    t->partner_norm = load2(c.k_norm + c.head_dim / 2 + pair);
}

/* (cosine, sine) further by (c, s). */
static __device__ __forceinline__ void turn_on(float *cosine, float *sine, float c, float s) {
    float x = fmaf(*cosine, c, -(*sine * s));
    *sine = fmaf(*sine, c, *cosine * s);
    *cosine = x;
}

/* BLOCKS: tile and turned are laid out by block_at, and else by tile_at. */
template <int DIM, bool BLOCKS>
static __device__ __forceinline__ void turn_keys(const attention_call &c, const key_turn &t, uint32_t page,
                                                 const unsigned char *tile, unsigned char *turned) {
    constexpr uint32_t pairs = DIM / 8;
    uint32_t word = threadIdx.x % WARP, within = word % 4 * 4, chunk = word / 4;
    float2 cosine = load2(c.page_cosine + (size_t)page * c.pairs + 2 * word);
    float2 sine = load2(c.page_sine + (size_t)page * c.pairs + 2 * word);
    turn_on(&cosine.x, &sine.x, t.first_cosine.x, t.first_sine.x);
    turn_on(&cosine.y, &sine.y, t.first_cosine.y, t.first_sine.y);
    for (uint32_t key = threadIdx.x / WARP; key < ATTENTION_PAGE; key += ATTENTION_THREADS / WARP) {
        uint32_t first = BLOCKS ? block_at(key, chunk) : tile_at(key, chunk, 2 * DIM);
        uint32_t second = BLOCKS ? block_at(key, chunk + DIM / 16) : tile_at(key, chunk + DIM / 16, 2 * DIM);
        uint32_t u0 = *(const uint32_t *)(tile + first + within);
        uint32_t u1 = *(const uint32_t *)(tile + second + within);
        float ax = bf16_low(u0) * t.norm.x, ay = bf16_high(u0) * t.norm.y;
        float bx = bf16_low(u1) * t.partner_norm.x, by = bf16_high(u1) * t.partner_norm.y;
        first = BLOCKS ? block_at(key, chunk) : tile_at(key, chunk, 4 * pairs);
        second = BLOCKS ? block_at(key, pairs / 8 + chunk) : tile_at(key, pairs / 8 + chunk, 4 * pairs);
        *(uint32_t *)(turned + first + within) =
            bf16_pack(fmaf(ax, cosine.x, -(bx * sine.x)), fmaf(ay, cosine.y, -(by * sine.y)));
        *(uint32_t *)(turned + second + within) =
            bf16_pack(fmaf(bx, cosine.x, ax * sine.x), fmaf(by, cosine.y, ay * sine.y));
        turn_on(&cosine.x, &sine.x, t.step_cosine.x, t.step_sine.x);
        turn_on(&cosine.y, &sine.y, t.step_cosine.y, t.step_sine.y);
    }
}

#endif
