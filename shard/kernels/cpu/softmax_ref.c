#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"

/* The + 0.0f makes a largest -0 a +0: which of two equal zeros a search meets first is no part of the answer.
 */
float ref_max_of(const float *x, uint32_t n) {
    float m = x[0];
    for (uint32_t i = 1; i < n; i++) m = ref_max(x[i], m);
    return m + 0.0f;
}

float ref_exp_sum(float *y, const float *x, float shift, float factor, uint32_t n) {
    float lane[LANES] = {0};
    for (uint32_t i = 0; i < n; i++) {
        float e = ref_exp((x[i] - shift) * factor);
        lane[i % LANES] += e;
        if (y) y[i] = e;
    }
    return ref_tree(lane);
}

float ref_softmax_page(float *scores, uint32_t first, uint32_t last, float *m, float *l) {
    float largest = ref_max(ref_max_of(scores + first, last - first), *m);
    float rescale = *m == -INFINITY ? 0.0f : *m == largest ? 1.0f : ref_softmax_exp(*m - largest);
    float lane[LANES] = {0};
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
        scores[i] = i >= first && i < last ? ref_softmax_exp(scores[i] - largest) : 0.0f;
        lane[i % LANES] += scores[i];
    }
    *l = *l * rescale + ref_tree(lane);
    *m = largest;
    return rescale;
}
