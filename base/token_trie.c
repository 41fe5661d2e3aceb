#include "base/token_trie.h"

#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"

static void grow_nodes(token_trie *t) {
    t->node_cap = t->node_cap ? t->node_cap * 2 : 64;
    t->byte = memory_grow(t->byte, t->node_cap);
    t->depth = memory_grow(t->depth, t->node_cap);
    t->first = memory_grow(t->first, ((size_t)t->node_cap + 1) * sizeof *t->first);
}

static void grow_entries(token_trie *t) {
    t->entry_cap = t->entry_cap ? t->entry_cap * 2 : 64;
    t->token = memory_grow(t->token, t->entry_cap * sizeof *t->token);
    t->units = memory_grow(t->units, t->entry_cap * sizeof *t->units);
}

void token_trie_add(token_trie *t, uint32_t shared, const uint8_t *rest, uint32_t rest_size, uint32_t token,
                    uint32_t units) {
    INVARIANT(shared + rest_size > 0 && shared + rest_size <= TOKEN_BYTES_MAX);
    for (uint32_t i = 0; i < rest_size; i++) {
        if (t->nodes == t->node_cap) grow_nodes(t);
        t->byte[t->nodes] = rest[i];
        t->depth[t->nodes] = (uint8_t)(shared + i + 1);
        t->first[t->nodes++] = t->entries;
    }
    if (t->entries == t->entry_cap) grow_entries(t);
    t->token[t->entries] = token;
    t->units[t->entries++] = units;
}

void token_trie_finish(token_trie *t) {
    uint32_t open[TOKEN_BYTES_MAX + 1], level = 0;
    if (!t->nodes) grow_nodes(t);
    t->first[t->nodes] = t->entries;
    t->end = memory_alloc_array(t->nodes + 1, sizeof *t->end);
    for (uint32_t i = 0; i < t->nodes; i++) {
        while (level >= t->depth[i]) t->end[open[level--]] = i;
        level = t->depth[i];
        open[level] = i;
    }
    while (level > 0) t->end[open[level--]] = t->nodes;
}

void token_trie_close(token_trie *t) {
    free(t->byte);
    free(t->depth);
    free(t->end);
    free(t->first);
    free(t->token);
    free(t->units);
    *t = (token_trie){0};
}
