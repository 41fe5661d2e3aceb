/* The table of a vector variant: everything the *_lanes.h files define, under one name. Included last. */
#ifndef SHARD_KERNELS_CPU_TABLE_LANES_H
#define SHARD_KERNELS_CPU_TABLE_LANES_H

#define LANES_TABLE(variant)                                                                                 \
    {                                                                                                        \
        .name = variant,                                                                                     \
        .matmul =                                                                                            \
            {[WEIGHT_F32] = vec_matmul_f32, [WEIGHT_BF16] = vec_matmul_bf16, [WEIGHT_F16] = vec_matmul_f16}, \
        .rmsnorm = vec_rmsnorm, .add = vec_add, .scale = vec_scale, .add_scaled = vec_add_scaled,            \
        .multiply = vec_multiply, .gelu_multiply = vec_gelu_multiply, .softcap = vec_softcap,                \
        .rope = vec_rope, .max = vec_max, .exp_sum = vec_exp_sum, .softmax_page = vec_softmax_page,          \
        .scores_page = vec_scores_page, .values_page = vec_values_page, .expand_rows = vec_expand_rows,      \
        .quantise_row = vec_quantise_row, .expand_q8 = vec_expand_q8,                                        \
        .rotate_keys = vec_rotate_keys, .compose_angles = vec_compose_angles,                                \
        .f32_from_bf16 = vec_f32_from_bf16, .f32_from_f16 = vec_f32_from_f16,                                \
        .bf16_from_f32 = vec_bf16_from_f32,                                                                  \
    }

#endif
