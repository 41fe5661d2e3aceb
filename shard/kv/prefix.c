#include "shard/kv/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/sha256.h"

enum { NONE = 0xFFFFFFFF };

typedef struct node {
    uint8_t key[PREFIX_KEY_BYTES];
    uint32_t token[KV_TOKENS_PER_PAGE];
    uint32_t page[KV_KINDS]; /* the sliding one while a point wants it */
    uint32_t parent, children;
    uint32_t wanted;       /* points whose window has this page */
    uint32_t next;         /* in its bucket, or of the free nodes */
    uint32_t older, newer; /* of the points */
    bool point;
} node;

struct prefix_cache {
    prefix_options o;
    node *node;
    uint32_t *bucket;
    uint32_t buckets, window_pages;
    uint32_t free_nodes, free_node, fresh_node; /* from fresh_node on none was ever used */
    uint32_t oldest, newest;                    /* points, by use */
    prefix_statistics state;
};

/* ---- chains ---- */

void prefix_chain_extend(prefix_chain *chain, const uint32_t *tokens, uint32_t n) {
    uint32_t pages = n / KV_TOKENS_PER_PAGE;
    if (pages > chain->cap) {
        chain->cap = pages + pages / 4 + 4;
        chain->key = memory_grow(chain->key, (size_t)chain->cap * sizeof *chain->key);
    }
    for (; chain->pages < pages; chain->pages++) {
        sha256 s;
        sha256_begin(&s);
        if (chain->pages) sha256_add(&s, chain->key[chain->pages - 1], sizeof *chain->key);
        sha256_add(&s, tokens + (size_t)chain->pages * KV_TOKENS_PER_PAGE,
                   KV_TOKENS_PER_PAGE * sizeof *tokens);
        sha256_end(&s, chain->key[chain->pages]);
    }
}

void prefix_chain_free(prefix_chain *chain) {
    free(chain->key);
    *chain = (prefix_chain){0};
}

/* ---- nodes ---- */

void prefix_open(prefix_cache **out, const prefix_options *o) {
    prefix_cache *c = memory_alloc(sizeof *c);
    c->o = *o;
    if (c->o.nodes > PREFIX_NODES_MAX) c->o.nodes = PREFIX_NODES_MAX;
    if (o->uses[KV_SLIDING] && o->window)
        c->window_pages = (o->window - 1 + KV_TOKENS_PER_PAGE - 1) / KV_TOKENS_PER_PAGE;
    for (c->buckets = 16; c->buckets < c->o.nodes;) c->buckets *= 2;
    c->bucket = memory_alloc_array(c->buckets, sizeof *c->bucket);
    memset(c->bucket, 0xFF, c->buckets * sizeof *c->bucket);
    c->node = memory_alloc_array(c->o.nodes, sizeof *c->node);
    c->free_node = c->oldest = c->newest = NONE;
    c->free_nodes = c->o.nodes;
    *out = c;
}

uint32_t prefix_window_pages(const prefix_cache *c) { return c->window_pages; }

static uint32_t *bucket_of(const prefix_cache *c, const uint8_t *key) {
    uint32_t hash;
    memcpy(&hash, key, sizeof hash);
    return &c->bucket[hash & (c->buckets - 1)];
}

static uint32_t child_of(const prefix_cache *c, uint32_t parent, const uint8_t *key, const uint32_t *tokens) {
    for (uint32_t i = *bucket_of(c, key); i != NONE; i = c->node[i].next) {
        const node *n = &c->node[i];
        if (n->parent == parent && !memcmp(n->key, key, sizeof n->key) &&
            !memcmp(n->token, tokens, sizeof n->token))
            return i;
    }
    return NONE;
}

static void keep(prefix_cache *c, node *n, kv_kind kind, uint32_t page) {
    n->page[kind] = page;
    c->o.pages.retain(c->o.pages.context, kind, page);
    c->state.pages[kind]++;
}

