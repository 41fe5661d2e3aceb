/* Fetching what attention reads next, for attention_tile_avx2.h and attention_tile_avx512.h. */
#ifndef SHARD_KERNELS_CPU_ATTENTION_FETCH_H
#define SHARD_KERNELS_CPU_ATTENTION_FETCH_H

#include "shard/kernels/cpu/kv_run.h"

LANES_INLINE void fetch_next(kv_ahead *a, uint32_t lines) {
    if (!a || a->at >= a->end) return;
    for (uint32_t i = 0; i < lines; i++) _mm_prefetch(a->at + (size_t)i * KV_LINE, _MM_HINT_T1);
    a->at += (size_t)lines * KV_LINE;
}

#endif
