/* One element of a weight of any type (weight.h), for tables that are looked up and for shapes that no tile fits. */
#ifndef SHARD_KERNELS_CUDA_WEIGHT_ELEMENT_CUH
#define SHARD_KERNELS_CUDA_WEIGHT_ELEMENT_CUH

#include "shard/kernels/cuda/device.cuh"
#include "shard/kernels/weight.h"

/* What kernels need of a matrix beside its data. */
typedef struct weight_shape {
    uint64_t strip_bytes; /* of types in strips */
    uint32_t rows, cols, groups;
} weight_shape;

static inline weight_shape weight_shape_of(weight_type type, uint32_t rows, uint32_t cols) {
    weight_shape s = {weight_in_strips(type) ? quant_strip_bytes(type, cols) : 0, rows, cols, quant_groups(cols)};
    return s;
}

/* e4m3 without NaN: exact. A bf16 with the same exponent and fraction bits is 2^120 times smaller. */
static __device__ __forceinline__ float fp8_float(uint32_t byte) {
    return __uint_as_float((byte & 0x80u) << 24 | (byte & 0x7Fu) << 20) * 0x1p120f;
}

/* The factor of an element, in types that have one. */
template <int type>
static __device__ __forceinline__ float weight_scale(const unsigned char *data, const weight_shape &s, uint32_t row,
                                                     uint32_t col) {
    const unsigned char *strip = data + (size_t)(row / QUANT_ROWS) * s.strip_bytes;
    if (type == WEIGHT_FP8)
        return *(const float *)(strip + (s.strip_bytes - QUANT_ROWS * sizeof(float)) + row % QUANT_ROWS * sizeof(float));
    uint32_t group_bytes = type == WEIGHT_Q8 ? (uint32_t)Q8_GROUP_BYTES : (uint32_t)Q4_GROUP_BYTES;
    return f16_float(*(const uint16_t *)(strip + (size_t)s.groups * group_bytes + col / QUANT_GROUP * QUANT_SCALE_BYTES +
                                         row % QUANT_ROWS * 2));
}

template <int type>
static __device__ __forceinline__ float weight_element(const unsigned char *data, const weight_shape &s, uint32_t row,
                                                       uint32_t col) {
    size_t at = (size_t)row * s.cols + col;
    if (type == WEIGHT_F32) return ((const float *)data)[at];
    if (type == WEIGHT_BF16) return bf16_float(((const uint16_t *)data)[at]);
    if (type == WEIGHT_F16) return f16_float(((const uint16_t *)data)[at]);
    const unsigned char *strip = data + (size_t)(row / QUANT_ROWS) * s.strip_bytes;
    float scale = weight_scale<type>(data, s, row, col);
    uint32_t r = row % QUANT_ROWS, i = col % QUANT_GROUP;
    if (type == WEIGHT_FP8) return fp8_float(strip[(size_t)r * ((s.cols + 15) / 16 * 16) + col]) * scale;
    const unsigned char *quants = strip + (size_t)(col / QUANT_GROUP) * (type == WEIGHT_Q8 ? (uint32_t)Q8_GROUP_BYTES
                                                                                             : (uint32_t)Q4_GROUP_BYTES);
    if (type == WEIGHT_Q8) return (float)((int)quants[i / 4 * 64 + 4 * r + i % 4] - 128) * scale;
    uint32_t byte = quants[i % 16 / 4 * 64 + 4 * r + i % 4];
    return (float)((int)(i < 16 ? byte & 15u : byte >> 4) - 8) * scale;
}

/* CALL(type) with the type as a constant. */
#define WEIGHT_TYPE_SWITCH(type, CALL)                                                                                 \
    do {                                                                                                               \
        switch (type) {                                                                                                \
        case WEIGHT_F32: CALL(WEIGHT_F32); break;                                                                      \
        case WEIGHT_BF16: CALL(WEIGHT_BF16); break;                                                                    \
        case WEIGHT_F16: CALL(WEIGHT_F16); break;                                                                      \
        case WEIGHT_Q8: CALL(WEIGHT_Q8); break;                                                                        \
        case WEIGHT_Q4: CALL(WEIGHT_Q4); break;                                                                        \
        case WEIGHT_FP8: CALL(WEIGHT_FP8); break;                                                                      \
        default: break;                                                                                                \
        }                                                                                                              \
    } while (0)
#endif
