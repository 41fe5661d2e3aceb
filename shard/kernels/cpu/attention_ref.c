#include <math.h>
#include <string.h>

#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/quant.h"
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"

static float run_element(const kv_run *r, uint32_t row, uint32_t d) {
    if (!r->paired) return ((const float *)r->data)[row * r->stride + d];
    return ref_from_bf16(((const uint16_t *)r->data)[row * r->stride + kv_pair_at(d)]);
}

void ref_scores_page(float *scores, const float *q, size_t q_stride, uint32_t queries, const kv_run *runs,
                     uint32_t n_runs, uint32_t first, uint32_t last) {
    for (uint32_t i = first; i < last; i++)
        for (uint32_t t = 0; t < queries; t++) {
            float lane[LANES] = {0};
            const float *x = q + t * q_stride;
            for (uint32_t r = 0; r < n_runs; x += runs[r++].count)
                for (uint32_t d = 0; d < runs[r].count; d++)
                    lane[d % LANES] = fmaf(x[d], run_element(&runs[r], i, d), lane[d % LANES]);
            scores[(size_t)t * KV_PAGE_TOKENS + i] = ref_tree(lane);
        }
}

void ref_values_page(float *o, size_t o_stride, const float *rescale, const float *p, uint32_t queries,
                     const kv_run *v, uint32_t first, uint32_t last) {
    for (uint32_t t = 0; t < queries; t++)
        for (uint32_t d = 0; d < v->count; d++) {
            float sum = o[t * o_stride + d] * rescale[t];
            for (uint32_t i = first; i < last; i++)
                sum = fmaf(p[(size_t)t * KV_PAGE_TOKENS + i], run_element(v, i, d), sum);
            o[t * o_stride + d] = sum;
        }
}

void ref_expand_rows(float *y, size_t y_stride, const uint16_t *x, size_t x_stride, uint32_t n,
                     uint32_t rows) {
    uint32_t paired = n / KV_PAIR_BLOCK * KV_PAIR_BLOCK;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t d = 0; d < n; d++)
            y[r * y_stride + d] = ref_from_bf16(x[r * x_stride + (d < paired ? kv_pair_at(d) : d)]);
}

float ref_quantise_row(int8_t *y, const float *x, uint32_t n) {
    float largest = 0;
    for (uint32_t i = 0; i < n; i++)
        if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
    if (largest < QUANT_LEAST) largest = 0;
    float inverse = largest > 0 ? 127.0f / largest : 0;
    for (uint32_t i = 0; i < n; i++) {
        float scaled = x[i] * inverse;
        y[i] = fabsf(scaled) <= 127.5f ? (int8_t)nearbyintf(scaled) : 0;
    }
    return largest / 127.0f;
}

void ref_expand_q8(float *y, size_t y_stride, const int8_t *x, size_t x_stride, const float *scale,
                   uint32_t n, uint32_t rows) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t d = 0; d < n; d++) y[r * y_stride + d] = (float)x[r * x_stride + d] * scale[r];
}

void ref_rotate_keys(float *x, size_t x_stride, uint32_t apart, const float *norm, uint32_t half,
                     const float *cosine, const float *sine, uint32_t pairs, uint32_t rows) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < pairs; i++) {
            float *low = x + r * x_stride + i, *high = low + apart;
            float a = *low * norm[i], b = *high * norm[half + i];
            float c = cosine[(size_t)r * pairs + i], s = sine[(size_t)r * pairs + i];
            *low = a * c - b * s;
            *high = b * c + a * s;
        }
}

void ref_compose_angles(float *cosine, float *sine, const double *c1, const double *s1, const double *c2,
                        const double *s2, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        cosine[i] = (float)(c1[i] * c2[i] - s1[i] * s2[i]);
        sine[i] = (float)(s1[i] * c2[i] + c1[i] * s2[i]);
    }
}
