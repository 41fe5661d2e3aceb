/* Stored weights as pairs of bf16, exactly: a word is four neighbouring columns of one row (weight.h), and becomes columns
 * 0, 1 and columns 2, 3. */
#ifndef SHARD_KERNELS_CUDA_STORED_VALUES_CUH
#define SHARD_KERNELS_CUDA_STORED_VALUES_CUH

#include "shard/kernels/cuda/device.cuh"

enum : uint32_t {
    BYTES_01 = 0x4140u, BYTES_23 = 0x4342u,     /* __byte_perm: each byte below one of the second operand */
    BF16_128 = 0x43434343u,                     /* 0x43vv is 128 + vv for vv below 128 */
    BF16_ONES = 0x3F803F80u,
};

/* 128 + v - 128 for v = byte - 128 >= 0, else 128 + v' - 256: a bf16 holds 8 bits, so bit 7 chooses what is taken off. */
static __device__ __forceinline__ uint32_t stored_q8_pair(uint32_t pair) {
    return bf16_fma2(pair & 0xFF7FFF7Fu, BF16_ONES, 0xC300C300u | (~pair & 0x00800080u));
}
static __device__ __forceinline__ void stored_q8(uint32_t word, uint32_t out[2]) {
    out[0] = stored_q8_pair(__byte_perm(word, BF16_128, BYTES_01));
    out[1] = stored_q8_pair(__byte_perm(word, BF16_128, BYTES_23));
}

/* A word of nibbles in the low halves of its bytes. */
static __device__ __forceinline__ void stored_q4(uint32_t word, uint32_t out[2]) {
    const uint32_t minus_136 = 0xC308C308u;
    word &= 0x0F0F0F0Fu;
    out[0] = bf16_fma2(__byte_perm(word, BF16_128, BYTES_01), BF16_ONES, minus_136);
    out[1] = bf16_fma2(__byte_perm(word, BF16_128, BYTES_23), BF16_ONES, minus_136);
}

/* The byte's exponent and fraction at their place in a bf16 are the value · 2^-120, subnormal ones included. */
static __device__ __forceinline__ uint32_t stored_fp8_pair(uint32_t pair) {
    const uint32_t two_to_120 = 0x7B807B80u, minus_zero = 0x80008000u;
    return bf16_fma2((pair & 0x80008000u) | (pair >> 4 & 0x07F007F0u), two_to_120, minus_zero);
}
static __device__ __forceinline__ void stored_fp8(uint32_t word, uint32_t out[2]) {
    out[0] = stored_fp8_pair(__byte_perm(word, 0, 0x1404u)); /* each byte above a zero */
    out[1] = stored_fp8_pair(__byte_perm(word, 0, 0x3424u));
}

/* Four columns times their scale, rounded to bf16. */
static __device__ __forceinline__ uint2 stored_scaled(const uint32_t pairs[2], float scale) {
    return make_uint2(bf16_pack(bf16_low(pairs[0]) * scale, bf16_high(pairs[0]) * scale),
                      bf16_pack(bf16_low(pairs[1]) * scale, bf16_high(pairs[1]) * scale));
}

#endif
