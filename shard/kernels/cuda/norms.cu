/* Norms: operators that reduce a row. A block has one row, which stays in its registers between the sum and what the sum
 * is for: in decode these kernels are latency alone, hundreds of them a step. A row's sum does not depend on the others:
 * its order follows from the row's length. What no kernel writes (norm weights) is read before grid_wait. */
#include "shard/kernels/cuda/cuda_backend.h"
#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cuda/weight_element.cuh"

enum {
    ROW_VECTORS = 2,
    ROW_THREADS_MAX = 1024,
    MIXTURE_THREADS_MAX = 768, /* they have 80 registers each */
    LOOP_THREADS = 512,
    SLICE_WARPS = 4
};

static __device__ __forceinline__ float sum_squares4(float4 v) {
    return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, v.x * v.x)));
}
static __device__ __forceinline__ float norm_factor(float sum, float eps, uint32_t dim) {
    return 1.0f / sqrtf(sum / (float)dim + eps);
}

/* ---- a row in registers: ROW_VECTORS float4 a thread, thread by thread; NULL, and what is behind its end, are zeros ---- */

static __device__ __forceinline__ void load_row(float4 v[ROW_VECTORS], const float *row, uint32_t dim) {
#pragma unroll
    for (uint32_t j = 0; j < ROW_VECTORS; j++) {
        uint32_t i = threadIdx.x + j * blockDim.x;
        v[j] = row && i < dim / 4 ? ((const float4 *)row)[i] : make_float4(0, 0, 0, 0);
    }
}
static __device__ __forceinline__ void store_row(float *row, const float4 v[ROW_VECTORS], uint32_t dim) {
#pragma unroll
    for (uint32_t j = 0; j < ROW_VECTORS; j++) {
        uint32_t i = threadIdx.x + j * blockDim.x;
        if (i < dim / 4) ((float4 *)row)[i] = v[j];
    }
}
static __device__ __forceinline__ float sum_squares(const float4 v[ROW_VECTORS]) {
    float sum = 0;
#pragma unroll
    for (uint32_t j = 0; j < ROW_VECTORS; j++) sum += sum_squares4(v[j]);
    return sum;
}
/* x · factor · w, rounded in that order as the CPU does. */
static __device__ __forceinline__ void norm_row(float4 x[ROW_VECTORS], float factor, const float4 w[ROW_VECTORS],
                                                bool weighted) {
#pragma unroll
    for (uint32_t j = 0; j < ROW_VECTORS; j++) {
        x[j] = make_float4(x[j].x * factor, x[j].y * factor, x[j].z * factor, x[j].w * factor);
        if (weighted) x[j] = make_float4(x[j].x * w[j].x, x[j].y * w[j].y, x[j].z * w[j].z, x[j].w * w[j].w);
    }
}
/* h = (h + x) · scale */
static __device__ __forceinline__ void add_row(float4 h[ROW_VECTORS], const float4 x[ROW_VECTORS], float scale) {
#pragma unroll
    for (uint32_t j = 0; j < ROW_VECTORS; j++)
        h[j] = make_float4((h[j].x + x[j].x) * scale, (h[j].y + x[j].y) * scale, (h[j].z + x[j].z) * scale,
                           (h[j].w + x[j].w) * scale);
}

/* ---- norm ---- */

/* A row of at most ROW_VECTORS · blockDim float4. */
static __global__ void __launch_bounds__(ROW_THREADS_MAX)
norm_kernel(float *y, const float *x, const float *w, float eps, uint32_t dim) {
    __shared__ float scratch[33];
    float4 xv[ROW_VECTORS], wv[ROW_VECTORS];
    size_t at = (size_t)blockIdx.x * dim;
    load_row(wv, w, dim);
    grid_wait();
    grid_release(); /* the next one asks early for experts that the kernel before this one chose (moe_experts.cu) */
    load_row(xv, x + at, dim);
    float factor = norm_factor(block_sum(sum_squares(xv), scratch), eps, dim);
    norm_row(xv, factor, wv, w != NULL);
    store_row(y + at, xv, dim);
}

/* Of a row of any length and alignment, which is read again later. */
static __device__ float factor_of(const float *row, float eps, uint32_t dim, float scratch[33]) {
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) sum = fmaf(row[i], row[i], sum);
    return norm_factor(block_sum(sum, scratch), eps, dim);
}

static __global__ void norm_loop_kernel(float *y, const float *x, const float *w, float eps, uint32_t dim) {
    __shared__ float scratch[33];
    grid_release();
    grid_wait();
    const float *row = x + (size_t)blockIdx.x * dim;
    float *to = y + (size_t)blockIdx.x * dim;
    float factor = factor_of(row, eps, dim, scratch);
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) to[i] = w ? row[i] * factor * w[i] : row[i] * factor;
}

