/* binary16 to and from binary32. A signalling NaN becomes the quiet one with its payload, as in the F16C instruction. */
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

#endif
