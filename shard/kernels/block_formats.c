#include "shard/kernels/block_formats.h"

#include "base/half.h"
#include "base/invariant.h"

enum { GROUP = 32, K_ELEMENTS = 256, K_SCALE_BYTES = 12 };

static float half_at(const uint8_t *p) { return half_to_float((uint16_t)(p[0] | p[1] << 8)); }

static void q4_0(const uint8_t *b, float *out) {
    float scale = half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)((b[2 + i] & 15) - 8);
        out[i + 16] = scale * (float)((b[2 + i] >> 4) - 8);
    }
}

static void q4_1(const uint8_t *b, float *out) {
    float scale = half_at(b), least = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)(b[4 + i] & 15) + least;
        out[i + 16] = scale * (float)(b[4 + i] >> 4) + least;
    }
}

static uint32_t fifth_bits(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void q5_0(const uint8_t *b, float *out) {
    float scale = half_at(b);
    uint32_t high = fifth_bits(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)((int)((b[6 + i] & 15u) | (high >> i & 1) << 4) - 16);
        out[i + 16] = scale * (float)((int)((b[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16);
    }
}

static void q5_1(const uint8_t *b, float *out) {
    float scale = half_at(b), least = half_at(b + 2);
    uint32_t high = fifth_bits(b + 4);
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)((b[8 + i] & 15u) | (high >> i & 1) << 4) + least;
        out[i + 16] = scale * (float)((uint32_t)(b[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) + least;
    }
}

static void q8_0(const uint8_t *b, float *out) {
    float scale = half_at(b);
    for (int i = 0; i < GROUP; i++) out[i] = scale * (float)(int8_t)b[2 + i];
}

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each whole, of the other four the low
 * bits in the last 4 bytes and the high bits on top of the first eight. */
static void k_scale(const uint8_t *s, int group, uint8_t *scale, uint8_t *least) {
    if (group < 4) {
        *scale = s[group] & 63;
        *least = s[group + 4] & 63;
    } else {
        *scale = (uint8_t)((s[group + 4] & 15) | (s[group - 4] >> 6) << 4);
        *least = (uint8_t)((s[group + 4] >> 4) | (s[group] >> 6) << 4);
    }
}

/* Q4_K and Q5_K: bit `group` of fifth[] is the fifth bit of that group's elements; NULL: there is none. */
static void q45_k(const uint8_t *b, const uint8_t *fifth, const uint8_t *nibbles, float *out) {
    float scale_all = half_at(b), least_all = half_at(b + 2);
    for (int group = 0; group < K_ELEMENTS / GROUP; group++) {
        uint8_t scale_bits, least_bits;
        k_scale(b + 4, group, &scale_bits, &least_bits);
        float scale = scale_all * (float)scale_bits, least = least_all * (float)least_bits;
        const uint8_t *q = nibbles + group / 2 * GROUP; /* two groups share 32 bytes */
        for (int i = 0; i < GROUP; i++) {
            uint32_t bits = group & 1 ? q[i] >> 4 : q[i] & 15;
            if (fifth) bits |= (uint32_t)(fifth[i] >> group & 1) << 4;
            out[group * GROUP + i] = scale * (float)bits - least;
        }
    }
}

static void q4_k(const uint8_t *b, float *out) { q45_k(b, NULL, b + 4 + K_SCALE_BYTES, out); }

static void q5_k(const uint8_t *b, float *out) {
    const uint8_t *fifth = b + 4 + K_SCALE_BYTES;
    q45_k(b, fifth, fifth + GROUP, out);
}

/* Halves of 128: four groups of 32 whose low bits lie in the nibbles of 64 bytes and whose high bits share 32. */
static void q6_k(const uint8_t *b, float *out) {
    const uint8_t *scales = b + 192;
    float scale_all = half_at(b + 208);
    for (int e = 0; e < K_ELEMENTS; e++) {
        int half = e / 128, group = e / 32 % 4, i = e % 32;
        uint8_t low = b[half * 64 + (group & 1) * 32 + i], high = b[128 + half * 32 + i];
        int bits = (group & 2 ? low >> 4 : low & 15) | (high >> 2 * group & 3) << 4;
        float scale = scale_all * (float)(int8_t)scales[e / 16];
        out[e] = scale * (float)(bits - 32);
    }
}

static const struct {
    uint32_t elements, bytes;
    void (*dequantise)(const uint8_t *block, float *out);
} formats[BLOCK_FORMATS] = {
    [BLOCK_Q4_0] = {32, 18, q4_0},   [BLOCK_Q4_1] = {32, 20, q4_1},   [BLOCK_Q5_0] = {32, 22, q5_0},
    [BLOCK_Q5_1] = {32, 24, q5_1},   [BLOCK_Q8_0] = {32, 34, q8_0},   [BLOCK_Q4_K] = {256, 144, q4_k},
    [BLOCK_Q5_K] = {256, 176, q5_k}, [BLOCK_Q6_K] = {256, 210, q6_k},
};

uint32_t block_elements(block_format format) {
    INVARIANT((uint32_t)format < BLOCK_FORMATS);
    return formats[format].elements;
}

uint32_t block_bytes(block_format format) {
    INVARIANT((uint32_t)format < BLOCK_FORMATS);
    return formats[format].bytes;
}

void block_dequantise(block_format format, const void *blocks, float *out, size_t elements) {
    INVARIANT((uint32_t)format < BLOCK_FORMATS && elements % formats[format].elements == 0);
    const uint8_t *b = blocks;
    for (size_t i = 0; i < elements; i += formats[format].elements, b += formats[format].bytes)
        formats[format].dequantise(b, out + i);
}
