/* The leader's book of pages: which slabs serve which kind and which pages are free. Numbers only; the bytes are the
 * ranks' (kv/geometry.h).
 *
 * Memory:  all taken in kv_pages_open.
 * Threads: engine thread of the leader.
 * Errors:  ST_KV_FULL: nothing was taken; retry after a release. */
#ifndef SHARD_KV_PAGES_H
#define SHARD_KV_PAGES_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "shard/kv/geometry.h"

typedef struct kv_pages kv_pages;

STATUS_CHECKED status kv_pages_open(kv_pages **out, uint32_t slabs, const uint32_t pages_per_slab[KV_KINDS]);
void kv_pages_close(kv_pages *p);
/* count[kind] pages of each kind at once, all or nothing: ids into out[kind]. */
STATUS_CHECKED status kv_pages_take(kv_pages *p, const uint32_t count[KV_KINDS], uint32_t *const out[KV_KINDS]);
void kv_pages_release(kv_pages *p, kv_kind kind, const uint32_t *pages, uint32_t n);
/* Whether counts would fit into an empty pool, for requests that could never run. */
bool kv_pages_could_hold(const kv_pages *p, const uint32_t count[KV_KINDS]);
uint32_t kv_pages_slabs_used(const kv_pages *p);
uint32_t kv_pages_slabs(const kv_pages *p);

#endif
