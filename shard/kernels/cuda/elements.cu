/* Operators whose work item is an element: look-ups, sums of blocks, activations, rotary angles. */
#include "shard/kernels/cuda/cuda_backend.h"
#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/cpu/math_double.h"
#include "shard/kernels/cuda/weight_element.cuh"

enum { ELEMENT_THREADS = 256, ELEMENTS_EACH = 4, ELEMENT_BLOCK = ELEMENT_THREADS * ELEMENTS_EACH, ANGLE_THREADS = 64 };

static uint32_t pieces(size_t count, uint32_t of) { return (uint32_t)((count + of - 1) / of); }
static bool aligned(const void *p, size_t stride) { return ((uintptr_t)p & 15) == 0 && stride % 4 == 0; }

/* ---- angles and pages ---- */

static __global__ void rope_angles_kernel(float *cosine, float *sine, const uint32_t *positions, uint32_t step,
                                          double base, uint32_t head_dim, uint32_t pairs) {
    uint32_t i = blockIdx.y * ANGLE_THREADS + threadIdx.x;
    grid_release();
    grid_wait();
    if (i >= pairs) return;
    uint32_t position = positions ? positions[blockIdx.x] : blockIdx.x * step;
    double c, s, angle = position * math_pow_double(base, -2.0 * i / head_dim);
    math_sincos_double(angle, &s, &c);
    size_t at = (size_t)blockIdx.x * pairs + i;
    cosine[at] = (float)c;
    sine[at] = (float)s;
}

extern "C" void cuda_rope_angles(cudaStream_t stream, float *cosine, float *sine, const uint32_t *positions, uint32_t n,
                                 uint32_t step, double base, uint32_t head_dim, uint32_t pairs) {
    LAUNCH(rope_angles_kernel, dim3(n, pieces(pairs, ANGLE_THREADS)), dim3(ANGLE_THREADS), 0, stream, cosine, sine,
           positions, step, base, head_dim, pairs);
}

typedef struct page_tables {
    uint32_t *table[PAGE_TABLES];
    uint32_t pages_per_slot;
} page_tables;

/* One block: an entry that is changed twice ends as the later change has it. Inside a piece a thread leaves its change
 * to a later one of the same entry, and between pieces is a barrier. */
static __global__ void pages_set_kernel(page_tables t, const page_change *changes, uint32_t n) {
    __shared__ uint64_t keys[ELEMENT_THREADS];
    grid_release();
    grid_wait();
    for (uint32_t begin = 0; begin < n; begin += ELEMENT_THREADS) {
        uint32_t i = begin + threadIdx.x, left = n - begin;
        page_change change = {0, 0, 0, 0};
        if (i < n) change = changes[i];
        uint64_t key = (uint64_t)change.table << 60 | ((uint64_t)change.slot * t.pages_per_slot + change.index);
        keys[threadIdx.x] = key;
        __syncthreads();
        bool last = i < n;
        for (uint32_t j = threadIdx.x + 1; j < left && j < ELEMENT_THREADS; j++) last = last && keys[j] != key;
        if (last) t.table[change.table][(size_t)change.slot * t.pages_per_slot + change.index] = change.page;
        __syncthreads();
    }
}

extern "C" void cuda_pages_set(cudaStream_t stream, uint32_t *const pages[PAGE_TABLES], uint32_t pages_per_slot,
                               const page_change *changes, uint32_t n) {
    page_tables t;
    for (int i = 0; i < PAGE_TABLES; i++) t.table[i] = pages[i];
    t.pages_per_slot = pages_per_slot;
    if (n) LAUNCH(pages_set_kernel, dim3(1), dim3(ELEMENT_THREADS), 0, stream, t, changes, n);
}

/* ---- look-ups ---- */

template <int type>
static __global__ void embed_kernel(float *y, const unsigned char *table, weight_shape shape, const uint32_t *tokens,
                                    uint32_t first_id, float factor) {
    grid_release();
    grid_wait();
    uint32_t row = tokens[blockIdx.x] - first_id;
    float *to = y + (size_t)blockIdx.x * shape.cols;
    uint32_t begin = blockIdx.y * ELEMENT_BLOCK + threadIdx.x;
#pragma unroll
    for (uint32_t j = 0; j < ELEMENTS_EACH; j++) {
        uint32_t i = begin + j * ELEMENT_THREADS;
        if (i < shape.cols) to[i] = row < shape.rows ? weight_element<type>(table, shape, row, i) * factor : 0.0f;
    }
}

extern "C" void cuda_embed(backend *b, float *y, const weight *table, uint32_t first_id, uint32_t n, float factor) {
    cuda_backend *c = cuda_of(b);
    weight_shape shape = weight_shape_of(table->type, table->rows, table->cols);
    dim3 grid(n, pieces(table->cols, ELEMENT_BLOCK));
    const unsigned char *data = (const unsigned char *)table->data;
#define EMBED(type)                                                                                                    \
    LAUNCH(embed_kernel<type>, grid, dim3(ELEMENT_THREADS), 0, c->stream, y, data, shape, c->rows.token, first_id, factor)
    WEIGHT_TYPE_SWITCH(table->type, EMBED);
#undef EMBED
}

