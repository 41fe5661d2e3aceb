#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cpu/ref_math.h"

void ref_values_page(float *o, float rescale, const float *p, const float *v, size_t v_stride, uint32_t first,
                     uint32_t last, uint32_t dim) {
    for (uint32_t d = 0; d < dim; d++) o[d] *= rescale;
    for (uint32_t i = first; i < last; i++)
        for (uint32_t d = 0; d < dim; d++) o[d] = fmaf(p[i], v[i * v_stride + d], o[d]);
}
