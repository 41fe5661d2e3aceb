/* The operations that need no sum: one element in, one out. */
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"

void ref_add(float *x, const float *y, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] += y[i];
}

void ref_scale(float *x, float factor, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] *= factor;
}

void ref_add_scaled(float *y, float a, const float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) y[i] = fmaf(a, x[i], y[i]);
}

void ref_multiply(float *x, const float *y, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] *= y[i];
}

void ref_gelu_multiply(float *y, const float *gate, const float *up, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) y[i] = ref_gelu(gate[i]) * up[i];
}

void ref_softcap(float *x, float cap, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] = cap * ref_tanh(x[i] / cap);
}
