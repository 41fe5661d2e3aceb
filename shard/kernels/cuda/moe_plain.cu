/* Experts in plain float32: f32 and f16 weights, whose values bf16 does not hold, and shapes that tiles do not fit. A warp
 * has one row of a matrix for all tokens of an item. */
#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cpu/ref_math.h"
#include "shard/kernels/cuda/moe_places.cuh"
#include "shard/kernels/cuda/weight_element.cuh"

enum { PLAIN_WARPS = 8 };

template <int type>
static __device__ __forceinline__ float plain_dot(const unsigned char *data, const weight_shape &shape, uint32_t row,
                                                  const float *x) {
    float sum = 0;
    for (uint32_t i = threadIdx.x % WARP; i < shape.cols; i += WARP)
        sum = fmaf(x[i], weight_element<type>(data, shape, row, i), sum);
    return warp_sum(sum);
}

template <int type>
static __global__ void plain_gate_up_kernel(expert_source s, expert_matrix gate, expert_matrix up, weight_shape shape,
                                            const float *x, float *act, uint32_t act_stride) {
    uint32_t row = blockIdx.x * PLAIN_WARPS + threadIdx.x / WARP;
    grid_release();
    grid_wait();
    if (blockIdx.y >= *s.item_count || row >= act_stride) return;
    expert_item item = s.items[blockIdx.y];
    const unsigned char *g = expert_data(gate, item.expert), *u = expert_data(up, item.expert);
    for (uint32_t i = 0; i < item.count; i++) {
        uint32_t pair = s.sorted[item.begin + i];
        const float *in = x + (size_t)(pair / s.active) * shape.cols;
        float value = 0;
        if (row < shape.rows) value = ref_gelu(plain_dot<type>(g, shape, row, in)) * plain_dot<type>(u, shape, row, in);
        if (threadIdx.x % WARP == 0) act[(size_t)pair * act_stride + row] = value;
    }
}

template <int type>
static __global__ void plain_down_kernel(expert_source s, expert_matrix down, weight_shape shape, const float *act,
                                         uint32_t act_stride, float *y_pair) {
    uint32_t row = blockIdx.x * PLAIN_WARPS + threadIdx.x / WARP;
    grid_release();
    grid_wait();
    if (blockIdx.y >= *s.item_count || row >= shape.rows) return;
    expert_item item = s.items[blockIdx.y];
    const unsigned char *d = expert_data(down, item.expert);
    for (uint32_t i = 0; i < item.count; i++) {
        uint32_t pair = s.sorted[item.begin + i];
        float value = plain_dot<type>(d, shape, row, act + (size_t)pair * act_stride);
        if (threadIdx.x % WARP == 0) y_pair[(size_t)pair * shape.rows + row] = value;
    }
}

extern "C" void moe_plain_gate_up_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *gate,
                                         const expert_matrix *up, const float *x, float *act, uint32_t act_stride) {
    weight_shape shape = weight_shape_of(gate->type, gate->rows, gate->cols);
    dim3 grid((act_stride + PLAIN_WARPS - 1) / PLAIN_WARPS, s->items_max);
#define PLAIN_GATE_UP(type)                                                                                            \
    LAUNCH(plain_gate_up_kernel<type>, grid, dim3(PLAIN_WARPS *WARP), 0, stream, *s, *gate, *up, shape, x, act, act_stride)
    WEIGHT_TYPE_SWITCH(gate->type, PLAIN_GATE_UP);
#undef PLAIN_GATE_UP
}

extern "C" void moe_plain_down_launch(cudaStream_t stream, const expert_source *s, const expert_matrix *down,
                                      const float *act, uint32_t act_stride, float *y_pair) {
    weight_shape shape = weight_shape_of(down->type, down->rows, down->cols);
    dim3 grid((down->rows + PLAIN_WARPS - 1) / PLAIN_WARPS, s->items_max);
#define PLAIN_DOWN(type)                                                                                               \
    LAUNCH(plain_down_kernel<type>, grid, dim3(PLAIN_WARPS *WARP), 0, stream, *s, *down, shape, act, act_stride, y_pair)
    WEIGHT_TYPE_SWITCH(down->type, PLAIN_DOWN);
#undef PLAIN_DOWN
}
