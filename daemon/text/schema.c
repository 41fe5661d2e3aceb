/* From the text of a schema to its network: nodes are made as they are named, and expanded one by one. */
#include "daemon/text/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/schema_internal.h"

struct schema_arena {
    schema_arena *before;
    size_t used, size;
    _Alignas(16) uint8_t byte[];
};

typedef struct schema_owned {
    json_tree *tree;
    schema_arena *arena;
    char_nfa **automaton;
    uint32_t automaton_count;
    schema_node *node;
} schema_owned;

enum { ARENA_BYTES = 1 << 16, NODE_BUCKETS = 1 << 12 };

void *schema_alloc(schema_builder *b, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    if (!b->arena || b->arena->size - b->arena->used < bytes) {
        size_t size = bytes > ARENA_BYTES ? bytes : ARENA_BYTES;
        schema_arena *more = memory_alloc(sizeof *more + size);
        more->before = b->arena;
        more->size = size;
        b->arena = more;
    }
    void *out = b->arena->byte + b->arena->used;
    b->arena->used += bytes;
    return out;
}

status schema_keep(schema_builder *b, char_nfa *a, const char_nfa **out) {
    for (uint32_t i = 0; i < b->automaton_count; i++) {
        *out = b->automaton[i];
        if (char_nfa_equal(*out, a)) return ST_OK;
    }
    b->wide_states += char_nfa_wide_states(a);
    if (b->wide_states > CHAR_NFA_WIDE_MAX)
        return fail(ST_INVALID,
                    "the patterns, with their lengths, have %u states that take many characters, at most %d",
                    b->wide_states, CHAR_NFA_WIDE_MAX);
    char_nfa *kept = memory_alloc(sizeof *kept);
    *kept = *a;
    *a = (char_nfa){0};
    b->automaton = memory_grow(b->automaton, (b->automaton_count + 1) * sizeof *b->automaton);
    b->automaton[b->automaton_count++] = kept;
    b->automata_states += kept->state_count;
    *out = kept;
    if (b->automata_states > SCHEMA_AUTOMATA_MAX)
        return fail(ST_INVALID, "all patterns together have %u states, at most %d", b->automata_states,
                    SCHEMA_AUTOMATA_MAX);
    return ST_OK;
}

void schema_set_add(schema_set *s, const json_value *v) {
    if (schema_set_has(s, v)) return;
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 4;
        s->item = memory_grow(s->item, s->capacity * sizeof *s->item);
    }
    s->item[s->count++] = v;
}

bool schema_set_has(const schema_set *s, const json_value *v) {
    for (uint32_t i = 0; i < s->count; i++)
        if (s->item[i] == v) return true;
    return false;
}

/* Appends where `at` lies below `from`; the tree knows no parents, and only errors ask. */
static bool find_pointer(const json_value *from, const json_value *at, strbuf *out) {
    if (from == at) return true;
    uint32_t index = 0;
    for (const json_value *v = from->first; v; v = v->next, index++) {
        size_t before = out->size;
        strbuf_add(out, "/", 1);
        if (!v->key) strbuf_add_format(out, "%u", index);
        for (size_t i = 0; v->key && i < v->key_bytes; i++)
            strbuf_add_string(out, v->key[i] == '~'   ? "~0"
                                   : v->key[i] == '/' ? "~1"
                                                      : (char[]){v->key[i], 0});
        if (find_pointer(v, at, out)) return true;
        out->size = before;
    }
    return false;
}

status schema_wrong(const schema_builder *b, const json_value *at, const char *keyword, const char *format,
                    ...) {
    char sentence[512];
    strbuf pointer = {0};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    find_pointer(b->root, at, &pointer);
    int n = pointer.size < 256 ? (int)pointer.size : 256;
    status st = fail(ST_INVALID, "%.*s%s%s: %s", n, strbuf_text(&pointer), keyword || n == 0 ? "/" : "",
                     keyword ? keyword : "", sentence);
    strbuf_close(&pointer);
    return st;
}

status schema_work(schema_builder *b, const json_value *at, uint64_t comparisons) {
    b->work += comparisons;
    if (b->work > SCHEMA_WORK_MAX)
        return schema_wrong(b, at, NULL, "the schema takes over %d comparisons", SCHEMA_WORK_MAX);
    return ST_OK;
}

static uint32_t hash_set(const schema_set *s) {
    uint64_t h = s->count;
    for (uint32_t i = 0; i < s->count; i++) h = (h ^ (uintptr_t)s->item[i]) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32) & (NODE_BUCKETS - 1);
}