static bool aligned(const void *p) { return ((uintptr_t)p & 15) == 0; }

/* Threads of a block that holds the row in registers; 0: it does not fit or is not aligned. */
static uint32_t row_threads(uint32_t dim, bool all_aligned) {
    uint32_t threads = (dim / 4 + ROW_VECTORS - 1) / ROW_VECTORS;
    threads = (threads + WARP - 1) / WARP * WARP;
    return all_aligned && dim % 4 == 0 && threads <= ROW_THREADS_MAX ? threads : 0;
}

extern "C" void cuda_norm(backend *b, float *y, const float *x, const float *w, float eps, uint32_t n, uint32_t dim) {
    cudaStream_t stream = cuda_of(b)->stream;
    if (dim == 0) return;
    uint32_t threads = row_threads(dim, aligned(y) && aligned(x) && aligned(w));
    if (threads) LAUNCH(norm_kernel, dim3(n), dim3(threads), 0, stream, y, x, w, eps, dim);
    else LAUNCH(norm_loop_kernel, dim3(n), dim3(LOOP_THREADS), 0, stream, y, x, w, eps, dim);
}

/* ---- add_norm ---- */

static __global__ void __launch_bounds__(ROW_THREADS_MAX)
add_norm_kernel(float *h, const float *x, const float *w, float eps, float scale, float *y, const float *next,
                uint32_t dim) {
    __shared__ float scratch[33];
    float4 xv[ROW_VECTORS], hv[ROW_VECTORS], wv[ROW_VECTORS], nv[ROW_VECTORS];
    size_t at = (size_t)blockIdx.x * dim;
    load_row(wv, w, dim);
    load_row(nv, y ? next : NULL, dim);
    grid_release();
    grid_wait();
    load_row(xv, x + at, dim);
    load_row(hv, h + at, dim);
    float factor = norm_factor(block_sum(sum_squares(xv), scratch), eps, dim);
    norm_row(xv, factor, wv, w != NULL);
    add_row(hv, xv, scale);
    store_row(h + at, hv, dim);
    if (!y) return;
    factor = norm_factor(block_sum(sum_squares(hv), scratch), eps, dim);
    norm_row(hv, factor, nv, next != NULL);
    store_row(y + at, hv, dim);
}

/* An element is written and read again by the same thread. */
static __global__ void add_norm_loop_kernel(float *h, const float *x, const float *w, float eps, float scale, float *y,
                                            const float *next, uint32_t dim) {
    __shared__ float scratch[33];
    grid_release();
    grid_wait();
    const float *x_row = x + (size_t)blockIdx.x * dim;
    float *h_row = h + (size_t)blockIdx.x * dim;
    float factor = factor_of(x_row, eps, dim, scratch), sum = 0;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x) {
        float v = w ? x_row[i] * factor * w[i] : x_row[i] * factor;
        v = (h_row[i] + v) * scale;
        h_row[i] = v;
        sum = fmaf(v, v, sum);
    }
    if (!y) return;
    factor = norm_factor(block_sum(sum, scratch), eps, dim);
    float *to = y + (size_t)blockIdx.x * dim;
    for (uint32_t i = threadIdx.x; i < dim; i += blockDim.x)
        to[i] = next ? h_row[i] * factor * next[i] : h_row[i] * factor;
}

extern "C" void cuda_add_norm(backend *b, float *h, const float *x, const float *w, float eps, float scale, float *y,
                              const float *next, uint32_t n, uint32_t dim) {
    cudaStream_t stream = cuda_of(b)->stream;
    if (dim == 0) return;
    bool all = aligned(h) && aligned(x) && aligned(w) && aligned(y) && aligned(next);
    uint32_t threads = row_threads(dim, all);
    if (threads) LAUNCH(add_norm_kernel, dim3(n), dim3(threads), 0, stream, h, x, w, eps, scale, y, next, dim);
    else LAUNCH(add_norm_loop_kernel, dim3(n), dim3(LOOP_THREADS), 0, stream, h, x, w, eps, scale, y, next, dim);
}

/* ---- add_mixture ---- */

