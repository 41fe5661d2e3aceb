/* Constants of the float functions, shared by the reference and the vector files. The polynomials are minimax
 * fits of our own (Remez, in 40 digits), their coefficients rounded to float afterwards. */
#ifndef SHARD_KERNELS_CPU_MATH_CONSTANTS_H
#define SHARD_KERNELS_CPU_MATH_CONSTANTS_H

/* Adding 1.5 · 2^23 rounds to an integer, which then is the low bits of the float. */
#define ROUND_SHIFT 12582912.0f
#define LOG2_E 0x1.715476p+0f
/* ln 2 in two parts; the high one has 16 bits, so that k times it is exact. */
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_LOWEST -104.0f
#define EXP_HIGHEST 89.0f
/* exp(r) = 1 + r + r² (Q0 + Q1 r + …) for |r| ≤ 0.3468, relative error 2^-28.3 */
#define EXP_Q0 0x1.fffffcp-2f
#define EXP_Q1 0x1.555492p-3f
#define EXP_Q2 0x1.5558f2p-5f
#define EXP_Q3 0x1.123a2p-7f
#define EXP_Q4 0x1.6a23cap-10f

/* A softmax weight below e^-64 is 0: next to a weight of 1 it is nothing to a float, and so no sum of attention meets
 * subnormal numbers, at which processors take a hundred times as long. */
#define SOFTMAX_LOWEST -64.0f

/* Values whose largest magnitude is below this are 0 as 8 bits. */
#define QUANT_LEAST 0x1p-100f

/* tanh(x) = x + x³ (P0 + P1 x² + …) for |x| ≤ 0.625, relative error 2^-27.8 */
#define TANH_NEAR 0.625f
#define TANH_P0 -0x1.555532p-2f
#define TANH_P1 0x1.110726p-3f
#define TANH_P2 -0x1.b83c5ap-5f
#define TANH_P3 0x1.52269cp-6f
#define TANH_P4 -0x1.75e1dp-8f

#define GELU_CUBE 0.044715f
#define GELU_MINUS_2_SQRT_2_PI -0x1.988454p+0f

#endif
