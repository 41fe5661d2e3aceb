#include "shard/kernels/quant_layout.h"

#include <math.h>
#include <string.h>

#include "base/half.h"

typedef struct place {
    uint8_t *quants; /* of group 0, at the row's first byte */
    uint16_t *scales;
    uint32_t group_bytes;
} place;

static place place_of(weight_type type, const void *strips, uint32_t cols, uint32_t row) {
    uint8_t *strip = (uint8_t *)(uintptr_t)strips + row / QUANT_ROWS * quant_strip_bytes(type, cols);
    uint32_t group_bytes = quant_group_bytes(type), lane = row % QUANT_ROWS;
    uint16_t *scales = (uint16_t *)(void *)(strip + (size_t)quant_groups(cols) * group_bytes);
    return (place){strip + 4 * lane, scales + lane, group_bytes};
}

/* Values as they are stored, column by column. */
static void put_q8(const place *p, uint32_t group, uint16_t scale, const uint8_t stored[QUANT_GROUP]) {
    for (int v = 0; v < 8; v++)
        memcpy(p->quants + (size_t)group * Q8_GROUP_BYTES + 64 * v, stored + 4 * v, 4);
    p->scales[group * QUANT_ROWS] = scale;
}

static void put_q4(const place *p, uint32_t group, uint16_t scale, const uint8_t pairs[QUANT_GROUP / 2]) {
    for (int v = 0; v < 4; v++) memcpy(p->quants + (size_t)group * Q4_GROUP_BYTES + 64 * v, pairs + 4 * v, 4);
    p->scales[group * QUANT_ROWS] = scale;
}