static void append_node(schema_builder *b, schema_set meaning) {
    if (b->node_count == b->node_capacity) {
        b->node_capacity = b->node_capacity ? 2 * b->node_capacity : 64;
        b->node = memory_grow(b->node, b->node_capacity * sizeof *b->node);
        b->meaning = memory_grow(b->meaning, b->node_capacity * sizeof *b->meaning);
        b->chain = memory_grow(b->chain, b->node_capacity * sizeof *b->chain);
    }
    b->node[b->node_count] = (schema_node){0};
    b->meaning[b->node_count++] = meaning;
}

static status find_node(schema_builder *b, schema_set *set, uint32_t *out) {
    uint32_t *bucket = &b->bucket[hash_set(set)];
    for (uint32_t i = *bucket; i != SCHEMA_NONE; i = b->chain[i])
        if (b->meaning[i].count == set->count &&
            memcmp(b->meaning[i].item, set->item, set->count * sizeof *set->item) == 0) {
            *out = i;
            return ST_OK;
        }
    if (b->node_count >= SCHEMA_NODES_MAX)
        return fail(ST_INVALID, "over %u places that differ, at most %d", b->node_count, SCHEMA_NODES_MAX);
    *out = b->node_count;
    append_node(b, *set);
    *set = (schema_set){0};
    b->chain[*out] = *bucket;
    *bucket = *out;
    return ST_OK;
}

status schema_node_of(schema_builder *b, schema_set *set, uint32_t *out) {
    status st = ST_OK;
    bool nothing = false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < set->count && st == ST_OK; i++) {
        const json_value *v = set->item[i];
        if (v->kind == JSON_KIND_FALSE) nothing = true;
        else if (v->kind == JSON_KIND_OBJECT) set->item[n++] = v;
        else if (v->kind != JSON_KIND_TRUE)
            st = schema_wrong(b, v, NULL, "a schema is an object, true or false");
    }
    set->count = n;
    if (st == ST_OK && nothing) *out = SCHEMA_NONE;
    else if (st == ST_OK && n == 0) *out = SCHEMA_ANY;
    else if (st == ST_OK) st = find_node(b, set, out);
    free(set->item);
    *set = (schema_set){0};
    return st;
}

static status build(schema_builder *b, uint32_t *root) {
    schema_set all = {0};
    b->root = json_tree_root(b->tree);
    append_node(b, all); /* SCHEMA_ANY */
    b->done = 1;
    schema_set_add(&all, b->root);
    TRY(schema_node_of(b, &all, root));
    for (; b->done < b->node_count; b->done++) TRY(schema_expand(b, b->done));
    return ST_OK;
}

static void release(schema_owned *o) {
    while (o->arena) {
        schema_arena *before = o->arena->before;
        free(o->arena);
        o->arena = before;
    }
    for (uint32_t i = 0; i < o->automaton_count; i++) {
        char_nfa_close(o->automaton[i]);
        free(o->automaton[i]);
    }
    free(o->automaton);
    free(o->node);
    json_tree_close(o->tree);
    free(o);
}

void schema_close(schema *s) {
    if (!s) return;
    release(s->owned);
    free(s);
}

bool schema_node_ends(const schema *s, uint32_t node) {
    return node == SCHEMA_ANY || (node != SCHEMA_NONE && s->node[node].ends);
}

status schema_open(schema **out, const char *text, size_t bytes) {
    schema_builder b = {0};
    uint32_t root;
    *out = NULL;
    if (bytes > SCHEMA_BYTES_MAX) return fail(ST_INVALID, "%zu bytes, at most %d", bytes, SCHEMA_BYTES_MAX);
    status st = json_tree_read(&b.tree, text, bytes);
    if (st != ST_OK) return fail_within(ST_INVALID, "no JSON");
    b.bucket = memory_alloc_array(NODE_BUCKETS, sizeof *b.bucket);
    memset(b.bucket, 0xFF, NODE_BUCKETS * sizeof *b.bucket);
    st = build(&b, &root);
    for (uint32_t i = 0; i < b.node_count; i++) free(b.meaning[i].item);
    free(b.meaning);
    free(b.bucket);
    free(b.chain);
    schema_owned *owned = memory_alloc(sizeof *owned);
    *owned = (schema_owned){b.tree, b.arena, b.automaton, b.automaton_count, b.node};
    if (st != ST_OK) {
        release(owned);
        return st;
    }
    schema *s = memory_alloc(sizeof *s);
    *s = (schema){.node = b.node, .node_count = b.node_count, .root = root, .owned = owned};
    st = schema_filter_constants(s);
    schema_mark_ends(s);
    if (st == ST_OK && !schema_node_ends(s, root))
        st = fail(ST_INVALID, "/: no document that ends fits the schema");
    if (st == ST_OK) *out = s;
    else schema_close(s);
    return st;
}
