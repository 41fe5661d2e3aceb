/* What kernels need of a matrix beside its data (weight.h), and its type as a constant of a template. */
#ifndef SHARD_KERNELS_CUDA_WEIGHT_SHAPE_CUH
#define SHARD_KERNELS_CUDA_WEIGHT_SHAPE_CUH

#include "shard/kernels/weight.h"

typedef struct weight_shape {
    uint64_t strip_bytes; /* of QUANT_ROWS rows */
    uint32_t rows, cols;
    uint32_t row_bytes;   /* of float types and fp8 */
    uint32_t scales_at;   /* in a strip, of types that have scales */
} weight_shape;

static inline weight_shape weight_shape_of(weight_type type, uint32_t rows, uint32_t cols) {
    weight_shape s = {0, rows, cols, 0, 0};
    if (weight_is_quantised(type)) {
        s.scales_at = quant_groups(cols) * quant_group_bytes(type);
    } else {
        s.row_bytes = type == WEIGHT_FP8 ? fp8_row_bytes(cols) : cols * weight_element_bytes(type);
        s.scales_at = QUANT_ROWS * s.row_bytes;
    }
    s.strip_bytes = weight_in_strips(type) ? quant_strip_bytes(type, cols) : (uint64_t)QUANT_ROWS * s.row_bytes;
    return s;
}

/* CALL(type) with the type as a constant: of those that tensor cores multiply (their values are exact in bf16), and of all. */
#define TENSOR_TYPE_CASES_(CALL)                                                                                       \
    case WEIGHT_BF16: CALL(WEIGHT_BF16); break;                                                                        \
    case WEIGHT_Q8: CALL(WEIGHT_Q8); break;                                                                            \
    case WEIGHT_Q4: CALL(WEIGHT_Q4); break;                                                                            \
    case WEIGHT_FP8: CALL(WEIGHT_FP8); break;
#define TENSOR_TYPE_SWITCH(type, CALL)                                                                                 \
    do {                                                                                                               \
        switch (type) {                                                                                                \
            TENSOR_TYPE_CASES_(CALL)                                                                                   \
        default: break;                                                                                                \
        }                                                                                                              \
    } while (0)
#define WEIGHT_TYPE_SWITCH(type, CALL)                                                                                 \
    do {                                                                                                               \
        switch (type) {                                                                                                \
        case WEIGHT_F32: CALL(WEIGHT_F32); break;                                                                      \
        case WEIGHT_F16: CALL(WEIGHT_F16); break;                                                                      \
            TENSOR_TYPE_CASES_(CALL)                                                                                   \
        default: break;                                                                                                \
        }                                                                                                              \
    } while (0)
#endif
