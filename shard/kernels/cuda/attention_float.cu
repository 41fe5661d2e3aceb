/* Attention in float32 on ordinary cores, for any width and type of cache: the reference setting, and heads that the
 * tensor-core kernels do not take. A warp has a query head, a lane a key; keys are widened 32 at a time into shared memory, 16
 * where there is less of it. */
#include "shard/kernels/cuda/attention_page.cuh"

static constexpr uint32_t FLOAT_KEYS = WARP, FLOAT_KEYS_FEW = WARP / 2, FLOAT_THREADS = ATTENTION_GROUP * WARP, FLOAT_LANES = 8, PAGE = ATTENTION_PAGE;

/* Shared memory: [32 or 16, stride] keys, [8, dim] queries, [8, dim] turned queries, [8, dim] o, [8, 32] weights. An odd stride,
 * so that lanes reading one dimension of 32 keys meet 32 banks. */
static __device__ __host__ inline uint32_t float_stride(uint32_t dim) { return dim | 1; }
static size_t float_shared_bytes(uint32_t dim, uint32_t keys) {
    size_t floats = (size_t)keys * float_stride(dim) + 3 * (size_t)ATTENTION_GROUP * dim + ATTENTION_GROUP * WARP;
    return floats * sizeof(float);
}

typedef struct float_tile {
    float *keys, *q, *turned, *o, *weights;
    uint32_t many;               /* keys at a time */
} float_tile;

static __device__ __forceinline__ float load_element(const attention_call &c, const unsigned char *rows, uint32_t key,
                                                     uint32_t d) {
    size_t at = (size_t)key * c.head_dim + d;
    if (c.type == KV_F32) return ((const float *)rows)[at];
    if (c.type == KV_BF16) return bf16_float(((const uint16_t *)rows)[at]);
    return (float)((const int8_t *)rows)[at] * ((const float *)(rows + (size_t)ATTENTION_PAGE * c.head_dim))[key];
}

/* Queries as they are prepared; of heads that are not there zeros. */
static __device__ void load_queries(const attention_call &c, const float_tile &t, const attention_item &item,
                                    const attention_heads &u) {
    uint32_t dim = c.head_dim;
    const float *q = c.q + ((size_t)item.row * c.heads + u.begin) * dim;
    for (uint32_t i = threadIdx.x; i < ATTENTION_GROUP * dim; i += FLOAT_THREADS) {
        float x = i < u.count * dim ? q[i] : 0.0f;
        t.q[i] = x;
        t.turned[i] = x;
        t.o[i] = 0.0f;
    }
}

/* Turned back by the page's start: the angle position - start = 64·a + b. */
static __device__ void turn_queries(const attention_call &c, const float_tile &t, const attention_item &item, uint32_t page) {
    uint32_t dim = c.head_dim, half = dim / 2;
    size_t a = (size_t)(item.position / ATTENTION_PAGE - page) * c.pairs, b = (size_t)(item.position % ATTENTION_PAGE) * c.pairs;
    for (uint32_t i = threadIdx.x; i < ATTENTION_GROUP * c.pairs; i += FLOAT_THREADS) {
        uint32_t head = i / c.pairs, pair = i % c.pairs;
        float c1 = c.page_cosine[a + pair], s1 = c.page_sine[a + pair];
        float c2 = c.offset_cosine[b + pair], s2 = c.offset_sine[b + pair];
        float cosine = c1 * c2 - s1 * s2, sine = s1 * c2 + c1 * s2;
        float x = t.q[head * dim + pair], y = t.q[head * dim + half + pair];
        t.turned[head * dim + pair] = x * cosine - y * sine;
        t.turned[head * dim + half + pair] = y * cosine + x * sine;
    }
}

/* Keys first … of a page; zeros where the row does not look. */
static __device__ void load_keys(const attention_call &c, const float_tile &t, const unsigned char *rows, uint32_t first,
                                 uint32_t begin, uint32_t end) {
    uint32_t dim = c.head_dim, stride = float_stride(dim), half = dim / 2;
    for (uint32_t key = threadIdx.x / WARP; key < t.many; key += FLOAT_THREADS / WARP) {
        uint32_t at = first + key;
        bool seen = at >= begin && at < end;
        float *to = t.keys + key * stride;
        for (uint32_t d = threadIdx.x % WARP; d < dim; d += WARP) {
            uint32_t pair = d < half ? d : d - half;
            float x = seen ? load_element(c, rows, at, d) : 0.0f;
            if (c.half_size && pair < c.pairs && d < 2 * half) {
                float other = seen ? load_element(c, rows, at, d < half ? d + half : pair) : 0.0f;
                float cosine = c.offset_cosine[at * c.pairs + pair], sine = c.offset_sine[at * c.pairs + pair];
                float low = (d < half ? x : other) * c.k_norm[pair], high = (d < half ? other : x) * c.k_norm[half + pair];
                x = d < half ? low * cosine - high * sine : high * cosine + low * sine;
            }
            to[d] = x;
        }
    }
}

