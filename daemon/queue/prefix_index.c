#include "daemon/queue/prefix_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { WAYS = 8, SETS = PREFIX_INDEX_PAGES / WAYS };

typedef struct entry {
    uint64_t hash, used; /* used: when it was added last; 0: empty */
} entry;

struct prefix_index {
    uint64_t clock;
    entry set[SETS][WAYS];
};

/* A collision costs a request that goes to the wrong engine, no more. */
static uint64_t mix(uint64_t h, uint32_t token) {
    h = (h ^ token) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

void prefix_chain_make(prefix_chain *out, const uint32_t *tokens, size_t n) {
    uint64_t h = 0x243F6A8885A308D3u;
    out->count = (uint32_t)(n / PREFIX_PAGE_TOKENS);
    out->hash = memory_alloc_array(out->count, sizeof *out->hash);
    for (uint32_t page = 0; page < out->count; page++) {
        for (uint32_t i = 0; i < PREFIX_PAGE_TOKENS; i++) h = mix(h, *tokens++);
        out->hash[page] = h;
    }
}

void prefix_chain_close(prefix_chain *c) {
    free(c->hash);
    *c = (prefix_chain){0};
}

prefix_index *prefix_index_open(void) { return memory_alloc(sizeof(prefix_index)); }
void prefix_index_close(prefix_index *x) { free(x); }
void prefix_index_clear(prefix_index *x) { memset(x, 0, sizeof *x); }

static const entry *find(const prefix_index *x, uint64_t hash) {
    const entry *set = x->set[hash % SETS];
    for (int i = 0; i < WAYS; i++)
        if (set[i].used && set[i].hash == hash) return &set[i];
    return NULL;
}

void prefix_index_add(prefix_index *x, const prefix_chain *c) {
    x->clock++;
    for (uint32_t page = 0; page < c->count; page++) {
        uint64_t hash = c->hash[page];
        entry *set = x->set[hash % SETS], *at = (entry *)(uintptr_t)find(x, hash);
        for (int i = 0; !at && i < WAYS; i++)
            if (!set[i].used) at = &set[i];
        if (!at) at = &set[0];
        for (int i = 1; at->used && at->hash != hash && i < WAYS; i++)
            if (set[i].used < at->used) at = &set[i];
        *at = (entry){hash, x->clock};
    }
}

uint32_t prefix_index_match(const prefix_index *x, const prefix_chain *c) {
    uint32_t page = 0;
    while (page < c->count && find(x, c->hash[page])) page++;
    return page;
}
