/* Matrices as bf16 for cuBLASLt: activations rounded, q8, q4 and fp8 weights widened. */
#include "shard/kernels/cuda/linear.h"
#include "shard/kernels/cuda/stored_values.cuh"

enum { THREADS = 256 };

static __global__ void round_kernel(uint16_t *to, uint32_t stride, const float *x, size_t x_stride, uint32_t cols,
                                    bool vector, uint64_t eighths) {
    grid_release();
    grid_wait();
    uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= eighths) return;
    uint32_t row = (uint32_t)(i / (stride / 8)), column = (uint32_t)(i % (stride / 8)) * 8;
    const float *from = x + row * x_stride + column;
    float v[8];
    if (vector && column + 8 <= cols) {
        float4 a = *(const float4 *)from, b = *(const float4 *)(from + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
        for (uint32_t k = 0; k < 8; k++) v[k] = column + k < cols ? from[k] : 0.0f;
    }
    *(uint4 *)(to + (size_t)row * stride + column) =
        make_uint4(bf16_pack(v[0], v[1]), bf16_pack(v[2], v[3]), bf16_pack(v[4], v[5]), bf16_pack(v[6], v[7]));
}

void linear_round_launch(cudaStream_t stream, uint16_t *to, uint32_t stride, const float *x, size_t x_stride,
                         uint32_t cols, uint32_t n) {
    uint64_t eighths = (uint64_t)n * (stride / 8);
    bool vector = (uintptr_t)x % 16 == 0 && x_stride % 4 == 0;
    LAUNCH(round_kernel, dim3((uint32_t)((eighths + THREADS - 1) / THREADS)), dim3(THREADS), 0, stream, to, stride, x,
           x_stride, cols, vector, eighths);
}

/* Eight columns of one row of a strip. */
template <int type>
static __device__ __forceinline__ uint4 widen_eight(const unsigned char *strip, uint32_t cols, uint32_t row,
                                                    uint32_t column) {
    uint32_t groups = quant_groups(cols), group = column / QUANT_GROUP, pairs[2];
    uint2 half[2];
    #pragma unroll
    for (uint32_t k = 0; k < 2; k++, column += 4) {
        if constexpr (type == WEIGHT_FP8) {
            uint32_t row_bytes = fp8_row_bytes(cols);
            stored_fp8(*(const uint32_t *)(strip + (size_t)row * row_bytes + column), pairs);
            half[k] = stored_scaled(pairs, ((const float *)(strip + (size_t)QUANT_ROWS * row_bytes))[row]);
        } else {
            constexpr uint32_t group_bytes = quant_group_bytes((weight_type)type);
            uint32_t inside = column % QUANT_GROUP, chunk = (type == WEIGHT_Q8 ? inside : inside % 16) / 4;
            uint32_t word = *(const uint32_t *)(strip + (size_t)group * group_bytes + chunk * 64 + row * 4);
            if constexpr (type == WEIGHT_Q8) stored_q8(word, pairs);
            else stored_q4(inside < 16 ? word : word >> 4, pairs);
            const uint16_t *scales = (const uint16_t *)(strip + (size_t)groups * group_bytes);
            half[k] = stored_scaled(pairs, f16_float(scales[group * QUANT_ROWS + row]));
        }
    }
    return make_uint4(half[0].x, half[0].y, half[1].x, half[1].y);
}

/* A block widens 128 columns of a strip: a byte that is read is used by it alone, soon. */
template <int type>
static __global__ void __launch_bounds__(THREADS)
    widen_kernel(uint16_t *to, uint32_t stride, const unsigned char *strips, uint64_t strip_bytes, uint32_t cols,
                 uint32_t rows) {
    grid_release();
    grid_wait(); /* the products before this one may still read what is written here */
    uint32_t inside = threadIdx.x / 16, row = blockIdx.x * QUANT_ROWS + inside;
    uint32_t column = blockIdx.y * 128 + threadIdx.x % 16 * 8;
    if (row >= rows || column >= stride) return;
    uint4 v = widen_eight<type>(strips + blockIdx.x * strip_bytes, cols, inside, column);
    *(uint4 *)(to + (size_t)row * stride + column) = v;
}

void linear_widen_launch(cudaStream_t stream, uint16_t *to, uint32_t stride, const weight *w, uint32_t first,
                         uint32_t rows) {
    uint64_t strip_bytes = quant_strip_bytes(w->type, w->cols);
    const unsigned char *strips = (const unsigned char *)w->data + first / QUANT_ROWS * strip_bytes;
    dim3 grid((rows + QUANT_ROWS - 1) / QUANT_ROWS, (stride + 127) / 128);
#define WITH(type_)                                                                                                    \
    LAUNCH((widen_kernel<type_>), grid, dim3(THREADS), 0, stream, to, stride, strips, strip_bytes, w->cols, rows)
    if (w->type == WEIGHT_Q8) WITH(WEIGHT_Q8);
    else if (w->type == WEIGHT_Q4) WITH(WEIGHT_Q4);
    else WITH(WEIGHT_FP8);
#undef WITH
}
