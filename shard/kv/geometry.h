/* Where a page lies in a rank's pool. One pool of equal slabs; a slab serves one kind of page (sliding or full) while any
 * of it is in use. A page holds 64 positions of every layer of its kind that owns a cache, so page ids are the same
 * numbers on every rank although its bytes are not.
 *
 * Threads: pure functions. */
#ifndef SHARD_KV_GEOMETRY_H
#define SHARD_KV_GEOMETRY_H

#include <stdbool.h>
#include <stdint.h>

enum { KV_TOKENS_PER_PAGE = 64 };
typedef enum kv_kind { KV_SLIDING, KV_FULL, KV_KINDS } kv_kind;

typedef struct kv_layer_shape {
    kv_kind kind;
    bool owns;            /* false: reads another layer's cache */
    bool half_size;       /* holds u alone */
    uint32_t kv_heads;    /* of this rank */
    uint32_t head_dim;
} kv_layer_shape;

typedef struct kv_geometry {
    uint64_t page_bytes[KV_KINDS];      /* of this rank */
    uint32_t pages_per_slab[KV_KINDS];  /* the same on every rank: decided by rank 0 */
    uint64_t slab_bytes;                /* of this rank */
} kv_geometry;

/* element_bytes: of a key's or value's element; row_extra_bytes: what a row of them has beside (its scale).
 * layer_offset[layers]: where a layer's part begins inside a page of its kind (0 for layers that own none). A kind
 * without layers has page_bytes 0 and pages_per_slab 1. pages_per_slab is chosen from this rank's bytes. */
void kv_geometry_make(kv_geometry *g, const kv_layer_shape *layer, uint32_t layers, uint32_t element_bytes,
                      uint32_t row_extra_bytes, uint64_t *layer_offset);
/* Takes over pages_per_slab from rank 0 and sizes this rank's slab for it. */
void kv_geometry_follow(kv_geometry *g, const uint32_t pages_per_slab[KV_KINDS]);

/* Pages of a kind that a sequence of `tokens` tokens holds at most: full: all of them; sliding: what the window and one
 * chunk of `chunk` rows span. */
uint32_t kv_pages_needed(kv_kind kind, uint64_t tokens, uint32_t window, uint32_t chunk);

#endif
