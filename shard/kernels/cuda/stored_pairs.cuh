/* Stored weights as pairs of bf16, exactly, in the order that costs least: a word is four neighbouring columns of one row
 * (weight.h) and becomes the pairs of columns 0, 2 and 1, 3, bytes that are 16 bits apart already. stored_values.cuh has
 * them in order. */
#ifndef SHARD_KERNELS_CUDA_STORED_PAIRS_CUH
#define SHARD_KERNELS_CUDA_STORED_PAIRS_CUH

#include "shard/kernels/cuda/device.cuh"

/* Bytes are value + 128. 0x43vv is 128 + vv for vv below 128, a bf16 has no more bits; so bit 7 chooses what is taken off:
 * 128 + (byte - 128) - 128, or 128 + byte - 256. */
static __device__ __forceinline__ uint32_t pair_q8(uint32_t bytes) {
    const uint32_t ones = 0x3F803F80u;
    uint32_t minus = bits_not_and_or(bytes, 0x00800080u, 0xC300C300u);
    return bf16_fma2(bits_and_or(bytes, 0x007F007Fu, 0x43004300u), ones, minus);
}
static __device__ __forceinline__ void pairs_q8(uint32_t word, uint32_t out[2]) {
    out[0] = pair_q8(word);
    out[1] = pair_q8(word >> 8);
}

/* Nibbles are value + 8: those in the low halves of the word's bytes, as 128 + nibble - 136. */
static __device__ __forceinline__ uint32_t pair_q4(uint32_t bytes) {
    const uint32_t ones = 0x3F803F80u, minus_136 = 0xC308C308u;
    return bf16_fma2(bits_and_or(bytes, 0x000F000Fu, 0x43004300u), ones, minus_136);
}
static __device__ __forceinline__ void pairs_q4(uint32_t word, uint32_t out[2]) {
    out[0] = pair_q4(word);
    out[1] = pair_q4(word >> 8);
}

/* A byte's exponent and fraction at their place in a bf16 are the value · 2^-120, subnormal ones included. */
static __device__ __forceinline__ uint32_t pair_fp8(uint32_t signs, uint32_t rest) {
    const uint32_t two_to_120 = 0x7B807B80u, minus_zero = 0x80008000u;
    return bf16_fma2(bits_and_or(signs, 0x80008000u, rest & 0x07F007F0u), two_to_120, minus_zero);
}
static __device__ __forceinline__ void pairs_fp8(uint32_t word, uint32_t out[2]) {
    out[0] = pair_fp8(word << 8, word << 4);
    out[1] = pair_fp8(word, word >> 4);
}

#endif