static void let_go(prefix_cache *c, node *n, kv_kind kind) {
    if (n->page[kind] == PREFIX_NO_PAGE) return;
    c->o.pages.release(c->o.pages.context, kind, n->page[kind]);
    n->page[kind] = PREFIX_NO_PAGE;
    c->state.pages[kind]--;
}

static uint32_t node_add(prefix_cache *c, uint32_t parent, const uint8_t *key, const uint32_t *tokens,
                         const uint32_t *full) {
    uint32_t i = c->free_node == NONE ? c->fresh_node++ : c->free_node, *bucket = bucket_of(c, key);
    node *n = &c->node[i];
    if (i == c->free_node) c->free_node = n->next;
    c->free_nodes--;
    c->state.nodes++;
    *n = (node){.parent = parent, .next = *bucket, .page = {PREFIX_NO_PAGE, PREFIX_NO_PAGE}};
    memcpy(n->key, key, sizeof n->key);
    memcpy(n->token, tokens, sizeof n->token);
    *bucket = i;
    if (parent != NONE) c->node[parent].children++;
    if (full) keep(c, n, KV_FULL, *full);
    return i;
}

static void node_remove(prefix_cache *c, uint32_t i) {
    node *n = &c->node[i];
    uint32_t *at = bucket_of(c, n->key);
    INVARIANT(!n->point && !n->children && !n->wanted);
    while (*at != i) at = &c->node[*at].next;
    *at = n->next;
    let_go(c, n, KV_FULL);
    if (n->parent != NONE) c->node[n->parent].children--;
    n->next = c->free_node;
    c->free_node = i;
    c->free_nodes++;
    c->state.nodes--;
}

/* ---- points, oldest use first ---- */

static void unlink_point(prefix_cache *c, node *n) {
    *(n->older == NONE ? &c->oldest : &c->node[n->older].newer) = n->newer;
    *(n->newer == NONE ? &c->newest : &c->node[n->newer].older) = n->older;
}

static void link_newest(prefix_cache *c, uint32_t i) {
    node *n = &c->node[i];
    n->older = c->newest;
    n->newer = NONE;
    *(c->newest == NONE ? &c->oldest : &c->node[c->newest].newer) = i;
    c->newest = i;
}

/* Makes a node whose window is there a point, or the newest point. sliding: for nodes that lack theirs. */
static void make_point(prefix_cache *c, uint32_t i, uint32_t depth, const uint32_t *sliding) {
    node *n = &c->node[i];
    if (n->point) unlink_point(c, n);
    link_newest(c, i);
    if (n->point) return;
    n->point = true;
    c->state.points++;
    for (uint32_t left = c->window_pages, at = i; left && at != NONE; left--, at = c->node[at].parent) {
        node *w = &c->node[at];
        depth--;
        if (w->wanted++ == 0) keep(c, w, KV_SLIDING, sliding[depth]);
    }
}

/* Where no window is needed every node can be gone on from: all are points, children older than their parents, so that
 * the oldest is always a leaf. */
static void use(prefix_cache *c, uint32_t i, uint32_t depth, const uint32_t *sliding) {
    if (c->window_pages) make_point(c, i, depth, sliding);
    else
        for (; i != NONE; i = c->node[i].parent) make_point(c, i, 0, NULL);
}

static void drop_point(prefix_cache *c, uint32_t i) {
    node *n = &c->node[i];
    unlink_point(c, n);
    n->point = false;
    c->state.points--;
    for (uint32_t left = c->window_pages, at = i; left && at != NONE; left--, at = c->node[at].parent)
        if (--c->node[at].wanted == 0) let_go(c, &c->node[at], KV_SLIDING);
    /* Nodes that lead to no point serve nobody. */
    while (i != NONE && !c->node[i].point && !c->node[i].children) {
        uint32_t parent = c->node[i].parent;
        node_remove(c, i);
        i = parent;
    }
}

