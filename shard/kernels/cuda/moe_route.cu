/* Routing: logits of all experts in float32, then the best of each row. The sums of a row do not depend on how many rows
 * there are: both kernels of logits add in the same order.
 *
 * docs/numerics.md; kernels/cpu/cpu_moe.c has the order of operations. */
#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/cuda/moe.h"

enum {
    ROUTE_WARPS = 4,        /* experts of a block, with few rows */
    TILE_WARPS = 8,         /* with many: each warp has TILE_EXPERTS experts */
    TILE_EXPERTS = 4,
    TILE_ROWS_MAX = 8,
    TILE_SHARED_MAX = 160 << 10,
    AHEAD = 8,              /* float4 that a lane loads before it adds them up: these sums are latency alone */
    CHOOSE_THREADS = 128,
};

/* Elements i … i + 3 of p[dim]; zeros behind. */
template <bool vector> static __device__ __forceinline__ float4 load4(const float *p, uint32_t i, uint32_t dim) {
    if (vector) return *(const float4 *)(p + i);
    return make_float4(p[i], i + 1 < dim ? p[i + 1] : 0.0f, i + 2 < dim ? p[i + 2] : 0.0f, i + 3 < dim ? p[i + 3] : 0.0f);
}
static __device__ __forceinline__ float dot4(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/* The lane's next AHEAD pieces of a row, behind it those of its beginning. Loads have no condition and what is behind is
 * multiplied by 0: from a condition compilers make branches, and one load waits for the other. */
template <bool vector>
static __device__ __forceinline__ void load_ahead(float4 v[AHEAD], const float *p, uint32_t begin, uint32_t dim) {
#pragma unroll
    for (uint32_t j = 0; j < AHEAD; j++) {
        uint32_t i = begin + j * 4 * WARP;
        v[j] = load4<vector>(p, i < dim ? i : 0, dim);
    }
}
static __device__ __forceinline__ float4 inside4(float4 v, uint32_t begin, uint32_t j, uint32_t dim) {
    float m = begin + j * 4 * WARP < dim ? 1.0f : 0.0f;
    return make_float4(v.x * m, v.y * m, v.z * m, v.w * m);
}

/* 1 / rms of a row, by a warp. */
template <bool vector> static __device__ __forceinline__ float row_factor(const float *h, uint32_t dim, float eps) {
    float sum = 0;
    float4 v[AHEAD];
    for (uint32_t i = threadIdx.x % WARP * 4; i < dim; i += AHEAD * 4 * WARP) {
        load_ahead<vector>(v, h, i, dim);
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++) {
            float4 x = inside4(v[j], i, j, dim);
            sum = dot4(x, x, sum);
        }
    }
    return 1.0f / sqrtf(warp_sum(sum) / (float)dim + eps);
}
static __device__ __forceinline__ float4 router_input(float4 h, float factor, float4 scale, float root) {
    return make_float4(h.x * factor * scale.x * root, h.y * factor * scale.y * root, h.z * factor * scale.z * root,
                       h.w * factor * scale.w * root);
}

typedef struct route_input {
    const float *h, *scale, *router;
    uint32_t hidden, experts, n;
    float eps, root; /* 1 / sqrt(hidden) */
} route_input;

/* A warp has one expert and one row, of which it makes the norm for itself: no barrier. The bound on blocks leaves ptxas
 * the registers for AHEAD loads at once, which it otherwise gives up for more warps than there are. */
template <bool vector>
static __global__ void __launch_bounds__(ROUTE_WARPS *WARP, 2) route_logits_kernel(float *logits, route_input in) {
    uint32_t lane = threadIdx.x % WARP, expert = blockIdx.x * ROUTE_WARPS + threadIdx.x / WARP;
    const float *router = in.router + (size_t)expert * in.hidden;
    if (expert < in.experts) /* no kernel writes it */
        for (uint32_t i = lane * 32; i < in.hidden; i += 32 * WARP) prefetch_l2(router + i);
    grid_release();
    grid_wait();
    if (expert >= in.experts) return;
    const float *h = in.h + (size_t)blockIdx.y * in.hidden;
    float factor = row_factor<vector>(h, in.hidden, in.eps), sum = 0;
    float4 x[AHEAD], scale[AHEAD], w[AHEAD];
    for (uint32_t i = lane * 4; i < in.hidden; i += AHEAD * 4 * WARP) {
        load_ahead<vector>(x, h, i, in.hidden);
        load_ahead<vector>(scale, in.scale, i, in.hidden);
        load_ahead<vector>(w, router, i, in.hidden);
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++)
            sum = dot4(router_input(x[j], factor, scale[j], in.root), inside4(w[j], i, j, in.hidden), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) logits[(size_t)blockIdx.y * in.experts + expert] = sum;
}

