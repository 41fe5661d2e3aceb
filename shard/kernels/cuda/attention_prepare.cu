/* What a step adds to the cache, and its queries made ready: half a warp for a row's head. Operation by operation that of
 * kernels/cpu (sums in 16 lanes, docs/numerics.md), so that from the same input the cache has the same bits. */
#include "shard/kernels/cuda/attention_page.cuh"

enum { PREPARE_THREADS = 128 };

/* The row of the cache that a row's key (side 0) or value goes to: 64 rows begin at the result, of which it is *index. */
static __device__ __forceinline__ unsigned char *cached_rows(const attention_call &c, uint32_t row, uint32_t kv_head,
                                                             uint32_t side, uint32_t *index) {
    uint32_t position = c.rows.position[row], page = attention_page_id(c, c.rows.slot[row], position / ATTENTION_PAGE);
    *index = position % ATTENTION_PAGE;
    return attention_page(c, page, kv_head) + side * c.rows_bytes;
}

/* What a row is multiplied by to become 8 bits, from its largest magnitude; *scale is what it is divided by again. */
static __device__ __forceinline__ float q8_inverse(float largest, float *scale) {
    if (largest < QUANT_LEAST) largest = 0.0f;
    *scale = largest / 127.0f;
    return largest > 0.0f ? 127.0f / largest : 0.0f;
}
static __device__ __forceinline__ int8_t q8_of(float x, float inverse) {
    float scaled = x * inverse;
    return fabsf(scaled) <= 127.5f ? (int8_t)rintf(scaled) : (int8_t)0;
}

/* x = rms(x) · w in place; each lane writes the elements of the pairs (i, i + half) that are its own in rotate. */
static __device__ __forceinline__ void norm_head(float *x, const float *w, float eps, uint32_t dim, uint32_t lane, bool there) {
    float sum = 0.0f;
    if (there)
        for (uint32_t i = lane; i < dim; i += LANES) sum = fmaf(x[i], x[i], sum);
    float factor = 1.0f / sqrtf(lanes_sum<LANES>(sum) / (float)dim + eps);
    if (there)
        for (uint32_t i = lane; i < dim; i += LANES) x[i] = w ? x[i] * factor * w[i] : x[i] * factor;
    __syncwarp();
}

