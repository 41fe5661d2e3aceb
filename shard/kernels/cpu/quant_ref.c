/* What the answers of quant.h are: every other variant gives these bits. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "shard/kernels/cpu/quant.h"

static void ref_quantise(const float *x, uint32_t groups, int8_t *values, float *scale, int32_t *bias,
                         size_t stride) {
    for (uint32_t g = 0; g < groups; g++, x += QUANT_GROUP) {
        int8_t *v = values + g * QUANT_GROUP * stride;
        float largest = 0, inverse = 0;
        for (int i = 0; i < QUANT_GROUP; i++)
            if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
        if (largest < QUANT_LEAST) largest = 0;
        else inverse = 127.0f / largest;
        int32_t sum = 0;
        for (int i = 0; i < QUANT_GROUP; i++) {
            float scaled = x[i] * inverse;
            v[i] = fabsf(scaled) <= 127.5f ? (int8_t)nearbyintf(scaled) : 0;
            sum += v[i];
        }
        scale[g * stride] = largest / 127.0f;
        bias[g * stride] = -8 * sum;
    }
}

static int stored_value(const uint8_t *group, weight_type type, uint32_t row, uint32_t column) {
    if (type == WEIGHT_Q8) return group[column / 4 * 64 + row * 4 + column % 4] - 128;
    int byte = group[column % 16 / 4 * 64 + row * 4 + column % 4];
    return (column < 16 ? byte & 15 : byte >> 4) - 8;
}

static float output(const quant_input *x, uint32_t token, const uint8_t *strip, weight_type type,
                    uint32_t row) {
    const uint16_t *scales =
        (const uint16_t *)(const void *)(strip + (size_t)x->groups * quant_group_bytes(type));
    float sum = 0;
    for (uint32_t g = 0; g < x->groups; g++) {
        size_t at = quant_place(x, token, g);
        const uint8_t *group = strip + (size_t)g * quant_group_bytes(type);
        int32_t dot = 0;
        for (uint32_t c = 0; c < QUANT_GROUP; c++)
            dot += stored_value(group, type, row, c) * x->values[at * QUANT_GROUP + c];
        sum = fmaf((float)dot, half_to_float(scales[g * QUANT_ROWS + row]) * x->scale[at], sum);
    }
    return sum;
}

static void product(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                    const void *weights, uint32_t rows, uint32_t cols, weight_type type) {
    for (uint32_t r = 0; r < rows; r++) {
        const uint8_t *strip = (const uint8_t *)weights + r / QUANT_ROWS * quant_strip_bytes(type, cols);
        for (uint32_t t = first; t < first + tokens; t++)
            y[t * y_stride + r] = output(x, t, strip, type, r % QUANT_ROWS);
    }
}

static void ref_q8(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                   const void *weights, uint32_t rows, uint32_t cols) {
    product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q8);
}

static void ref_q4(float *y, size_t y_stride, const quant_input *x, uint32_t first, uint32_t tokens,
                   const void *weights, uint32_t rows, uint32_t cols) {
    product(y, y_stride, x, first, tokens, weights, rows, cols, WEIGHT_Q4);
}

const quant_kernels quant_kernels_scalar = {
    .name = "scalar", .quantise = ref_quantise, .q8 = ref_q8, .q4 = ref_q4};
