/* The leader's book of pages: which slabs serve which kind, which pages are free, and how many hold each of the others.
 * Numbers only; the bytes are the ranks' (kv/geometry.h).
 *
 * Memory:  all taken in kv_pages_open.
 * Threads: engine thread of the leader.
 * Errors:  ST_KV_FULL, false: nothing was taken; retry after a release. A page that nobody holds is a broken invariant. */
#ifndef SHARD_KV_PAGES_H
#define SHARD_KV_PAGES_H

#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "shard/kv/geometry.h"

typedef struct kv_pages kv_pages;

enum { KV_NO_PAGE = 0xFFFFFFFF };

STATUS_CHECKED status kv_pages_open(kv_pages **out, uint32_t slabs, const uint32_t pages_per_slab[KV_KINDS]);
void kv_pages_close(kv_pages *p);

/* One page with one reference; the time does not depend on the number of slabs. False: there is none. */
bool kv_pages_take_one(kv_pages *p, kv_kind kind, uint32_t *page);
/* count[kind] pages of each kind at once, all or nothing: ids into out[kind]. */
STATUS_CHECKED status kv_pages_take(kv_pages *p, const uint32_t count[KV_KINDS], uint32_t *const out[KV_KINDS]);
/* Somebody else holds the page too. */
void kv_pages_retain(kv_pages *p, kv_kind kind, uint32_t page);
/* Drops one reference of each; a page is free when nobody holds it. */
void kv_pages_release(kv_pages *p, kv_kind kind, const uint32_t *pages, uint32_t n);
uint32_t kv_pages_references(const kv_pages *p, kv_kind kind, uint32_t page);

/* Whether kv_pages_take would succeed. */
bool kv_pages_fit(const kv_pages *p, const uint64_t count[KV_KINDS]);
/* Whether counts would fit into an empty pool, for requests that could never run. */
bool kv_pages_could_hold(const kv_pages *p, const uint32_t count[KV_KINDS]);
uint32_t kv_pages_used(const kv_pages *p, kv_kind kind);
/* Pages of one kind that could be taken now, if none of the other is. */
uint32_t kv_pages_free(const kv_pages *p, kv_kind kind);
uint32_t kv_pages_slabs_used(const kv_pages *p);
uint32_t kv_pages_slabs(const kv_pages *p);

#endif
