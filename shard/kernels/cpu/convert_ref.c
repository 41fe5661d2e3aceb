#include "base/half.h"
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"

void ref_f32_from_bf16(float *y, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = ref_from_bf16(x[i]);
}

void ref_f32_from_f16(float *y, const uint16_t *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = half_to_float(x[i]);
}

/* Adding 0x7FFF plus the lowest kept bit carries into the kept half exactly when rounding to nearest even
 * goes up. A NaN would carry into infinity; it keeps its upper payload and becomes quiet instead. */
void ref_bf16_from_f32(uint16_t *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u = ref_bits(x[i]);
        if (x[i] != x[i]) y[i] = (uint16_t)(u >> 16 | 0x40);
        else y[i] = (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
    }
}