void prefix_close(prefix_cache *c) {
    if (!c) return;
    while (c->oldest != NONE) drop_point(c, c->oldest);
    INVARIANT(c->state.nodes == 0 && c->state.pages[KV_FULL] == 0 && c->state.pages[KV_SLIDING] == 0);
    free(c->node);
    free(c->bucket);
    free(c);
}

static void evict(prefix_cache *c, uint32_t point) {
    uint32_t before[KV_KINDS];
    memcpy(before, c->state.pages, sizeof before);
    drop_point(c, point);
    c->state.evicted_points++;
    for (int kind = 0; kind < KV_KINDS; kind++)
        c->state.evicted_pages[kind] += before[kind] - c->state.pages[kind];
}

/* ---- finding ---- */

prefix_hit prefix_find(const prefix_cache *c, const prefix_chain *chain, const uint32_t *tokens, uint32_t n) {
    prefix_hit hit = {.node = NONE};
    uint32_t most = n ? (n - 1) / KV_TOKENS_PER_PAGE : 0, at = NONE, windows = 0;
    INVARIANT(chain->pages >= most);
    for (uint32_t i = 0; i < most; i++) {
        at = child_of(c, at, chain->key[i], tokens + (size_t)i * KV_TOKENS_PER_PAGE);
        if (at == NONE) break;
        hit.known = i + 1;
        windows = c->node[at].wanted ? windows + 1 : 0;
        if (windows < c->window_pages && windows <= i) continue;
        hit.pages = i + 1;
        hit.node = at;
    }
    return hit;
}

void prefix_hold(prefix_cache *c, const prefix_hit *hit, uint32_t *const page[KV_KINDS]) {
    if (hit->pages == 0) return;
    use(c, hit->node, hit->pages, NULL);
    uint32_t at = hit->node;
    for (uint32_t i = hit->pages; i-- > 0; at = c->node[at].parent) {
        bool in_window = hit->pages - i <= c->window_pages;
        page[KV_FULL][i] = c->node[at].page[KV_FULL];
        page[KV_SLIDING][i] = in_window ? c->node[at].page[KV_SLIDING] : PREFIX_NO_PAGE;
        if (c->o.uses[KV_FULL]) c->o.pages.retain(c->o.pages.context, KV_FULL, page[KV_FULL][i]);
        if (in_window) c->o.pages.retain(c->o.pages.context, KV_SLIDING, page[KV_SLIDING][i]);
    }
}

void prefix_peek(prefix_cache *c, const prefix_chain *chain, const uint32_t *tokens, uint32_t pages,
                 uint32_t *const page[KV_KINDS]) {
    uint32_t at = NONE;
    bool known = true;
    INVARIANT(chain->pages >= pages);
    for (uint32_t i = 0; i < pages; i++) {
        if (known) at = child_of(c, at, chain->key[i], tokens + (size_t)i * KV_TOKENS_PER_PAGE);
        known = known && at != NONE;
        for (int kind = 0; kind < KV_KINDS; kind++) {
            uint32_t id = page[kind][i] = known ? c->node[at].page[kind] : PREFIX_NO_PAGE;
            if (id != PREFIX_NO_PAGE) c->o.pages.retain(c->o.pages.context, kind, id);
        }
    }
}

/* ---- adding ---- */

/* Room for nodes by dropping old points; the path's last node, which the new ones will hang on, stays. */
static void make_room(prefix_cache *c, uint32_t nodes, uint32_t path_end) {
    if (path_end != NONE) c->node[path_end].children++;
    while (c->free_nodes < nodes && c->oldest != NONE) evict(c, c->oldest);
    if (path_end != NONE) c->node[path_end].children--;
    INVARIANT(c->free_nodes >= nodes);
}

