#include "shard/kv/geometry.h"

void kv_geometry_follow(kv_geometry *g, const uint32_t pages_per_slab[KV_KINDS]) {
    g->slab_bytes = 0;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        g->pages_per_slab[kind] = pages_per_slab[kind];
        uint64_t bytes = g->page_bytes[kind] * pages_per_slab[kind];
        if (bytes > g->slab_bytes) g->slab_bytes = bytes;
    }
}

void kv_geometry_make(kv_geometry *g, const kv_layer_shape *layer, uint32_t layers, uint32_t element_bytes,
                      uint32_t row_extra_bytes, uint64_t *layer_offset) {
    *g = (kv_geometry){0};
    for (uint32_t i = 0; i < layers; i++) {
        layer_offset[i] = 0;
        if (!layer[i].owns) continue;
        uint64_t row_bytes = (uint64_t)layer[i].head_dim * element_bytes + row_extra_bytes,
                 rows = (uint64_t)KV_TOKENS_PER_PAGE * layer[i].kv_heads * (layer[i].half_size ? 1 : 2);
        layer_offset[i] = g->page_bytes[layer[i].kind];
        g->page_bytes[layer[i].kind] += rows * row_bytes;
    }
    uint64_t largest = 0;
    uint32_t per_slab[KV_KINDS];
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (g->page_bytes[kind] > largest) largest = g->page_bytes[kind];
    for (int kind = 0; kind < KV_KINDS; kind++)
        per_slab[kind] = g->page_bytes[kind] ? (uint32_t)(largest / g->page_bytes[kind]) : 1;
    kv_geometry_follow(g, per_slab);
}

uint32_t kv_pages_needed(kv_kind kind, uint64_t tokens, uint32_t window, uint32_t chunk) {
    uint64_t all = (tokens + KV_TOKENS_PER_PAGE - 1) / KV_TOKENS_PER_PAGE;
    if (kind == KV_FULL) return (uint32_t)all;
    /* window - 1 positions before the chunk's first row, and the chunk; both ends may cut a page. */
    uint64_t span = ((uint64_t)window - 1 + chunk + KV_TOKENS_PER_PAGE - 2) / KV_TOKENS_PER_PAGE + 1;
    return (uint32_t)(all < span ? all : span);
}
