/* Quantising activations with AVX-512, for quant_avx512.c and quant_amx.c. */
#ifndef SHARD_KERNELS_CPU_QUANT_AVX512_H
#define SHARD_KERNELS_CPU_QUANT_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "shard/kernels/cpu/quant.h"

static void avx512_quantise(const float *x, uint32_t groups, int8_t *values, float *scale, int32_t *bias,
                            size_t stride) {
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    for (uint32_t g = 0; g < groups; g++, x += QUANT_GROUP) {
        __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
        __m512 abs_a = _mm512_castsi512_ps(_mm512_andnot_si512(sign, _mm512_castps_si512(a)));
        __m512 abs_b = _mm512_castsi512_ps(_mm512_andnot_si512(sign, _mm512_castps_si512(b)));
        float largest = _mm512_reduce_max_ps(_mm512_max_ps(abs_a, abs_b)), inverse = 0;
        if (largest < QUANT_LEAST) largest = 0;
        else inverse = 127.0f / largest;
        __m512 factor = _mm512_set1_ps(inverse);
        __m512i qa = _mm512_cvtps_epi32(_mm512_mul_ps(a, factor)),
                qb = _mm512_cvtps_epi32(_mm512_mul_ps(b, factor));
        int8_t *v = values + g * QUANT_GROUP * stride;
        _mm_storeu_si128((__m128i *)(void *)v, _mm512_cvtsepi32_epi8(qa));
        _mm_storeu_si128((__m128i *)(void *)(v + 16), _mm512_cvtsepi32_epi8(qb));
        scale[g * stride] = largest / 127.0f;
        bias[g * stride] = -8 * _mm512_reduce_add_epi32(_mm512_add_epi32(qa, qb));
    }
}

#endif