static __device__ __forceinline__ void rotate_head(const attention_call &c, float *x, uint32_t row, uint32_t lane) {
    uint32_t half = c.head_dim / 2;
    const float *cosine = c.cosine + (size_t)row * c.pairs, *sine = c.sine + (size_t)row * c.pairs;
    for (uint32_t i = lane; i < c.pairs; i += LANES) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static __device__ __forceinline__ void prepare_query(const attention_call &c, uint32_t row, uint32_t head, uint32_t lane,
                                                     bool there) {
    uint32_t dim = c.head_dim, half = dim / 2;
    float *q = c.q + ((size_t)row * c.heads + head) * dim;
    norm_head(q, c.q_norm, c.eps, dim, lane, there);
    if (!there) return;
    if (!c.half_size) {
        rotate_head(c, q, row, lane);
        return;
    }
    /* k_norm belongs to the key; where nothing rotates it may as well scale the query. */
    for (uint32_t i = lane; i < half; i += LANES) {
        if (i < c.pairs) continue;
        q[i] *= c.k_norm[i];
        q[i + half] *= c.k_norm[i + half];
    }
}

/* Row `index` of the 64 at `rows`, rounded to the cache's type. */
static __device__ __forceinline__ void store_row(const attention_call &c, unsigned char *rows, uint32_t index, const float *x,
                                                 uint32_t lane, bool there) {
    uint32_t dim = c.head_dim;
    size_t at = (size_t)index * dim;
    if (c.type == KV_Q8) {
        float largest = 0.0f;
        if (there)
            for (uint32_t i = lane; i < dim; i += LANES) largest = fmaxf(largest, fabsf(x[i]));
        float scale, inverse = q8_inverse(lanes_max<LANES>(largest), &scale);
        if (!there) return;
        int8_t *y = (int8_t *)rows + at;
        for (uint32_t i = lane; i < dim; i += LANES) y[i] = q8_of(x[i], inverse);
        if (lane == 0) ((float *)(rows + (size_t)ATTENTION_PAGE * dim))[index] = scale;
        return;
    }
    if (!there) return;
    if (c.type == KV_F32)
        for (uint32_t i = lane; i < dim; i += LANES) ((float *)rows)[at + i] = x[i];
    else
        for (uint32_t i = lane; i < dim; i += LANES) ((uint16_t *)rows)[at + i] = bf16_of(x[i]);
}

/* side 0: the key, or u; 1: the value. */
static __device__ __forceinline__ void prepare_cached(const attention_call &c, uint32_t row, uint32_t kv_head, uint32_t side,
                                                      uint32_t lane, bool there) {
    uint32_t dim = c.head_dim;
    bool key = side == 0 && !c.half_size;
    float *x = (side == 0 ? c.k : c.v) + ((size_t)row * c.kv_heads + kv_head) * dim;
    norm_head(x, key ? c.k_norm : NULL, c.eps, dim, lane, there);
    if (key && there) rotate_head(c, x, row, lane);
    __syncwarp();
    uint32_t index = 0;
    unsigned char *rows = there ? cached_rows(c, row, kv_head, side, &index) : NULL;
    store_row(c, rows, index, x, lane, there);
}

/* ---- the same with the row in registers, for the widths that models have: in decode this is latency alone ---- */

/* What a lane has of a row: elements lane + 16 · j; those of a pair are j and j + DIM / 32. */
template <int DIM> struct prepare_row {
    float x[DIM / LANES];
    float cosine[DIM / 2 / LANES], sine[DIM / 2 / LANES]; /* 1 and 0 of pairs that do not turn */
};

template <int DIM>
static __device__ __forceinline__ void load_row(const attention_call &c, prepare_row<DIM> &r, const float *x, uint32_t row,
                                                uint32_t lane, bool there, bool turns) {
#pragma unroll
    for (uint32_t j = 0; j < DIM / LANES; j++) r.x[j] = there ? x[lane + LANES * j] : 0.0f;
    const float *cosine = c.cosine + (size_t)row * c.pairs + lane, *sine = c.sine + (size_t)row * c.pairs + lane;
#pragma unroll
    for (uint32_t j = 0; j < DIM / 2 / LANES; j++) {
        bool is_pair = there && turns && lane + LANES * j < c.pairs;
        r.cosine[j] = is_pair ? cosine[LANES * j] : 1.0f;
        r.sine[j] = is_pair ? sine[LANES * j] : 0.0f;
    }
}

/* x = rms(x) · w. */
template <int DIM>
static __device__ __forceinline__ void norm_row(prepare_row<DIM> &r, const float *w, float eps, uint32_t lane) {
    float sum = 0.0f, scale[DIM / LANES];
#pragma unroll
    for (uint32_t j = 0; j < DIM / LANES; j++) scale[j] = w ? w[lane + LANES * j] : 1.0f;
#pragma unroll
    for (uint32_t j = 0; j < DIM / LANES; j++) sum = fmaf(r.x[j], r.x[j], sum);
    float factor = 1.0f / sqrtf(lanes_sum<LANES>(sum) / (float)DIM + eps);
#pragma unroll
    for (uint32_t j = 0; j < DIM / LANES; j++) r.x[j] = r.x[j] * factor * scale[j];
}

template <int DIM> static __device__ __forceinline__ void rotate_row(const attention_call &c, prepare_row<DIM> &r, uint32_t lane) {
    constexpr uint32_t half = DIM / 2 / LANES;
#pragma unroll
    for (uint32_t j = 0; j < half; j++) {
        if (lane + LANES * j >= c.pairs) continue;
        float a = r.x[j], b = r.x[j + half];
        r.x[j] = a * r.cosine[j] - b * r.sine[j];
        r.x[j + half] = b * r.cosine[j] + a * r.sine[j];
    }
}

template <int DIM>
static __device__ __forceinline__ void prepare_query_row(const attention_call &c, uint32_t row, uint32_t head, uint32_t lane,
                                                         bool there) {
    constexpr uint32_t half = DIM / 2 / LANES;
    float *q = c.q + ((size_t)row * c.heads + head) * DIM;
    prepare_row<DIM> r;
    load_row<DIM>(c, r, q, row, lane, there, !c.half_size);
    norm_row<DIM>(r, c.q_norm, c.eps, lane);
    if (!c.half_size) {
        rotate_row<DIM>(c, r, lane);
    } else {
#pragma unroll
        for (uint32_t j = 0; j < half; j++) {
            uint32_t i = lane + LANES * j;
            if (i < c.pairs) continue;
            r.x[j] *= c.k_norm[i];
            r.x[j + half] *= c.k_norm[i + DIM / 2];
        }
    }
    if (!there) return;
#pragma unroll
    for (uint32_t j = 0; j < DIM / LANES; j++) q[lane + LANES * j] = r.x[j];
}

template <int DIM>
static __device__ __forceinline__ void store_cached_row(const attention_call &c, unsigned char *rows, uint32_t index,
                                                        const prepare_row<DIM> &r, uint32_t lane, bool there) {
    size_t at = (size_t)index * DIM + lane;
    if (c.type == KV_Q8) {
        float largest = 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < DIM / LANES; j++) largest = fmaxf(largest, fabsf(r.x[j]));
        float scale, inverse = q8_inverse(lanes_max<LANES>(largest), &scale);
        if (!there) return;
#pragma unroll
        for (uint32_t j = 0; j < DIM / LANES; j++) ((int8_t *)rows)[at + LANES * j] = q8_of(r.x[j], inverse);
        if (lane == 0) ((float *)(rows + (size_t)ATTENTION_PAGE * DIM))[index] = scale;
        return;
    }
    if (!there) return;
#pragma unroll
    for (uint32_t j = 0; j < DIM / LANES; j++) {
        if (c.type == KV_F32) ((float *)rows)[at + LANES * j] = r.x[j];
        else ((uint16_t *)rows)[at + LANES * j] = bf16_of(r.x[j]);
    }
}

