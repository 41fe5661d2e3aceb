/* The CPU's inner kernels: one table a variant (scalar reference, AVX2, AVX-512), all giving the same bits.
 *
 * Arithmetic (docs/numerics.md): a float sum over n elements runs in 16 lanes, lane j adding elements j, j+16, … with
 * fmaf in that order from +0, then the tree l[j] += l[j+8] (j < 8), l[j] += l[j+4], += l[j+2], += l[j+1]. A lane that a
 * short tail does not reach keeps its value untouched. A result never depends on how many rows or tokens a call has.
 * exp, tanh and the rest are polynomials of our own; no libm, no approximate reciprocal or square root (sqrtf and
 * division are IEEE and allowed). bf16 and f16 become f32 exactly before they are used.
 *
 * Memory:  callers own everything; pointers need no alignment beyond their type; nothing is read or written past the
 *          extents given here. In-place use is allowed where said. matmul takes 120 KiB of stack.
 * Threads: any; no state. */
#ifndef SHARD_KERNELS_CPU_CPU_KERNELS_H
#define SHARD_KERNELS_CPU_CPU_KERNELS_H

#include "shard/kernels/cpu/kv_run.h"
#include "shard/kernels/weight.h"
#include <stddef.h>
#include <stdint.h>

typedef struct cpu_kernels {
    const char *name; /* "scalar", "avx2", "avx512" */

    /* y[t·y_stride + r] = Σ_c x[t·x_stride + c] · w[r·w_stride + c] for r < rows, t < tokens, c < cols.
     * Strides in elements. One function a weight type. cols may be 0 (the result is +0). */
    void (*matmul[WEIGHT_FLOAT_TYPES])(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                                 size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols);

    /* y = x / sqrt(mean(x²) + eps) · weight; weight NULL: without. mean is the 16-lane sum divided by n; the factor is
     * 1.0f / sqrtf(mean + eps), each element (x · factor) · weight. y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *weight, float eps, uint32_t n);
    /* x += y */
    void (*add)(float *x, const float *y, uint32_t n);
    /* x *= factor */
    void (*scale)(float *x, float factor, uint32_t n);
    /* y = fmaf(a, x, y) */
    void (*add_scaled)(float *y, float a, const float *x, uint32_t n);
    /* x *= y */
    void (*multiply)(float *x, const float *y, uint32_t n);
    /* y = gelu_tanh(gate) · up; y may be gate.
     * gelu_tanh(x) = 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x³), computed as x / (1 + exp(-2u)) */
    void (*gelu_multiply)(float *y, const float *gate, const float *up, uint32_t n);
    /* x = cap · tanh(x / cap) */
    void (*softcap)(float *x, float cap, uint32_t n);
    /* Rotate-half in place: for i < pairs (a, b) = (x[i], x[i + half]) becomes
     * (a·cos[i] - b·sin[i], b·cos[i] + a·sin[i]), each product rounded, then the sum: no fma. */
    void (*rope)(float *x, const float *cosine, const float *sine, uint32_t half, uint32_t pairs);

    /* Largest element, n > 0; +0 when that is a zero. */
    float (*max)(const float *x, uint32_t n);
    /* y = exp((x - shift) · factor); returns the 16-lane sum of y (lane j adds y[j], y[j+16], … with plain addition).
     * y may be x or NULL (sum only). -inf gives 0. */
    float (*exp_sum)(float *y, const float *x, float shift, float factor, uint32_t n);

    /* One query head against one KV page, online softmax. scores[64] holds q·k for keys first ≤ i < last (first < last)
     * and anything elsewhere. Let m' = max(*m, max of those); rescale = e(*m - m') (0 when *m is -inf);
     * p_i = e(scores[i] - m') inside, +0 outside; e is exp, and +0 below SOFTMAX_LOWEST;
     * *l = *l · rescale + 16-lane sum of all 64 p; *m = m'. scores becomes p. Returns rescale. */
    float (*softmax_page)(float *scores, uint32_t first, uint32_t last, float *m, float *l);
    /* scores[t · 64 + i] = q_t · key i for first ≤ i < last, one 16-lane sum over the runs one after another. Keys from
     * the KV_ROWS_READ that first lies in to those of last - 1 are read, and their scores may be written with anything. */
    void (*scores_page)(float *scores, const float *q, size_t q_stride, uint32_t queries, const kv_run *runs,
                        uint32_t n_runs, uint32_t first, uint32_t last);
    /* o_t[d] = o_t[d] · rescale[t], then for i = first … last-1 in order o_t[d] = fmaf(p[t · 64 + i], v_i[d], o_t[d]). */
    void (*values_page)(float *o, size_t o_stride, const float *rescale, const float *p, uint32_t queries,
                        const kv_run *v, uint32_t first, uint32_t last);
    /* Floats of n elements of rows of the cache: whole blocks of 32 are paired, a rest is not. */
    void (*expand_rows)(float *y, size_t y_stride, const uint16_t *x, size_t x_stride, uint32_t n,
                        uint32_t rows);
    /* y = round(x · (127 / max|x|)) to even; returns max|x| / 127. Below QUANT_LEAST both are 0. x is finite. */
    float (*quantise_row)(int8_t *y, const float *x, uint32_t n);
    /* y = x · scale[row], rows as in expand_rows but in order. */
    void (*expand_q8)(float *y, size_t y_stride, const int8_t *x, size_t x_stride, const float *scale,
                      uint32_t n, uint32_t rows);
    /* In place, for i < pairs: a = x[i] · norm[i], b = x[i + apart] · norm[i + half], then as rope with row r's angles at
     * cosine + r · pairs: the keys of a half-size page. */
    void (*rotate_keys)(float *x, size_t x_stride, uint32_t apart, const float *norm, uint32_t half,
                        const float *cosine, const float *sine, uint32_t pairs, uint32_t rows);
    /* The addition theorem; each product and sum rounded in double, then to float:
     * cosine = c1·c2 - s1·s2, sine = s1·c2 + c1·s2. */
    void (*compose_angles)(float *cosine, float *sine, const double *c1, const double *s1, const double *c2,
                           const double *s2, uint32_t n);

    /* Conversions; round to nearest even, NaN stays NaN. f32 from f16 and bf16 is exact. */
    void (*f32_from_bf16)(float *y, const uint16_t *x, size_t n);
    void (*f32_from_f16)(float *y, const uint16_t *x, size_t n);
    void (*bf16_from_f32)(uint16_t *y, const float *x, size_t n);
} cpu_kernels;

/* Best variant that this machine has and GEMMAD_ISA (scalar|avx2|avxvnni|avx512|amx; absent: no cap) allows. An unknown
 * word in GEMMAD_ISA is an error that lists the words (ST_INVALID). */
#include "base/status.h"
STATUS_CHECKED status cpu_kernels_pick(const cpu_kernels **out);
extern const cpu_kernels cpu_kernels_scalar;
/* NULL where the build or the machine does not have it. For tests. */
const cpu_kernels *cpu_kernels_avx2(void);
const cpu_kernels *cpu_kernels_avx512(void);

/* cos and sin of position · base^(-2i/head_dim), i < pairs, in double by our own code (not libm), rounded to float.
 * Any position below 2^20. */
void rope_angles(float *cosine, float *sine, uint32_t position, double base, uint32_t head_dim,
                 uint32_t pairs);
/* The same unrounded, for tables that are composed by the addition theorem. */
void rope_angles_double(double *cosine, double *sine, uint32_t position, double base, uint32_t head_dim,
                        uint32_t pairs);

#endif