/* norm, add_norm and add_norm in one, with their bits: what would be three waits in each layer is one. */
static __global__ void __launch_bounds__(MIXTURE_THREADS_MAX)
add_mixture_kernel(float *h, const float *dense, const float *experts, mixture_norms w, float eps, float scale, float *y,
                   const float *next, uint32_t dim) {
    __shared__ float scratch[33];
    float4 dv[ROW_VECTORS], ev[ROW_VECTORS], hv[ROW_VECTORS], wd[ROW_VECTORS], we[ROW_VECTORS], ws[ROW_VECTORS],
        nv[ROW_VECTORS];
    size_t at = (size_t)blockIdx.x * dim;
    load_row(wd, w.dense, dim);
    load_row(we, w.experts, dim);
    load_row(ws, w.sum, dim);
    load_row(nv, y ? next : NULL, dim);
    grid_release();
    grid_wait();
    load_row(dv, dense + at, dim);
    load_row(ev, experts + at, dim);
    load_row(hv, h + at, dim);
    float factor = norm_factor(block_sum(sum_squares(dv), scratch), eps, dim);
    float factor_e = norm_factor(block_sum(sum_squares(ev), scratch), eps, dim);
    norm_row(dv, factor, wd, true);
    norm_row(ev, factor_e, we, true);
    add_row(dv, ev, 1.0f);
    factor = norm_factor(block_sum(sum_squares(dv), scratch), eps, dim);
    norm_row(dv, factor, ws, true);
    add_row(hv, dv, scale);
    store_row(h + at, hv, dim);
    if (!y) return;
    factor = norm_factor(block_sum(sum_squares(hv), scratch), eps, dim);
    norm_row(hv, factor, nv, next != NULL);
    store_row(y + at, hv, dim);
}

extern "C" void cuda_add_mixture(backend *b, float *h, float *dense, const float *experts, const mixture_norms *w,
                                 float eps, float scale, float *y, const float *next, uint32_t n, uint32_t dim) {
    if (dim == 0) return;
    bool all = aligned(h) && aligned(dense) && aligned(experts) && aligned(w->dense) && aligned(w->experts) &&
               aligned(w->sum) && aligned(y) && aligned(next);
    uint32_t threads = row_threads(dim, all);
    if (threads && threads <= MIXTURE_THREADS_MAX) {
        LAUNCH(add_mixture_kernel, dim3(n), dim3(threads), 0, cuda_of(b)->stream, h, dense, experts, *w, eps, scale, y,
               next, dim);
        return;
    }
    cuda_norm(b, dense, dense, w->dense, eps, n, dim);
    cuda_add_norm(b, dense, experts, w->experts, eps, 1.0f, NULL, NULL, n, dim);
    cuda_add_norm(b, h, dense, w->sum, eps, scale, y, next, n, dim);
}

/* ---- per-layer embeddings ---- */

/* A warp has one slice of `width`. */
template <int type>
static __global__ void ple_mix_kernel(float *ple, const unsigned char *table, weight_shape shape, const uint32_t *tokens,
                                      const float *norm, float eps, float scale, float factor, uint32_t width) {
    uint32_t lane = threadIdx.x % WARP, slice = blockIdx.y * SLICE_WARPS + threadIdx.x / WARP;
    grid_release();
    grid_wait();
    if (slice >= shape.cols / width) return;
    uint32_t token = tokens[blockIdx.x], at = slice * width;
    float *row = ple + (size_t)blockIdx.x * shape.cols + at;
    float sum = 0;
    for (uint32_t i = lane; i < width; i += WARP) {
        float v = row[i] * scale;
        sum = fmaf(v, v, sum);
    }
    float rms = norm_factor(warp_sum(sum), eps, width);
    for (uint32_t i = lane; i < width; i += WARP) {
        float identity = weight_element<type>(table, shape, token, at + i) * factor;
        float v = row[i] * scale * rms;
        if (norm) v = v * norm[i];
        row[i] = (v + identity) * 0.70710678118654752f;
    }
}

extern "C" void cuda_ple_mix(backend *b, float *ple, const weight *table, const float *norm, float eps, float scale,
                             float factor, uint32_t width, uint32_t n) {
    cuda_backend *c = cuda_of(b);
    if (width == 0 || table->cols == 0) return;
    weight_shape shape = weight_shape_of(table->type, table->rows, table->cols);
    dim3 grid(n, (table->cols / width + SLICE_WARPS - 1) / SLICE_WARPS);
    const unsigned char *data = (const unsigned char *)table->data;
#define PLE_MIX(type)                                                                                                  \
    LAUNCH(ple_mix_kernel<type>, grid, dim3(SLICE_WARPS *WARP), 0, c->stream, ple, data, shape, c->rows.token, norm,   \
           eps, scale, factor, width)
    WEIGHT_TYPE_SWITCH(table->type, PLE_MIX);
#undef PLE_MIX
}
