#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/math_double.h"

void rope_angles_double(double *cosine, double *sine, uint32_t position, double base, uint32_t head_dim,
                        uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++) {
        double angle = position * math_pow_double(base, -2.0 * i / head_dim);
        math_sincos_double(angle, &sine[i], &cosine[i]);
    }
}

void rope_angles(float *cosine, float *sine, uint32_t position, double base, uint32_t head_dim,
                 uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++) {
        double c, s, angle = position * math_pow_double(base, -2.0 * i / head_dim);
        math_sincos_double(angle, &s, &c);
        cosine[i] = (float)c;
        sine[i] = (float)s;
    }
}
