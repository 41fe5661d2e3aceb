/* The prefix cache: pages of KV that stay after their request, found again by the tokens in front of them. A node is one
 * complete page of 64 tokens behind its parent's; its key is a hash over parent and tokens, and tokens are compared as
 * well, so that no collision gives another text's cache. Full pages are kept by every node. The sliding pages of a window
 * are kept at points only, the places people come back to; pages are shared by reference, never copied. Pages of a
 * prefix are bit-equal whoever computed them (docs/numerics.md), so a second copy is simply not taken in.
 *
 * Memory:  all taken in prefix_open; a prefix_chain grows with its sequence. Pages belong to whoever counts references:
 *          the cache holds one for each page it keeps.
 * Threads: engine thread of the leader.
 * Errors:  none but memory; where there is no room, less is kept. */
#ifndef SHARD_KV_PREFIX_H
#define SHARD_KV_PREFIX_H

#include <stdbool.h>
#include <stdint.h>
#include "shard/kv/geometry.h"

enum { PREFIX_KEY_BYTES = 32, PREFIX_NODES_MAX = 1 << 18, PREFIX_NO_PAGE = 0xFFFFFFFF };

typedef struct prefix_cache prefix_cache;

/* Who counts references to pages. count: how many there are. */
typedef struct prefix_pages {
    void *context;
    void (*retain)(void *context, kv_kind kind, uint32_t page);
    void (*release)(void *context, kv_kind kind, uint32_t page);
    uint32_t (*count)(void *context, kv_kind kind, uint32_t page);
} prefix_pages;

typedef struct prefix_options {
    uint32_t nodes;           /* at most; more than PREFIX_NODES_MAX are cut */
    uint32_t window;          /* of sliding layers */
    bool uses[KV_KINDS];      /* kinds of pages the model has */
    prefix_pages pages;
} prefix_options;

void prefix_open(prefix_cache **out, const prefix_options *options);
void prefix_close(prefix_cache *c); /* releases what the cache holds; NULL is fine */

/* The keys of a sequence's complete pages; {0} is empty. */
typedef struct prefix_chain {
    uint8_t (*key)[PREFIX_KEY_BYTES];
    uint32_t pages, cap;
} prefix_chain;
/* Brings the chain to all complete pages of tokens[n]; the first chain->pages · 64 tokens are those it was made from. */
void prefix_chain_extend(prefix_chain *chain, const uint32_t *tokens, uint32_t n);
void prefix_chain_free(prefix_chain *chain);

typedef struct prefix_hit {
    uint32_t pages;   /* whose tokens need no computing */
    uint32_t known;   /* pages that the cache knows, ≥ pages: where a prompt leaves what others shared */
    uint32_t node;    /* the last hit page's; the cache's own */
} prefix_hit;

/* The longest prefix that can be gone on from. At least the last of the n tokens is left to compute. Valid until the
 * next call but prefix_find. chain: of these tokens, (n - 1) / 64 pages or more. */
prefix_hit prefix_find(const prefix_cache *c, const prefix_chain *chain, const uint32_t *tokens, uint32_t n);
/* Retains the hit's pages for the caller and makes it the newest. page[kind][pages]: ids by index; of sliding pages only
 * those of the window before the next position, PREFIX_NO_PAGE elsewhere. */
void prefix_hold(prefix_cache *c, const prefix_hit *hit, uint32_t *const page[KV_KINDS]);
/* Sliding pages before a position at a page's border that a sequence needs to go on from it. */
uint32_t prefix_window_pages(const prefix_cache *c);

/* Keeps a sequence's first `pages` pages and makes their end a point. page[kind]: the sequence's table by index, the last
 * prefix_window_pages of its sliding pages only. False when there was no room for it. */
bool prefix_add(prefix_cache *c, const prefix_chain *chain, const uint32_t *tokens, uint32_t pages,
                const uint32_t *const page[KV_KINDS]);

/* What the cache has of a text's first `pages` pages, whether they can be gone on from or not: ids into page[kind][pages],
 * PREFIX_NO_PAGE elsewhere, each retained for the caller. */
void prefix_peek(prefix_cache *c, const prefix_chain *chain, const uint32_t *tokens, uint32_t pages,
                 uint32_t *const page[KV_KINDS]);
/* Drops every point that needs a page, because the page is lost. */
void prefix_drop(prefix_cache *c, kv_kind kind, uint32_t page);

/* Drops what was used longest ago, as far as it takes, until n pages of a kind are free that the cache alone held.
 * Returns how many that were. */
uint32_t prefix_reclaim(prefix_cache *c, kv_kind kind, uint32_t n);

/* An admitted request looked for `queried` tokens and found `hit`. */
void prefix_count(prefix_cache *c, uint32_t queried, uint32_t hit);
typedef struct prefix_statistics {
    uint64_t queried_tokens, hit_tokens, evicted_points, evicted_pages[KV_KINDS];
    uint32_t nodes, points, pages[KV_KINDS];
} prefix_statistics;
prefix_statistics prefix_state(const prefix_cache *c);
/* Pages that nobody else holds; walks through the cache. */
void prefix_alone(const prefix_cache *c, uint32_t pages[KV_KINDS]);

#endif
