/* convert_ref.c on sixteen lanes. Included after one of lanes_avx2.h and lanes_avx512.h. */
#ifndef SHARD_KERNELS_CPU_CONVERT_LANES_H
#define SHARD_KERNELS_CPU_CONVERT_LANES_H

static void vec_f32_from_bf16(float *y, const uint16_t *x, size_t n) {
    size_t i = 0;
    for (; n - i >= 16; i += 16) lanes_store(y + i, lanes_load_bf16(x + i));
    uint32_t rest = (uint32_t)(n - i);
    if (rest) lanes_store_part(y + i, lanes_load_bf16_part(x + i, rest), rest);
}

static void vec_f32_from_f16(float *y, const uint16_t *x, size_t n) {
    size_t i = 0;
    for (; n - i >= 16; i += 16) lanes_store(y + i, lanes_load_f16(x + i));
    uint32_t rest = (uint32_t)(n - i);
    if (rest) lanes_store_part(y + i, lanes_load_f16_part(x + i, rest), rest);
}

static void vec_bf16_from_f32(uint16_t *y, const float *x, size_t n) {
    size_t i = 0;
    for (; n - i >= 16; i += 16) lanes_store_bf16(y + i, lanes_load(x + i));
    uint32_t rest = (uint32_t)(n - i);
    if (!rest) return;
    uint16_t last[16];
    lanes_store_bf16(last, lanes_load_part(x + i, rest));
    memcpy(y + i, last, rest * sizeof *y);
}

#endif
