#include "shard/kv/pages.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

typedef struct slab {
    uint32_t used; /* pages in use */
    kv_kind kind;  /* while used > 0 */

    uint8_t *taken; /* [pages_per_slab of its kind] */
} slab;

struct kv_pages {
    slab *slab;
    uint8_t *taken;
    uint32_t slabs, per_slab[KV_KINDS], used_slabs;
};

status kv_pages_open(kv_pages **out, uint32_t slabs, const uint32_t pages_per_slab[KV_KINDS]) {
    kv_pages *p = memory_alloc(sizeof *p);
    uint32_t most = 1;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        p->per_slab[kind] = pages_per_slab[kind];
        if (pages_per_slab[kind] > most) most = pages_per_slab[kind];
    }
    p->slabs = slabs;
    p->slab = memory_alloc_array(slabs, sizeof *p->slab);
    p->taken = memory_alloc_array((size_t)slabs * most, 1);
    for (uint32_t i = 0; i < slabs; i++) p->slab[i].taken = p->taken + (size_t)i * most;
    *out = p;
    return ST_OK;
}

void kv_pages_close(kv_pages *p) {
    if (!p) return;
    free(p->slab);
    free(p->taken);
    free(p);
}

/* Slabs that `count` more pages need: free places in slabs of the kind first, then empty slabs. */
static uint64_t slabs_needed(const kv_pages *p, kv_kind kind, uint32_t count, uint32_t places) {
    return count <= places ? 0 : ((uint64_t)count - places + p->per_slab[kind] - 1) / p->per_slab[kind];
}

bool kv_pages_could_hold(const kv_pages *p, const uint32_t count[KV_KINDS]) {
    uint64_t need = 0;
    for (int kind = 0; kind < KV_KINDS; kind++) need += slabs_needed(p, kind, count[kind], 0);
    return need <= p->slabs;
}

static void take_from(kv_pages *p, uint32_t index, kv_kind kind, uint32_t *left, uint32_t **out) {
    slab *s = &p->slab[index];
    if (s->used == 0) {
        s->kind = kind;
        p->used_slabs++;
    }
    for (uint32_t i = 0; i < p->per_slab[kind] && *left > 0; i++) {
        if (s->taken[i]) continue;
        s->taken[i] = 1;
        s->used++;
        *(*out)++ = index * p->per_slab[kind] + i;
        --*left;
    }
}

status kv_pages_take(kv_pages *p, const uint32_t count[KV_KINDS], uint32_t *const out[KV_KINDS]) {
    uint32_t places[KV_KINDS] = {0};
    uint64_t need = 0;
    for (uint32_t i = 0; i < p->slabs; i++)
        if (p->slab[i].used) places[p->slab[i].kind] += p->per_slab[p->slab[i].kind] - p->slab[i].used;
    for (int kind = 0; kind < KV_KINDS; kind++) need += slabs_needed(p, kind, count[kind], places[kind]);
    if (need > p->slabs - p->used_slabs)
        return fail(ST_KV_FULL, "KV: %llu slabs needed, %u of %u free", (unsigned long long)need,
                    p->slabs - p->used_slabs, p->slabs);
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint32_t left = count[kind], *at = out[kind];
        /* Slabs that serve the kind already come first, so that empty ones stay for the other kind. */
        for (int pass = 0; pass < 2 && left; pass++)
            for (uint32_t i = 0; i < p->slabs && left; i++) {
                bool serving = p->slab[i].used > 0;
                if (pass == 0 ? serving && p->slab[i].kind == (kv_kind)kind : !serving)
                    take_from(p, i, kind, &left, &at);
            }
        INVARIANT(left == 0);
    }
    return ST_OK;
}

void kv_pages_release(kv_pages *p, kv_kind kind, const uint32_t *pages, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        slab *s = &p->slab[pages[i] / p->per_slab[kind]];
        uint8_t *taken = &s->taken[pages[i] % p->per_slab[kind]];
        INVARIANT(*taken && s->kind == kind);
        *taken = 0;
        if (--s->used == 0) p->used_slabs--;
    }
}

uint32_t kv_pages_slabs_used(const kv_pages *p) { return p->used_slabs; }
uint32_t kv_pages_slabs(const kv_pages *p) { return p->slabs; }
