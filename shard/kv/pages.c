#include "shard/kv/pages.h"

#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"

enum { NO_SLAB = 0xFFFFFFFF };

typedef struct slab {
    uint32_t used;       /* pages in use */
    kv_kind kind;        /* while used > 0 */
    uint32_t first_free; /* of its pages, counted inside the slab; while used > 0 */
    uint32_t next, previous;
} slab;

struct kv_pages {
    slab *slab;
    uint32_t *references, *next_free; /* [slabs · most] */
    uint32_t most, slabs, per_slab[KV_KINDS], slabs_of[KV_KINDS], used[KV_KINDS];
    uint32_t empty;              /* first slab that serves no kind */
    uint32_t *serving[KV_KINDS]; /* [per_slab + 1]: first slab of the kind with so many pages in use */
};

static uint32_t *list_of(kv_pages *p, const slab *s) {
    return s->used ? &p->serving[s->kind][s->used] : &p->empty;
}

static void link_slab(kv_pages *p, uint32_t index) {
    slab *s = &p->slab[index];
    uint32_t *first = list_of(p, s);
    s->previous = NO_SLAB;
    s->next = *first;
    if (*first != NO_SLAB) p->slab[*first].previous = index;
    *first = index;
}

static void unlink_slab(kv_pages *p, uint32_t index) {
    slab *s = &p->slab[index];
    if (s->next != NO_SLAB) p->slab[s->next].previous = s->previous;
    if (s->previous != NO_SLAB) p->slab[s->previous].next = s->next;
    else *list_of(p, s) = s->next;
}

status kv_pages_open(kv_pages **out, uint32_t slabs, const uint32_t pages_per_slab[KV_KINDS]) {
    kv_pages *p = memory_alloc(sizeof *p);
    p->most = 1;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint32_t n = p->per_slab[kind] = pages_per_slab[kind];
        INVARIANT(n > 0);
        if (n > p->most) p->most = n;
        p->serving[kind] = memory_alloc_array(n + 1, sizeof **p->serving);
        for (uint32_t i = 0; i <= n; i++) p->serving[kind][i] = NO_SLAB;
    }
    p->slabs = slabs;
    p->empty = NO_SLAB;
    p->slab = memory_alloc_array(slabs, sizeof *p->slab);
    p->references = memory_alloc_array((size_t)slabs * p->most, sizeof *p->references);
    p->next_free = memory_alloc_array((size_t)slabs * p->most, sizeof *p->next_free);
    for (uint32_t i = slabs; i-- > 0;) link_slab(p, i);
    *out = p;
    return ST_OK;
}

void kv_pages_close(kv_pages *p) {
    if (!p) return;
    for (int kind = 0; kind < KV_KINDS; kind++) free(p->serving[kind]);
    free(p->slab);
    free(p->references);
    free(p->next_free);
    free(p);
}

/* Where a page's numbers stand. */
static uint32_t place_of(const kv_pages *p, kv_kind kind, uint32_t page) {
    INVARIANT(page < p->slabs * p->per_slab[kind]);
    return page / p->per_slab[kind] * p->most + page % p->per_slab[kind];
}

static void begin_serving(kv_pages *p, slab *s, kv_kind kind) {
    uint32_t first = (uint32_t)(s - p->slab) * p->most;
    s->kind = kind;
    s->first_free = 0;
    for (uint32_t i = 0; i < p->per_slab[kind]; i++) p->next_free[first + i] = i + 1;
    p->slabs_of[kind]++;
}

bool kv_pages_take_one(kv_pages *p, kv_kind kind, uint32_t *page) {
    /* The fullest slab that serves the kind and has room, so that others can become empty for the other kind. */
    uint32_t used = p->per_slab[kind] - 1;
    while (used > 0 && p->serving[kind][used] == NO_SLAB) used--;
    uint32_t index = used ? p->serving[kind][used] : p->empty;
    if (index == NO_SLAB) return false;
    slab *s = &p->slab[index];
    unlink_slab(p, index);
    if (s->used == 0) begin_serving(p, s, kind);
    uint32_t in_slab = s->first_free, place = index * p->most + in_slab;
    INVARIANT(in_slab < p->per_slab[kind] && p->references[place] == 0);
    s->first_free = p->next_free[place];
    p->references[place] = 1;
    s->used++;
    p->used[kind]++;
    link_slab(p, index);
    *page = index * p->per_slab[kind] + in_slab;
    return true;
}

