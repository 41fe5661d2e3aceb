/* rmsnorm_ref.c on sixteen lanes. Included after one of lanes_avx2.h and lanes_avx512.h. */
#ifndef SHARD_KERNELS_CPU_RMSNORM_LANES_H
#define SHARD_KERNELS_CPU_RMSNORM_LANES_H

#include <math.h>

static void vec_rmsnorm(float *y, const float *x, const float *gain, float eps, uint32_t n) {
    lanes sum = lanes_set(0);
    uint32_t i = 0;
    for (; n - i >= 16; i += 16) sum = lanes_fma(lanes_load(x + i), lanes_load(x + i), sum);
    uint32_t rest = n - i;
    if (rest) {
        lanes tail = lanes_load_part(x + i, rest);
        sum = lanes_first(rest, lanes_fma(tail, tail, sum), sum);
    }
    lanes factor = lanes_set(1.0f / sqrtf(lanes_sum(sum) / (float)n + eps));
    for (i = 0; n - i >= 16; i += 16) {
        lanes scaled = lanes_mul(lanes_load(x + i), factor);
        lanes_store(y + i, gain ? lanes_mul(scaled, lanes_load(gain + i)) : scaled);
    }
    if (!rest) return;
    lanes scaled = lanes_mul(lanes_load_part(x + i, rest), factor);
    lanes_store_part(y + i, gain ? lanes_mul(scaled, lanes_load_part(gain + i, rest)) : scaled, rest);
}

#endif
