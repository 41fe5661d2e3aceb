/* binary16 and e4m3 to and from binary32. A signalling NaN of a half becomes the quiet one with its payload, as in the
 * F16C instruction. e4m3: 1, 4 and 3 bits, exponents biased by 7, subnormals, no infinity; 0x7F and 0xFF are NaN. */
#ifndef BASE_HALF_H
#define BASE_HALF_H

#include <stdint.h>
#include <string.h>

/* Exact: every half, subnormal ones too, is a single. */
static inline float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 1023,
             bits;
    float x = (float)fraction * 0x1p-24f;
    memcpy(&bits, &x, sizeof bits);
    if (exponent == 31) bits = 0x7F800000u | (fraction ? 0x400000u | fraction << 13 : 0);
    else if (exponent) bits = (exponent + 112) << 23 | fraction << 13;
    bits |= sign;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, halves to even; beyond the range infinity. */
static inline uint16_t half_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, exponent = bits >> 23 & 255, fraction = bits & 0x7FFFFF;
    if (exponent == 255) return (uint16_t)(sign | 0x7C00 | (fraction ? 0x200 | fraction >> 13 : 0));
    if (exponent > 142) return (uint16_t)(sign | 0x7C00);
    uint32_t shift = exponent > 112 ? 13 : 126 - exponent; /* subnormal halves lose more */
    if (shift > 24) return (uint16_t)sign;
    uint32_t whole = exponent > 112 ? (exponent - 112) << 10 : 0;
    if (exponent <= 112) fraction |= 0x800000;
    uint32_t half = whole + (fraction >> shift), rest = fraction & ((1u << shift) - 1),
             tie = 1u << (shift - 1);
    half += rest > tie || (rest == tie && (half & 1));
    return (uint16_t)(sign | half);
}

#define E4M3_LARGEST 448.0f

/* Exact. */
static inline float e4m3_to_float(uint8_t code) {
    uint32_t sign = (uint32_t)(code & 0x80) << 24, exponent = code >> 3 & 15, fraction = code & 7, bits;
    float x = (float)fraction * 0x1p-9f;
    memcpy(&bits, &x, sizeof bits);
    if (exponent) bits = (exponent + 120) << 23 | fraction << 20;
    if ((code & 0x7F) == 0x7F) bits = 0x7FC00000;
    bits |= sign;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, halves to even; beyond the range, infinities too, the largest number; NaN stays NaN. Masks in place of
 * branches, and signed numbers, so that a loop over a row becomes vector code of any instruction set. */
static inline uint8_t e4m3_from_float(float x) {
    int32_t bits, small;
    memcpy(&bits, &x, sizeof bits);
    int32_t magnitude = bits & 0x7FFFFFFF, over = -(magnitude > 0x43E00000); /* 448 */
    int32_t most = (magnitude & ~over) | (0x43E00000 & over);
    float sum;
    memcpy(&sum, &most, sizeof sum);
    sum += 0x1p14f; /* whose unit in the last place is the step of subnormals: the addition rounds */
    memcpy(&small, &sum, sizeof small);
    small -= 0x46800000;
    int32_t normal = (most + 0x7FFFF + (most >> 20 & 1) - 0x3C000000) >> 20; /* exponent less 120 */
    int32_t subnormal = -(most < 0x3C800000), nan = -(magnitude > 0x7F800000);   /* 2^-6, the least that is normal */
    return (uint8_t)((small & subnormal) | (normal & ~subnormal) | (0x7F & nan) | (bits >> 24 & 0x80));
}

#endif