/* A thread has ELEMENTS_EACH elements: four in a row where `vector`, else one of each stripe. */
template <bool vector>
static __global__ void gather_kernel(float *y, const float *x, const uint32_t *index, uint32_t dim) {
    grid_release();
    grid_wait();
    const float *from = x + (size_t)index[blockIdx.x] * dim;
    float *to = y + (size_t)blockIdx.x * dim;
    uint32_t begin = blockIdx.y * ELEMENT_BLOCK;
    if (vector) {
        uint32_t i = begin / 4 + threadIdx.x;
        if (i < dim / 4) ((float4 *)to)[i] = ((const float4 *)from)[i];
    } else {
        for (uint32_t i = begin + threadIdx.x; i < dim && i < begin + ELEMENT_BLOCK; i += ELEMENT_THREADS) to[i] = from[i];
    }
}

extern "C" void cuda_gather(backend *b, float *y, const float *x, const uint32_t *index, uint32_t n, uint32_t dim) {
    cudaStream_t stream = cuda_of(b)->stream;
    dim3 grid(n, pieces(dim, ELEMENT_BLOCK));
    if (aligned(y, dim) && aligned(x, dim))
        LAUNCH(gather_kernel<true>, grid, dim3(ELEMENT_THREADS), 0, stream, y, x, index, dim);
    else LAUNCH(gather_kernel<false>, grid, dim3(ELEMENT_THREADS), 0, stream, y, x, index, dim);
}

/* ---- sums of blocks ---- */

static __device__ __forceinline__ float4 add4(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

template <bool vector>
static __global__ void sum_blocks_kernel(float *y, const float *x, uint32_t blocks, size_t count) {
    grid_release();
    grid_wait();
    size_t begin = (size_t)blockIdx.x * ELEMENT_BLOCK;
    if (vector) {
        size_t i = begin / 4 + threadIdx.x, vectors = count / 4;
        if (i >= vectors) return;
        float4 sum = ((const float4 *)x)[i];
        for (uint32_t b = 1; b < blocks; b++) sum = add4(sum, ((const float4 *)x)[b * vectors + i]);
        ((float4 *)y)[i] = sum;
    } else {
        for (size_t i = begin + threadIdx.x; i < count && i < begin + ELEMENT_BLOCK; i += ELEMENT_THREADS) {
            float sum = x[i];
            for (uint32_t b = 1; b < blocks; b++) sum += x[b * count + i];
            y[i] = sum;
        }
    }
}

extern "C" void cuda_sum_blocks(backend *b, float *y, const float *x, uint32_t blocks, size_t count) {
    cudaStream_t stream = cuda_of(b)->stream;
    dim3 grid(pieces(count, ELEMENT_BLOCK));
    if (aligned(y, count) && aligned(x, count))
        LAUNCH(sum_blocks_kernel<true>, grid, dim3(ELEMENT_THREADS), 0, stream, y, x, blocks, count);
    else LAUNCH(sum_blocks_kernel<false>, grid, dim3(ELEMENT_THREADS), 0, stream, y, x, blocks, count);
}

/* ---- activations ---- */

template <bool vector>
static __global__ void gelu_multiply_kernel(float *gate, size_t gate_stride, const float *up, size_t up_stride,
                                            uint32_t dim) {
    grid_release();
    grid_wait();
    float *g = gate + blockIdx.x * gate_stride;
    const float *u = up + blockIdx.x * up_stride;
    uint32_t begin = blockIdx.y * ELEMENT_BLOCK;
    if (vector) {
        uint32_t i = begin / 4 + threadIdx.x;
        if (i >= dim / 4) return;
        float4 a = ((const float4 *)g)[i], b = ((const float4 *)u)[i];
        ((float4 *)g)[i] = make_float4(ref_gelu(a.x) * b.x, ref_gelu(a.y) * b.y, ref_gelu(a.z) * b.z,
                                       ref_gelu(a.w) * b.w);
    } else {
        for (uint32_t i = begin + threadIdx.x; i < dim && i < begin + ELEMENT_BLOCK; i += ELEMENT_THREADS)
            g[i] = ref_gelu(g[i]) * u[i];
    }
}

extern "C" void cuda_gelu_multiply(backend *b, float *gate, size_t gate_stride, const float *up, size_t up_stride,
                                   uint32_t n, uint32_t dim) {
    cudaStream_t stream = cuda_of(b)->stream;
    dim3 grid(n, pieces(dim, ELEMENT_BLOCK));
    if (dim % 4 == 0 && aligned(gate, gate_stride) && aligned(up, up_stride))
        LAUNCH(gelu_multiply_kernel<true>, grid, dim3(ELEMENT_THREADS), 0, stream, gate, gate_stride, up, up_stride, dim);
    else LAUNCH(gelu_multiply_kernel<false>, grid, dim3(ELEMENT_THREADS), 0, stream, gate, gate_stride, up, up_stride, dim);
}

static __global__ void softcap_kernel(float *x, float cap, size_t count) {
    grid_release();
    grid_wait();
    size_t begin = (size_t)blockIdx.x * ELEMENT_BLOCK + threadIdx.x;
#pragma unroll
    for (uint32_t j = 0; j < ELEMENTS_EACH; j++) {
        size_t i = begin + j * ELEMENT_THREADS;
        if (i < count) x[i] = cap * ref_tanh(x[i] / cap);
    }
}

extern "C" void cuda_softcap(backend *b, float *x, float cap, uint32_t n, uint32_t dim) {
    size_t count = (size_t)n * dim;
    LAUNCH(softcap_kernel, dim3(pieces(count, ELEMENT_BLOCK)), dim3(ELEMENT_THREADS), 0, cuda_of(b)->stream, x, cap, count);
}