/* The lane's key with the warp's head; dimensions i, i + 8, … are one of eight sums. */
static __device__ __forceinline__ float score(const attention_call &c, const float_tile &t, uint32_t head, uint32_t key) {
    uint32_t dim = c.head_dim, d = 0;
    const float *q = t.turned + head * dim, *k = t.keys + key * float_stride(dim);
    float sum[FLOAT_LANES] = {0.0f};
    for (; d + FLOAT_LANES <= dim; d += FLOAT_LANES)
#pragma unroll
        for (uint32_t i = 0; i < FLOAT_LANES; i++) sum[i] = fmaf(q[d + i], k[d + i], sum[i]);
#pragma unroll
    for (uint32_t i = 0; i < FLOAT_LANES; i++)
        if (d + i < dim) sum[i] = fmaf(q[d + i], k[d + i], sum[i]);
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static __device__ void add_values(const attention_call &c, const float_tile &t, const unsigned char *rows, uint32_t first,
                                  uint32_t begin, uint32_t end, uint32_t heads) {
    uint32_t dim = c.head_dim, from = begin > first ? begin - first : 0, to = end - first < t.many ? end - first : t.many;
    for (uint32_t d = threadIdx.x; d < dim; d += FLOAT_THREADS) {
        float sum[ATTENTION_GROUP];
#pragma unroll
        for (uint32_t h = 0; h < ATTENTION_GROUP; h++) sum[h] = h < heads ? t.o[h * dim + d] : 0.0f;
        for (uint32_t key = from; key < to; key++) {
            float x = load_element(c, rows, first + key, d);
#pragma unroll
            for (uint32_t h = 0; h < ATTENTION_GROUP; h++) sum[h] = fmaf(t.weights[h * WARP + key], x, sum[h]);
        }
#pragma unroll
        for (uint32_t h = 0; h < ATTENTION_GROUP; h++)
            if (h < heads) t.o[h * dim + d] = sum[h];
    }
}

/* Leaves o in shared memory; m and l are the warp's head's, the same in all its lanes. */
static __device__ void run_item(const attention_call &c, const float_tile &t, const attention_item &item,
                                const attention_heads &u, float *m, float *l) {
    uint32_t head = threadIdx.x / WARP, lane = threadIdx.x % WARP, dim = c.head_dim;
    uint32_t least = attention_first_key(c, item.position);
    *m = -INFINITY, *l = 0.0f;
    load_queries(c, t, item, u);
    for (uint32_t page = item.page; page < item.page + item.pages; page++) {
        const unsigned char *keys = attention_page(c, attention_page_id(c, item.slot, page), u.kv_head);
        const unsigned char *values = keys + (c.half_size ? 0 : c.rows_bytes);
        uint32_t start = page * ATTENTION_PAGE, begin = least > start ? least - start : 0;
        uint32_t end = item.position + 1 - start < PAGE ? item.position + 1 - start : PAGE;
        __syncthreads();
        if (c.half_size) turn_queries(c, t, item, page);
        for (uint32_t first = 0; first < end; first += t.many) {
            if (first + t.many <= begin) continue;
            load_keys(c, t, keys, first, begin, end);
            __syncthreads();
            uint32_t key = first + lane;
            float s = lane < t.many && key >= begin && key < end ? score(c, t, head, lane) : -INFINITY;
            float largest = fmaxf(*m, warp_max(s)), rescale = ref_softmax_exp(*m - largest);
            float p = ref_softmax_exp(s - largest);
            *l = *l * rescale + warp_sum(p);
            *m = largest;
            t.weights[head * WARP + lane] = p;
            for (uint32_t d = lane; d < dim; d += WARP) t.o[head * dim + d] *= rescale;
            __syncthreads();
            add_values(c, t, values, first, begin, end, u.count);
            __syncthreads();
        }
    }
}

static __device__ void write_item(const attention_call &c, const float_tile &t, const attention_item &item,
                                  const attention_heads &u, uint32_t slot, float m, float l) {
    uint32_t head = threadIdx.x / WARP, lane = threadIdx.x % WARP, dim = c.head_dim;
    if (head >= u.count) return;
    float *partial = attention_partial(c, slot), scale = 1.0f;
    float *to = partial + (size_t)head * dim;
    if (item.splits == 1) {
        to = c.y + ((size_t)item.row * c.heads + u.begin + head) * dim;
        scale = 1.0f / l;
    } else if (lane == 0) {
        partial[(size_t)c.group * dim + head] = m;
        partial[(size_t)c.group * dim + c.group + head] = l;
    }
    for (uint32_t d = lane; d < dim; d += WARP) to[d] = t.o[head * dim + d] * scale;
}

static __global__ void __launch_bounds__(FLOAT_THREADS) float_kernel(const attention_call c, uint32_t keys) {
    DYNAMIC_SHARED(shared);
    __shared__ attention_merge merge;
    grid_wait();
    grid_release();
    float_tile t;
    t.keys = (float *)shared;
    t.many = keys;
    t.q = t.keys + keys * float_stride(c.head_dim);
    t.turned = t.q + ATTENTION_GROUP * c.head_dim;
    t.o = t.turned + ATTENTION_GROUP * c.head_dim;
    t.weights = t.o + ATTENTION_GROUP * c.head_dim;
    uint32_t begin, end, units = c.kv_heads * c.groups;
    attention_launch_items(c, &begin, &end);
    for (uint32_t work = blockIdx.x; work < (end - begin) * units; work += gridDim.x) {
        attention_item item = c.lists.items[begin + work / units];
        attention_heads u = attention_unit_heads(c, work % units);
        if (u.count == 0) continue;
        float m, l;
        __syncthreads();
        run_item(c, t, item, u, &m, &l);
        write_item(c, t, item, u, work, m, l);
        if (item.splits > 1) attention_merge_item(c, &merge, item, begin, work % units, u);
    }
    attention_fill(c);
}

extern "C" void attention_float_launch(const attention_device *d, const attention_call *c) {
    size_t bytes = float_shared_bytes(c->head_dim, FLOAT_KEYS);
    uint32_t keys = bytes + sizeof(attention_merge) <= d->shared_bytes_max ? FLOAT_KEYS : FLOAT_KEYS_FEW;
    if (keys < FLOAT_KEYS) bytes = float_shared_bytes(c->head_dim, keys);
    LAUNCH(float_kernel, dim3(2 * d->multiprocessors), dim3(FLOAT_THREADS), bytes, d->stream, *c, keys);
}