template <int DIM>
static __device__ __forceinline__ void prepare_cached_row(const attention_call &c, uint32_t row, uint32_t kv_head, uint32_t side,
                                                          uint32_t lane, bool there) {
    bool key = side == 0 && !c.half_size;
    const float *x = (side == 0 ? c.k : c.v) + ((size_t)row * c.kv_heads + kv_head) * DIM;
    prepare_row<DIM> r;
    uint32_t index = 0;
    unsigned char *rows = there ? cached_rows(c, row, kv_head, side, &index) : NULL;
    load_row<DIM>(c, r, x, row, lane, there, key);
    norm_row<DIM>(r, key ? c.k_norm : NULL, c.eps, lane);
    if (key) rotate_row<DIM>(c, r, lane);
    store_cached_row<DIM>(c, rows, index, r, lane, there);
}

/* A warp has two units of the same kind only by chance: both halves go through both kinds together, because warp functions
 * are for all lanes. DIM 0: any width. */
template <int DIM> static __global__ void __launch_bounds__(PREPARE_THREADS) prepare_kernel(const attention_call c) {
    grid_wait();
    grid_release();
    uint32_t cached = c.k ? c.kv_heads * (c.half_size ? 1 : 2) : 0, units = c.heads + cached;
    uint64_t all = (uint64_t)*c.rows.count * units, step = (uint64_t)gridDim.x * (PREPARE_THREADS / LANES);
    uint32_t lane = threadIdx.x % LANES;
    uint64_t warp_first = (uint64_t)blockIdx.x * (PREPARE_THREADS / LANES) + threadIdx.x / WARP * 2;
    for (uint64_t first = warp_first; first < all; first += step) {
        uint64_t at = first + threadIdx.x % WARP / LANES;
        bool there = at < all;
        uint32_t row = there ? (uint32_t)(at / units) : 0, unit = there ? (uint32_t)(at % units) : 0;
        bool query = unit < c.heads;
        if (__any_sync(0xFFFFFFFFu, there && query)) {
            uint32_t head = query ? unit : 0;
            if constexpr (DIM != 0) prepare_query_row<DIM>(c, row, head, lane, there && query);
            else prepare_query(c, row, head, lane, there && query);
        }
        if (__any_sync(0xFFFFFFFFu, there && !query)) {
            uint32_t i = query ? 0 : unit - c.heads, kv_head = i % c.kv_heads, side = i / c.kv_heads;
            if constexpr (DIM != 0) prepare_cached_row<DIM>(c, row, kv_head, side, lane, there && !query);
            else prepare_cached(c, row, kv_head, side, lane, there && !query);
        }
    }
}

extern "C" void attention_prepare_launch(const attention_device *d, const attention_call *c, uint32_t rows) {
    uint32_t units = c->heads + (c->k ? c->kv_heads * (c->half_size ? 1 : 2) : 0);
    uint64_t blocks = ((uint64_t)rows * units + PREPARE_THREADS / LANES - 1) / (PREPARE_THREADS / LANES);
    uint64_t most = (uint64_t)d->multiprocessors * 16;
    dim3 grid((unsigned)(blocks < most ? blocks : most)), threads(PREPARE_THREADS);
    switch (c->head_dim) {
    case 512: LAUNCH(prepare_kernel<512>, grid, threads, 0, d->stream, *c); break;
    case 256: LAUNCH(prepare_kernel<256>, grid, threads, 0, d->stream, *c); break;
    case 128: LAUNCH(prepare_kernel<128>, grid, threads, 0, d->stream, *c); break;
    default: LAUNCH(prepare_kernel<0>, grid, threads, 0, d->stream, *c);
    }
}
