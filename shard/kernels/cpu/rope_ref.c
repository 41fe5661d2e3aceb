#include "shard/kernels/cpu/ref.h"

void ref_rope(float *x, const float *cosine, const float *sine, uint32_t half, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}
