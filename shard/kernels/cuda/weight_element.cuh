/* One element of a weight of any type (weight.h), for tables that are looked up and for shapes that no tile fits. */
#ifndef SHARD_KERNELS_CUDA_WEIGHT_ELEMENT_CUH
#define SHARD_KERNELS_CUDA_WEIGHT_ELEMENT_CUH

#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/cuda/weight_shape.cuh"

/* e4m3 without NaN: exact. A bf16 with the same exponent and fraction bits is 2^120 times smaller. */
static __device__ __forceinline__ float fp8_float(uint32_t byte) {
    return __uint_as_float((byte & 0x80u) << 24 | (byte & 0x7Fu) << 20) * 0x1p120f;
}

/* Element `at` of a row-major matrix of a float type. */
template <int type> static __device__ __forceinline__ float float_element(const void *data, size_t at) {
    if constexpr (type == WEIGHT_F32) return ((const float *)data)[at];
    else if constexpr (type == WEIGHT_F16) return f16_float(((const uint16_t *)data)[at]);
    else return bf16_float(((const uint16_t *)data)[at]);
}

template <int type>
static __device__ __forceinline__ float weight_element(const unsigned char *data, const weight_shape &s, uint32_t row,
                                                       uint32_t col) {
    if constexpr (type < WEIGHT_FLOAT_TYPES) return float_element<type>(data, (size_t)row * s.cols + col);
    const unsigned char *strip = data + (size_t)(row / QUANT_ROWS) * s.strip_bytes, *scales = strip + s.scales_at;
    uint32_t r = row % QUANT_ROWS, i = col % QUANT_GROUP;
    if (type == WEIGHT_FP8) return fp8_float(strip[(size_t)r * s.row_bytes + col]) * ((const float *)scales)[r];
    float scale = f16_float(((const uint16_t *)scales)[col / QUANT_GROUP * QUANT_ROWS + r]);
    const unsigned char *quants = strip + (size_t)(col / QUANT_GROUP) * quant_group_bytes((weight_type)type);
    if (type == WEIGHT_Q8) return (float)((int)quants[i / 4 * 64 + 4 * r + i % 4] - 128) * scale;
    uint32_t byte = quants[i % 16 / 4 * 64 + 4 * r + i % 4];
    return (float)((int)(i < 16 ? byte & 15u : byte >> 4) - 8) * scale;
}
#endif
