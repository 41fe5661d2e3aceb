#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/ref.h"

const cpu_kernels cpu_kernels_scalar = {
    .name = "scalar",
    .matmul = {[WEIGHT_F32] = ref_matmul_f32, [WEIGHT_BF16] = ref_matmul_bf16, [WEIGHT_F16] = ref_matmul_f16},
    .rmsnorm = ref_rmsnorm,
    .add = ref_add,
    .scale = ref_scale,
    .add_scaled = ref_add_scaled,
    .multiply = ref_multiply,
    .gelu_multiply = ref_gelu_multiply,
    .softcap = ref_softcap,
    .rope = ref_rope,
    .max = ref_max_of,
    .exp_sum = ref_exp_sum,
    .softmax_page = ref_softmax_page,
    .scores_page = ref_scores_page,
    .values_page = ref_values_page,
    .expand_rows = ref_expand_rows,
    .quantise_row = ref_quantise_row,
    .expand_q8 = ref_expand_q8,
    .rotate_keys = ref_rotate_keys,
    .compose_angles = ref_compose_angles,
    .f32_from_bf16 = ref_f32_from_bf16,
    .f32_from_f16 = ref_f32_from_f16,
    .bf16_from_f32 = ref_bf16_from_f32,
};
