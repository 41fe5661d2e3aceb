#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"

void ref_rmsnorm(float *y, const float *x, const float *weight, float eps, uint32_t n) {
    float lane[LANES] = {0};
    for (uint32_t i = 0; i < n; i++) lane[i % LANES] = fmaf(x[i], x[i], lane[i % LANES]);
    float factor = 1.0f / sqrtf(ref_tree(lane) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) y[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}