/* `rows` rows of a block share the router's weights. */
template <int rows, bool vector>
static __global__ void __launch_bounds__(TILE_WARPS *WARP, 1) route_tile_kernel(float *logits, route_input in) {
    DYNAMIC_SHARED(shared);
    float *x = (float *)shared; /* [rows, stride] */
    uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, stride = (in.hidden + 3) / 4 * 4;
    uint32_t first_row = blockIdx.y * rows, first = (blockIdx.x * TILE_WARPS + warp) * TILE_EXPERTS;
    grid_release();
    grid_wait();
    for (uint32_t r = warp; r < rows; r += TILE_WARPS) {
        bool there = first_row + r < in.n;
        const float *h = in.h + (size_t)(first_row + (there ? r : 0)) * in.hidden;
        float factor = row_factor<vector>(h, in.hidden, in.eps);
        for (uint32_t i = lane * 4; i < in.hidden; i += 4 * WARP)
            *(float4 *)(x + r * stride + i) = router_input(load4<vector>(h, i, in.hidden), factor,
                                                           load4<vector>(in.scale, i, in.hidden), in.root);
    }
    __syncthreads();
    float sum[TILE_EXPERTS][rows] = {};
    for (uint32_t i = lane * 4; i < in.hidden; i += 4 * WARP) {
        float4 w[TILE_EXPERTS];
#pragma unroll
        for (int e = 0; e < TILE_EXPERTS; e++)
            w[e] = first + e < in.experts ? load4<vector>(in.router + (size_t)(first + e) * in.hidden, i, in.hidden)
                                          : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int r = 0; r < rows; r++) {
            float4 v = *(const float4 *)(x + r * stride + i);
#pragma unroll
            for (int e = 0; e < TILE_EXPERTS; e++) sum[e][r] = dot4(v, w[e], sum[e][r]);
        }
    }
#pragma unroll
    for (int e = 0; e < TILE_EXPERTS; e++)
#pragma unroll
        for (int r = 0; r < rows; r++) {
            float s = warp_sum(sum[e][r]);
            if (lane == 0 && first + e < in.experts && first_row + r < in.n)
                logits[(size_t)(first_row + r) * in.experts + first + e] = s;
        }
}

/* A block has a row. An expert's place is the number of those before it: more probable, or as probable with a lower id.
 * The sum of exponentials is added as the CPU adds it: equal logits choose alike. */
