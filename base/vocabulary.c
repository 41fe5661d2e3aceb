#include "base/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/byte_reader.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "proto/limits.h"

/* As bytes: the magic, u32 count, u32 entries; then the entries by rising bytes and id, each varint id, varint of how many
 * bytes it begins with like the one before, varint of how many follow, and those. */
static const char magic[8] = "gvoc001";

struct vocabulary {
    uint32_t count;
    strbuf wire, texts;
    uint32_t *at;  /* [count]: in texts */
    uint8_t *size; /* [count] */
    token_trie trie;
    uint8_t hash[32];
};

void vocabulary_close(vocabulary *v) {
    if (!v) return;
    strbuf_close(&v->wire);
    strbuf_close(&v->texts);
    free(v->at);
    free(v->size);
    token_trie_close(&v->trie);
    free(v);
}

typedef struct sorted_token {
    vocabulary_token t;
    uint32_t id;
} sorted_token;

static int rising(const void *a, const void *b) {
    const sorted_token *x = a, *y = b;
    uint32_t n = x->t.size < y->t.size ? x->t.size : y->t.size;
    int order = memcmp(x->t.bytes, y->t.bytes, n);
    if (order) return order;
    if (x->t.size != y->t.size) return x->t.size < y->t.size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint32_t common(vocabulary_token a, vocabulary_token b) {
    uint32_t n = a.size < b.size ? a.size : b.size, i = 0;
    while (i < n && a.bytes[i] == b.bytes[i]) i++;
    return i;
}

static void write_wire(strbuf *out, const sorted_token *list, uint32_t n, uint32_t count) {
    strbuf_add(out, magic, sizeof magic);
    byte_add_u32(out, count);
    byte_add_u32(out, n);
    vocabulary_token before = {0};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t shared = i ? common(before, list[i].t) : 0;
        byte_add_varint(out, list[i].id);
        byte_add_varint(out, shared);
        byte_add_varint(out, list[i].t.size - shared);
        strbuf_add(out, list[i].t.bytes + shared, list[i].t.size - shared);
        before = list[i].t;
    }
}

/* One entry behind `before`, which it replaces. */
static status read_entry(vocabulary *v, byte_reader *r, uint32_t index, uint8_t *before,
                         uint32_t *before_size, uint32_t *before_id) {
    uint32_t id = byte_reader_varint(r), shared = byte_reader_varint(r), more = byte_reader_varint(r);
    const uint8_t *rest = byte_reader_take(r, more);
    if (!rest || r->over) return fail(ST_FORMAT, "vocabulary: it ends inside entry %u", index);
    if (id >= v->count)
        return fail(ST_FORMAT, "vocabulary: entry %u has the id %u of %u", index, id, v->count);
    if (v->size[id]) return fail(ST_FORMAT, "vocabulary: entry %u has the id %u, as one before", index, id);
    if (shared > *before_size || more > TOKEN_BYTES_MAX || shared + more > TOKEN_BYTES_MAX ||
        shared + more == 0)
        return fail(ST_FORMAT, "vocabulary: entry %u has %u + %u bytes, allowed are 1 to %d", index, shared,
                    more, TOKEN_BYTES_MAX);
    bool rises = shared < *before_size ? more > 0 && rest[0] > before[shared]
                                       : more > 0 || index == 0 || id > *before_id;
    if (!rises) return fail(ST_FORMAT, "vocabulary: entry %u is not behind the one before it", index);
    memcpy(before + shared, rest, more);
    *before_size = shared + more;
    *before_id = id;
    v->at[id] = (uint32_t)v->texts.size;
    v->size[id] = (uint8_t)(shared + more);
    strbuf_add(&v->texts, before, shared + more);
    token_trie_add(&v->trie, shared, rest, more, id, 0);
    return ST_OK;
}

static status read_all(vocabulary *v, byte_reader *r) {
    const uint8_t *first = byte_reader_take(r, sizeof magic);
    v->count = byte_reader_u32(r);
    uint32_t entries = byte_reader_u32(r);
    if (!first || r->over || memcmp(first, magic, sizeof magic))
        return fail(ST_FORMAT, "vocabulary: wrong first bytes");
    if (v->count > LIMIT_VOCAB || entries > v->count || entries > r->left / 3)
        return fail(ST_FORMAT,
                    "vocabulary: %u entries of %u tokens in %zu bytes, at most %d tokens are allowed",
                    entries, v->count, r->left, LIMIT_VOCAB);
    v->at = memory_alloc_array(v->count + 1, sizeof *v->at);
    v->size = memory_alloc(v->count + 1);
    uint8_t before[TOKEN_BYTES_MAX];
    uint32_t before_size = 0, before_id = 0;
    for (uint32_t i = 0; i < entries; i++) TRY(read_entry(v, r, i, before, &before_size, &before_id));
    if (r->left) return fail(ST_FORMAT, "vocabulary: %zu bytes behind its end", r->left);
    token_trie_finish(&v->trie);
    return ST_OK;
}

status vocabulary_read(vocabulary **out, const uint8_t *bytes, size_t n) {
    vocabulary *v = memory_alloc(sizeof *v);
    if (n > LIMIT_VOCABULARY_BYTES) {
        free(v);
        return fail(ST_FORMAT, "vocabulary: %zu bytes, at most %d are allowed", n, LIMIT_VOCABULARY_BYTES);
    }
    strbuf_add(&v->wire, bytes, n);
    status st = read_all(v, &(byte_reader){bytes, n, false});
    if (st != ST_OK) {
        vocabulary_close(v);
        return st;
    }
    sha256 s;
    sha256_begin(&s);
    sha256_add(&s, bytes, n);
    sha256_end(&s, v->hash);
    *out = v;
    return ST_OK;
}

status vocabulary_make(vocabulary **out, const vocabulary_token *tokens, uint32_t count) {
    sorted_token *list = memory_alloc_array((size_t)count + 1, sizeof *list);
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i].size > 0 && tokens[i].size <= TOKEN_BYTES_MAX) list[n++] = (sorted_token){tokens[i], i};
    qsort(list, n, sizeof *list, rising);
    strbuf wire = {0};
    write_wire(&wire, list, n, count);
    free(list);
    status st = vocabulary_read(out, (const uint8_t *)wire.data, wire.size);
    strbuf_close(&wire);
    return st;
}

uint32_t vocabulary_count(const vocabulary *v) { return v->count; }

vocabulary_token vocabulary_token_of(const vocabulary *v, uint32_t id) {
    if (id >= v->count || !v->size[id]) return (vocabulary_token){0};
    return (vocabulary_token){(const uint8_t *)v->texts.data + v->at[id], v->size[id]};
}

const token_trie *vocabulary_trie(const vocabulary *v) { return &v->trie; }

const uint8_t *vocabulary_bytes(const vocabulary *v, size_t *n) {
    *n = v->wire.size;
    return (const uint8_t *)v->wire.data;
}

const uint8_t *vocabulary_hash(const vocabulary *v) { return v->hash; }