static void floats_to_q8(const place *p, uint32_t group, const float *x) {
    float largest = 0;
    for (int i = 0; i < QUANT_GROUP; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    float scale = largest / 127.0f, inverse = scale != 0 ? 1.0f / scale : 0;
    uint8_t stored[QUANT_GROUP];
    for (int i = 0; i < QUANT_GROUP; i++) {
        float v = x[i] * inverse;
        stored[i] = (uint8_t)((int)(v < 0 ? v - 0.5f : v + 0.5f) + 128); /* halves away from zero */
    }
    put_q8(p, group, half_from_float(scale), stored);
}

static void floats_to_q4(const place *p, uint32_t group, const float *x) {
    float largest = 0, signed_largest = 0;
    for (int i = 0; i < QUANT_GROUP; i++) {
        if (fabsf(x[i]) <= largest) continue;
        largest = fabsf(x[i]);
        signed_largest = x[i];
    }
    float scale = signed_largest / -8.0f, inverse = scale != 0 ? 1.0f / scale : 0;
    uint8_t v[QUANT_GROUP], pairs[QUANT_GROUP / 2];
    for (int i = 0; i < QUANT_GROUP; i++) {
        int q = (int)(x[i] * inverse + 8.5f);
        v[i] = (uint8_t)(q > 15 ? 15 : q);
    }
    for (int i = 0; i < QUANT_GROUP / 2; i++) pairs[i] = (uint8_t)(v[i] | v[i + 16] << 4);
    put_q4(p, group, half_from_float(scale), pairs);
}

enum { LANES = 16 };

/* Whole vectors' worth with a constant count, which is what compilers make vector code of. */
static void sixteen_to_fp8(uint8_t *restrict values, const float *restrict x, float scale) {
    uint32_t codes[LANES];
    for (int i = 0; i < LANES; i++) codes[i] = e4m3_from_float(x[i] / scale);
    for (int i = 0; i < LANES; i++) values[i] = (uint8_t)codes[i];
}

/* Bits of magnitudes are in their order. A NaN makes the scale one, and the row: as it would any sum over it. */
static float largest_of(const float *x, uint32_t n) {
    uint32_t lanes[LANES] = {0}, largest = 0, i = 0;
    float out;
    for (; i + LANES <= n; i += LANES) {
        uint32_t bits[LANES];
        memcpy(bits, x + i, sizeof bits);
        for (int k = 0; k < LANES; k++) {
            uint32_t magnitude = bits[k] & 0x7FFFFFFF;
            lanes[k] = magnitude > lanes[k] ? magnitude : lanes[k];
        }
    }
    for (; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        if ((bits & 0x7FFFFFFF) > largest) largest = bits & 0x7FFFFFFF;
    }
    for (int k = 0; k < LANES; k++) largest = lanes[k] > largest ? lanes[k] : largest;
    memcpy(&out, &largest, sizeof out);
    return out;
}

/* One scale for the whole row; columns that do not exist stay 0. */
static void floats_to_fp8(void *strips, uint32_t cols, uint32_t row, const float *x) {
    uint8_t *strip = (uint8_t *)strips + row / QUANT_ROWS * quant_strip_bytes(WEIGHT_FP8, cols);
    uint32_t row_bytes = fp8_row_bytes(cols), lane = row % QUANT_ROWS, c = 0;
    uint8_t *values = strip + (size_t)lane * row_bytes;
    float scale = largest_of(x, cols) / E4M3_LARGEST;
    ((float *)(void *)(strip + (size_t)QUANT_ROWS * row_bytes))[lane] = scale;
    if (scale == 0) return;
    for (; c + LANES <= cols; c += LANES) sixteen_to_fp8(values + c, x + c, scale);
    for (; c < cols; c++) values[c] = e4m3_from_float(x[c] / scale);
}

void quant_store_floats(weight_type type, void *strips, uint32_t cols, uint32_t row, const float *x) {
    if (type == WEIGHT_FP8) {
        floats_to_fp8(strips, cols, row, x);
        return;
    }
    place p = place_of(type, strips, cols, row);
    for (uint32_t g = 0; g * QUANT_GROUP < cols; g++, x += QUANT_GROUP) {
        float rest[QUANT_GROUP] = {0};
        const float *group = x;
        if (cols - g * QUANT_GROUP < QUANT_GROUP) {
            memcpy(rest, x, (cols - g * QUANT_GROUP) * sizeof *rest);
            group = rest;
        }
        if (type == WEIGHT_Q8) floats_to_q8(&p, g, group);
        else floats_to_q4(&p, g, group);
    }
}

static uint16_t read_half(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return half;
}

/* Q4_0: a scale, then 16 bytes whose low nibbles are columns 0 … 15 and whose high ones 16 … 31. */
void quant_store_q4_0(void *strips, uint32_t cols, uint32_t row, const void *blocks) {
    place p = place_of(WEIGHT_Q4, strips, cols, row);
    const uint8_t *b = blocks;
    for (uint32_t g = 0; g < quant_groups(cols); g++, b += 18) put_q4(&p, g, read_half(b), b + 2);
}

void quant_store_q8_0(void *strips, uint32_t cols, uint32_t row, const void *blocks) {
    place p = place_of(WEIGHT_Q8, strips, cols, row);
    const uint8_t *b = blocks;
    for (uint32_t g = 0; g < quant_groups(cols); g++, b += 34) {
        uint8_t stored[QUANT_GROUP];
        for (int i = 0; i < QUANT_GROUP; i++) stored[i] = b[2 + i] ^ 0x80;
        put_q8(&p, g, read_half(b), stored);
    }
}

/* Q5_0: a scale, the fifth bits of columns 0 … 31, then nibbles as in Q4_0; a value is the five bits less 16. */
void quant_store_q5_0(void *strips, uint32_t cols, uint32_t row, const void *blocks) {
    place p = place_of(WEIGHT_Q8, strips, cols, row);
    const uint8_t *b = blocks;
    for (uint32_t g = 0; g < quant_groups(cols); g++, b += 22) {
        uint8_t stored[QUANT_GROUP];
        uint32_t fifth;
        memcpy(&fifth, b + 2, sizeof fifth);
        for (int i = 0; i < QUANT_GROUP; i++) {
            int low = i < 16 ? b[6 + i] & 15 : b[6 + i - 16] >> 4;
            stored[i] = (uint8_t)((low | (int)(fifth >> i & 1) << 4) - 16 + 128);
        }
        put_q8(&p, g, read_half(b), stored);
    }
}

static void fp8_row(const weight *w, uint32_t row, float *y) {
    const uint8_t *strip = (const uint8_t *)w->data + row / QUANT_ROWS * quant_strip_bytes(WEIGHT_FP8, w->cols);
    uint32_t row_bytes = fp8_row_bytes(w->cols), lane = row % QUANT_ROWS;
    const uint8_t *values = strip + (size_t)lane * row_bytes;
    float scale = ((const float *)(const void *)(strip + (size_t)QUANT_ROWS * row_bytes))[lane];
    for (uint32_t c = 0; c < w->cols; c++) y[c] = e4m3_to_float(values[c]) * scale;
}

void quant_row(const weight *w, uint32_t row, float *y) {
    if (w->type == WEIGHT_FP8) {
        fp8_row(w, row, y);
        return;
    }
    place p = place_of(w->type, w->data, w->cols, row);
    for (uint32_t c = 0; c < w->cols; c++) {
        uint32_t g = c / QUANT_GROUP, i = c % QUANT_GROUP;
        const uint8_t *group = p.quants + (size_t)g * p.group_bytes;
        int value;
        if (w->type == WEIGHT_Q8) value = group[i / 4 * 64 + i % 4] - 128;
        else value = (i < 16 ? group[i / 4 * 64 + i % 4] & 15 : group[(i - 16) / 4 * 64 + i % 4] >> 4) - 8;
        y[c] = (float)value * half_to_float(p.scales[g * QUANT_ROWS]);
    }
}
