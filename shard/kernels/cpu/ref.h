/* The scalar reference of every entry of cpu_kernels, declared for the table in kernels_scalar.c. Contracts
 * are those of cpu_kernels.h; each definition defines the answer of its operation.
 *
 * Memory:  callers'.
 * Threads: any. */
#ifndef SHARD_KERNELS_CPU_REF_H
#define SHARD_KERNELS_CPU_REF_H

#include <stddef.h>
#include <stdint.h>

#include "shard/kernels/cpu/kv_run.h"

void ref_matmul_f32(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                    size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols);
void ref_matmul_bf16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                     size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols);
void ref_matmul_f16(float *y, size_t y_stride, const float *x, size_t x_stride, const void *w,
                    size_t w_stride, uint32_t rows, uint32_t tokens, uint32_t cols);
void ref_rmsnorm(float *y, const float *x, const float *weight, float eps, uint32_t n);
void ref_add(float *x, const float *y, uint32_t n);
void ref_scale(float *x, float factor, uint32_t n);
void ref_add_scaled(float *y, float a, const float *x, uint32_t n);
void ref_multiply(float *x, const float *y, uint32_t n);
void ref_gelu_multiply(float *y, const float *gate, const float *up, uint32_t n);
void ref_softcap(float *x, float cap, uint32_t n);
void ref_rope(float *x, const float *cosine, const float *sine, uint32_t half, uint32_t pairs);
float ref_max_of(const float *x, uint32_t n);
float ref_exp_sum(float *y, const float *x, float shift, float factor, uint32_t n);
float ref_softmax_page(float *scores, uint32_t first, uint32_t last, float *m, float *l);
void ref_scores_page(float *scores, const float *q, size_t q_stride, uint32_t queries, const kv_run *runs,
                     uint32_t n_runs, uint32_t first, uint32_t last);
void ref_values_page(float *o, size_t o_stride, const float *rescale, const float *p, uint32_t queries,
                     const kv_run *v, uint32_t first, uint32_t last);
void ref_expand_rows(float *y, size_t y_stride, const uint16_t *x, size_t x_stride, uint32_t n,
                     uint32_t rows);
float ref_quantise_row(int8_t *y, const float *x, uint32_t n);
void ref_expand_q8(float *y, size_t y_stride, const int8_t *x, size_t x_stride, const float *scale,
                   uint32_t n, uint32_t rows);
void ref_rotate_keys(float *x, size_t x_stride, uint32_t apart, const float *norm, uint32_t half,
                     const float *cosine, const float *sine, uint32_t pairs, uint32_t rows);
void ref_compose_angles(float *cosine, float *sine, const double *c1, const double *s1, const double *c2,
                        const double *s2, uint32_t n);
void ref_f32_from_bf16(float *y, const uint16_t *x, size_t n);
void ref_f32_from_f16(float *y, const uint16_t *x, size_t n);
void ref_bf16_from_f32(uint16_t *y, const float *x, size_t n);

#endif