void kv_pages_retain(kv_pages *p, kv_kind kind, uint32_t page) {
    uint32_t place = place_of(p, kind, page);
    INVARIANT(p->slab[place / p->most].kind == kind && p->references[place] > 0);
    p->references[place]++;
}

static void release_one(kv_pages *p, kv_kind kind, uint32_t page) {
    uint32_t place = place_of(p, kind, page), index = place / p->most;
    slab *s = &p->slab[index];
    INVARIANT(s->used > 0 && s->kind == kind && p->references[place] > 0);
    if (--p->references[place] > 0) return;
    unlink_slab(p, index);
    p->next_free[place] = s->first_free;
    s->first_free = place % p->most;
    p->used[kind]--;
    if (--s->used == 0) p->slabs_of[kind]--;
    link_slab(p, index);
}

void kv_pages_release(kv_pages *p, kv_kind kind, const uint32_t *pages, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) release_one(p, kind, pages[i]);
}

uint32_t kv_pages_references(const kv_pages *p, kv_kind kind, uint32_t page) {
    uint32_t place = place_of(p, kind, page);
    const slab *s = &p->slab[place / p->most];
    return s->used > 0 && s->kind == kind ? p->references[place] : 0;
}

/* ---- counts ---- */

static uint32_t slabs_empty(const kv_pages *p) { return p->slabs - kv_pages_slabs_used(p); }

/* Free places of slabs that serve the kind. */
static uint32_t places(const kv_pages *p, kv_kind kind) {
    return p->slabs_of[kind] * p->per_slab[kind] - p->used[kind];
}

/* Slabs that `count` more pages need when so many places are free. */
static uint64_t slabs_needed(const kv_pages *p, kv_kind kind, uint64_t count, uint32_t free_places) {
    return count <= free_places ? 0 : (count - free_places + p->per_slab[kind] - 1) / p->per_slab[kind];
}

static uint64_t slabs_missing_for(const kv_pages *p, const uint64_t count[KV_KINDS]) {
    uint64_t need = 0;
    for (int kind = 0; kind < KV_KINDS; kind++)
        need += slabs_needed(p, kind, count[kind], places(p, (kv_kind)kind));
    return need;
}

bool kv_pages_fit(const kv_pages *p, const uint64_t count[KV_KINDS]) {
    return slabs_missing_for(p, count) <= slabs_empty(p);
}

bool kv_pages_could_hold(const kv_pages *p, const uint32_t count[KV_KINDS]) {
    uint64_t need = 0;
    for (int kind = 0; kind < KV_KINDS; kind++) need += slabs_needed(p, kind, count[kind], 0);
    return need <= p->slabs;
}

status kv_pages_take(kv_pages *p, const uint32_t count[KV_KINDS], uint32_t *const out[KV_KINDS]) {
    uint64_t wide[KV_KINDS];
    for (int kind = 0; kind < KV_KINDS; kind++) wide[kind] = count[kind];
    if (!kv_pages_fit(p, wide))
        return fail(ST_KV_FULL, "KV: %llu slabs needed, %u of %u free",
                    (unsigned long long)slabs_missing_for(p, wide), slabs_empty(p), p->slabs);
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = 0; i < count[kind]; i++)
            INVARIANT(kv_pages_take_one(p, (kv_kind)kind, &out[kind][i]));
    return ST_OK;
}

uint32_t kv_pages_used(const kv_pages *p, kv_kind kind) { return p->used[kind]; }
uint32_t kv_pages_free(const kv_pages *p, kv_kind kind) {
    return places(p, kind) + slabs_empty(p) * p->per_slab[kind];
}
uint32_t kv_pages_slabs_used(const kv_pages *p) { return p->slabs_of[KV_SLIDING] + p->slabs_of[KV_FULL]; }
uint32_t kv_pages_slabs(const kv_pages *p) { return p->slabs; }