static __global__ void __launch_bounds__(CHOOSE_THREADS)
    route_choose_kernel(const float *logits, const float *per_expert_scale, uint32_t experts, uint32_t active,
                        const uint32_t *row_count, uint32_t *ids, float *weights) {
    __shared__ float scratch[33], total;
    DYNAMIC_SHARED(shared);
    uint32_t quads = (experts + 3) / 4;
    float *p = (float *)shared, *chosen = p + quads * 4; /* [experts], [active] */
    grid_release();
    grid_wait();
    uint32_t row = blockIdx.x;
    const float *l = logits + (size_t)row * experts;
    float most = -INFINITY;
    for (uint32_t e = threadIdx.x; e < experts; e += CHOOSE_THREADS) most = fmaxf(most, l[e]);
    most = block_max(most, scratch);
    for (uint32_t e = threadIdx.x; e < experts; e += CHOOSE_THREADS) p[e] = ref_exp(l[e] - most);
    __syncthreads();
    if (threadIdx.x < WARP) {
        float sum = 0;
        for (uint32_t e = threadIdx.x; threadIdx.x < 16 && e < experts; e += 16) sum += p[e];
        for (int d = 8; d > 0; d /= 2) sum += __shfl_down_sync(0xFFFFFFFFu, sum, d);
        if (threadIdx.x == 0) total = sum;
    }
    __syncthreads();
    float inverse = 1.0f / total;
    for (uint32_t e = threadIdx.x; e < quads * 4; e += CHOOSE_THREADS) {
        float q = e < experts ? p[e] * inverse : -2.0f;
        p[e] = q >= 0.0f ? q : e < experts ? -1.0f : -2.0f; /* what is no number comes last and has a place of its own */
    }
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < experts; e += CHOOSE_THREADS) {
        float mine = p[e];
        uint32_t place = 0;
#pragma unroll 8
        for (uint32_t o = 0; o < quads; o++) {
            float4 q = ((const float4 *)p)[o];
            place += q.x > mine || (q.x == mine && 4 * o < e);
            place += q.y > mine || (q.y == mine && 4 * o + 1 < e);
            place += q.z > mine || (q.z == mine && 4 * o + 2 < e);
            place += q.w > mine || (q.w == mine && 4 * o + 3 < e);
        }
        if (place >= active) continue;
        chosen[place] = mine;
        ids[(size_t)row * active + place] = row < *row_count ? e : MOE_NONE;
    }
    __syncthreads();
    for (uint32_t k = threadIdx.x; k < active; k += CHOOSE_THREADS) {
        size_t at = (size_t)row * active + k;
        float sum = 0;
        for (uint32_t j = 0; j < active; j++) sum += chosen[j];
        uint32_t e = ids[at]; /* written by a thread of this block before the barrier */
        weights[at] = e == MOE_NONE ? 0.0f : chosen[k] / sum * per_expert_scale[e];
    }
}

template <bool vector> static void logits_launch(cudaStream_t stream, float *logits, const route_input &in) {
    size_t row_bytes = (size_t)(in.hidden + 3) / 4 * 4 * sizeof(float);
    dim3 threads(TILE_WARPS * WARP);
    uint32_t blocks = (in.experts + TILE_WARPS * TILE_EXPERTS - 1) / (TILE_WARPS * TILE_EXPERTS);
    if (in.n <= CUDA_STREAM_ROWS || 2 * row_bytes > TILE_SHARED_MAX)
        LAUNCH(route_logits_kernel<vector>, dim3((in.experts + ROUTE_WARPS - 1) / ROUTE_WARPS, in.n),
               dim3(ROUTE_WARPS *WARP), 0, stream, logits, in);
    else if (TILE_ROWS_MAX * row_bytes <= TILE_SHARED_MAX)
        LAUNCH((route_tile_kernel<TILE_ROWS_MAX, vector>), dim3(blocks, (in.n + TILE_ROWS_MAX - 1) / TILE_ROWS_MAX), threads,
               TILE_ROWS_MAX * row_bytes, stream, logits, in);
    else
        LAUNCH((route_tile_kernel<2, vector>), dim3(blocks, (in.n + 1) / 2), threads, 2 * row_bytes, stream, logits, in);
}

extern "C" void moe_route_launch(cudaStream_t stream, const moe_layer *m, const float *h, uint32_t n,
                                 const uint32_t *row_count, float *logits, uint32_t *ids, float *weights) {
    route_input in = {h, m->router_scale, (const float *)m->router.data, m->hidden, m->experts, n, m->eps,
                      1.0f / sqrtf((float)m->hidden)};
    bool vector = m->hidden % 4 == 0 &&
                  (((uintptr_t)h | (uintptr_t)m->router_scale | (uintptr_t)m->router.data) & 15) == 0;
    if (vector) logits_launch<true>(stream, logits, in);
    else logits_launch<false>(stream, logits, in);
    LAUNCH(route_choose_kernel, dim3(n), dim3(CHOOSE_THREADS), ((m->experts + 3) / 4 * 4 + m->active) * sizeof(float),
           stream, logits, m->per_expert_scale, m->experts, m->active, row_count, ids, weights);
}