bool prefix_add(prefix_cache *c, const prefix_chain *chain, const uint32_t *tokens, uint32_t pages,
                const uint32_t *const page[KV_KINDS]) {
    INVARIANT(chain->pages >= pages);
    if (pages == 0 || pages > c->o.nodes) return false;
    uint32_t at = NONE, have = 0;
    for (; have < pages; have++) {
        uint32_t child = child_of(c, at, chain->key[have], tokens + (size_t)have * KV_TOKENS_PER_PAGE);
        if (child == NONE) break;
        at = child;
    }
    make_room(c, pages - have, at);
    for (; have < pages; have++)
        at = node_add(c, at, chain->key[have], tokens + (size_t)have * KV_TOKENS_PER_PAGE,
                      c->o.uses[KV_FULL] ? &page[KV_FULL][have] : NULL);
    use(c, at, pages, page[KV_SLIDING]);
    return true;
}

/* ---- reclaiming ---- */

static bool alone(const prefix_cache *c, const node *n, kv_kind kind) {
    return n->page[kind] != PREFIX_NO_PAGE && c->o.pages.count(c->o.pages.context, kind, n->page[kind]) == 1;
}

/* Pages of the kind that dropping the point gives back. */
static uint32_t gives_back(const prefix_cache *c, uint32_t point, kv_kind kind) {
    uint32_t n = 0, at = point;
    if (kind == KV_SLIDING) {
        for (uint32_t left = c->window_pages; left && at != NONE; left--, at = c->node[at].parent)
            n += c->node[at].wanted == 1 && alone(c, &c->node[at], KV_SLIDING);
        return n;
    }
    if (c->node[at].children) return 0;
    do {
        n += alone(c, &c->node[at], KV_FULL);
        at = c->node[at].parent;
    } while (at != NONE && !c->node[at].point && c->node[at].children == 1);
    return n;
}

/* Whether a page that the point needs is nobody else's, though other points may need it too. */
static bool shares_alone(const prefix_cache *c, uint32_t point, kv_kind kind) {
    uint32_t left = kind == KV_SLIDING ? c->window_pages : c->o.nodes;
    for (uint32_t at = point; left && at != NONE; left--, at = c->node[at].parent)
        if (alone(c, &c->node[at], kind)) return true;
    return false;
}

uint32_t prefix_reclaim(prefix_cache *c, kv_kind kind, uint32_t n) {
    uint32_t freed = 0, next;
    for (uint32_t at = c->oldest; at != NONE && freed < n; at = next) {
        next = c->node[at].newer;
        uint32_t pages = gives_back(c, at, kind);
        if (pages == 0) continue;
        evict(c, at);
        freed += pages;
    }
    if (freed) return freed;
    /* Points that share all they could give back, and keep each other: together they do. */
    for (uint32_t at = c->oldest; at != NONE && freed == 0; at = next) {
        next = c->node[at].newer;
        if (!shares_alone(c, at, kind)) continue;
        freed = gives_back(c, at, kind);
        evict(c, at);
    }
    return freed;
}

static bool needs(const prefix_cache *c, uint32_t point, kv_kind kind, uint32_t page) {
    uint32_t left = kind == KV_SLIDING ? c->window_pages : c->o.nodes;
    for (uint32_t at = point; left && at != NONE; left--, at = c->node[at].parent)
        if (c->node[at].page[kind] == page) return true;
    return false;
}

void prefix_drop(prefix_cache *c, kv_kind kind, uint32_t page) {
    for (uint32_t at = c->oldest, next; at != NONE; at = next) {
        next = c->node[at].newer;
        if (needs(c, at, kind, page)) evict(c, at);
    }
}

void prefix_count(prefix_cache *c, uint32_t queried, uint32_t hit) {
    c->state.queried_tokens += queried;
    c->state.hit_tokens += hit;
}

prefix_statistics prefix_state(const prefix_cache *c) { return c->state; }

void prefix_alone(const prefix_cache *c, uint32_t pages[KV_KINDS]) {
    pages[KV_SLIDING] = pages[KV_FULL] = 0;
    for (uint32_t i = 0; i < c->fresh_node; i++)
        for (int kind = 0; kind < KV_KINDS; kind++) pages[kind] += alone(c, &c->node[i], kind);
}
