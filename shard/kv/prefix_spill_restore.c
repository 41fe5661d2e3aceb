/* The tree of files after a start: headers name a page, the one before it and its tokens; a point is where the whole way
 * and the window before it are there. What leads to no point is removed. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "shard/kv/prefix_spill_internal.h"

enum { NONE = 0xFFFFFFFF };

typedef struct restoring {
    prefix_spill *s;
    const spill_page *found;
    uint32_t count, buckets, *bucket, *next; /* by key */
    uint32_t *id;                            /* [count] files */
    uint32_t *parent, *sliding;              /* [count] of pages of the chain's kind: found[], NONE */
    bool *has_child;
    kv_kind chain_kind;
} restoring;

static uint32_t *bucket_of(const restoring *r, const uint8_t *key) {
    uint32_t hash;
    memcpy(&hash, key, sizeof hash);
    return &r->bucket[hash & (r->buckets - 1)];
}

static uint32_t look_up(const restoring *r, const uint8_t *key, kv_kind kind) {
    for (uint32_t i = *bucket_of(r, key); i != NONE; i = r->next[i])
        if (r->found[i].kind == (uint32_t)kind && !memcmp(r->found[i].key, key, SPILL_KEY_BYTES)) return i;
    return NONE;
}

static void index_pages(restoring *r) {
    static const uint8_t none[SPILL_KEY_BYTES];
    for (uint32_t i = 0; i < r->count; i++) {
        uint32_t *bucket = bucket_of(r, r->found[i].key);
        r->id[i] = spill_file_take(r->s, r->found[i].kind, r->found[i].key);
        r->next[i] = *bucket;
        *bucket = i;
    }
    for (uint32_t i = 0; i < r->count; i++) {
        if (r->found[i].kind != (uint32_t)r->chain_kind) continue;
        r->sliding[i] = look_up(r, r->found[i].key, KV_SLIDING);
        if (!memcmp(r->found[i].parent, none, sizeof none)) continue;
        r->parent[i] = look_up(r, r->found[i].parent, r->chain_kind);
        if (r->parent[i] == NONE) r->parent[i] = i; /* leads nowhere */
        else r->has_child[r->parent[i]] = true;
    }
}

/* Pages from the text's beginning to this one; 0: some are missing. */
static uint32_t depth_of(const restoring *r, uint32_t i) {
    uint32_t depth = 1;
    for (; r->parent[i] != NONE; i = r->parent[i])
        if (r->parent[i] == i || depth++ == r->count) return 0;
    return depth;
}

static bool window_is_there(const restoring *r, uint32_t i, uint32_t window) {
    for (; window && i != NONE; window--, i = r->parent[i])
        if (r->sliding[i] == NONE) return false;
    return true;
}

static void add_point(const restoring *r, uint32_t last, uint32_t depth) {
    prefix_chain chain = {.pages = depth, .cap = depth};
    uint32_t *tokens = memory_alloc_array((size_t)depth * KV_TOKENS_PER_PAGE, sizeof *tokens), *id[KV_KINDS];
    for (int kind = 0; kind < KV_KINDS; kind++) id[kind] = memory_alloc_array(depth, sizeof **id);
    chain.key = memory_alloc_array(depth, sizeof *chain.key);
    for (uint32_t i = last, at = depth; at-- > 0; i = r->parent[i]) {
        memcpy(chain.key[at], r->found[i].key, sizeof *chain.key);
        memcpy(tokens + (size_t)at * KV_TOKENS_PER_PAGE, r->found[i].token, sizeof r->found[i].token);
        id[KV_FULL][at] = r->id[i];
        id[KV_SLIDING][at] = r->sliding[i] == NONE ? PREFIX_NO_PAGE : r->id[r->sliding[i]];
    }
    (void)prefix_add(r->s->disk, &chain, tokens, depth, (const uint32_t *const[KV_KINDS]){id[0], id[1]});
    for (int kind = 0; kind < KV_KINDS; kind++) free(id[kind]);
    free(tokens);
    prefix_chain_free(&chain);
}

static void add_points(const restoring *r) {
    uint32_t window = prefix_window_pages(r->s->disk);
    for (uint32_t i = 0; i < r->count; i++) {
        if (r->found[i].kind != (uint32_t)r->chain_kind) continue;
        /* Without windows every page is a point, and the last of a text makes all before it. */
        if (window ? !window_is_there(r, i, window) : r->has_child[i]) continue;
        uint32_t depth = depth_of(r, i);
        if (depth) add_point(r, i, depth);
    }
}

void prefix_spill_restore(prefix_spill *s) {
    uint32_t n = s->o.found_count;
    restoring r = {.s = s, .found = s->o.found, .count = n, .buckets = 16};
    r.chain_kind = s->o.like.uses[KV_FULL] ? KV_FULL : KV_SLIDING;
    while (r.buckets < n) r.buckets *= 2;
    r.bucket = memory_alloc_array(r.buckets, sizeof *r.bucket);
    r.next = memory_alloc_array(n, sizeof *r.next);
    r.id = memory_alloc_array(n, sizeof *r.id);
    r.parent = memory_alloc_array(n, sizeof *r.parent);
    r.sliding = memory_alloc_array(n, sizeof *r.sliding);
    r.has_child = memory_alloc_array(n, sizeof *r.has_child);
    memset(r.bucket, 0xFF, r.buckets * sizeof *r.bucket);
    memset(r.parent, 0xFF, n * sizeof *r.parent);
    memset(r.sliding, 0xFF, n * sizeof *r.sliding);
    index_pages(&r);
    add_points(&r);
    for (uint32_t i = 0; i < n; i++)
        if (s->file[r.id[i]].references == 0) spill_file_give_back(s, r.id[i], true);
    spill_keep_limit(s);
    free(r.bucket);
    free(r.next);
    free(r.id);
    free(r.parent);
    free(r.sliding);
    free(r.has_child);
}
