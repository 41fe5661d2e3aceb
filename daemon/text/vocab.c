#include "daemon/text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/text_hash.h"
#include "proto/limits.h"

/* The slot that holds the text, or the free one where it belongs. */
static size_t slot_of(const vocab *v, const char *text, size_t n, uint64_t hash) {
    size_t mask = v->slot_count - 1;
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        uint64_t slot = v->slots[i];
        if (slot == 0) return i;
        if (slot >> 32 != hash >> 32) continue;
        const token_entry *t = &v->tokens[(uint32_t)slot - 1];
        if (t->text_size == n && memcmp(v->texts.data + t->text_at, text, n) == 0) return i;
    }
}

static void grow_slots(vocab *v) {
    free(v->slots);
    v->slot_count = v->slot_count ? v->slot_count * 2 : 1024;
    v->slots = memory_alloc_array(v->slot_count, sizeof *v->slots);
    for (uint32_t id = 0; id < v->size; id++) {
        if (!(v->tokens[id].flags & TOKEN_EXISTS)) continue;
        size_t n;
        const char *text = vocab_text(v, id, &n);
        uint64_t hash = text_hash(text, n);
        v->slots[slot_of(v, text, n, hash)] = hash >> 32 << 32 | (id + 1);
    }
}

static void grow_tokens(vocab *v, uint32_t size) {
    if (size > v->capacity) {
        v->capacity = v->capacity ? v->capacity * 2 : 1024;
        if (v->capacity < size) v->capacity = size;
        v->tokens = memory_grow(v->tokens, v->capacity * sizeof *v->tokens);
    }
    memset(v->tokens + v->size, 0, (size - v->size) * sizeof *v->tokens);
    v->size = size;
}

static int shown(size_t n) { return n > 64 ? 64 : (int)n; }

status vocab_add(vocab *v, const char *text, size_t n, uint32_t id) {
    if (id >= LIMIT_VOCAB)
        return fail(ST_FORMAT, "token \"%.*s\" has id %u, at most %d is allowed", shown(n), text, id,
                    LIMIT_VOCAB - 1);
    if (id < v->size && v->tokens[id].flags & TOKEN_EXISTS) {
        size_t m;
        const char *other = vocab_text(v, id, &m);
        return fail(ST_FORMAT, "id %u is given to \"%.*s\" and to \"%.*s\"", id, shown(m), other, shown(n),
                    text);
    }
    if (n > UINT32_MAX - v->texts.size) return fail(ST_FORMAT, "the tokens have more than 4 GiB of text");
    if (!v->texts.data)
        strbuf_add(&v->texts, "", 1); /* so that the text of an empty token has an address too */
    if ((size_t)(v->count + 1) * 2 > v->slot_count) grow_slots(v);
    uint64_t hash = text_hash(text, n);
    size_t slot = slot_of(v, text, n, hash);
    if (v->slots[slot] != 0)
        return fail(ST_FORMAT, "token \"%.*s\" is there twice: ids %u and %u", shown(n), text,
                    (uint32_t)v->slots[slot] - 1, id);
    if (id >= v->size) grow_tokens(v, id + 1);
    v->tokens[id] =
        (token_entry){.text_at = (uint32_t)v->texts.size, .text_size = (uint32_t)n, .flags = TOKEN_EXISTS};
    strbuf_add(&v->texts, text, n);
    v->slots[slot] = hash >> 32 << 32 | (id + 1);
    v->count++;
    return ST_OK;
}

void vocab_mark_special(vocab *v, uint32_t id) { v->tokens[id].flags |= TOKEN_SPECIAL; }

static int hex_digit(char d) {
    if (d >= '0' && d <= '9') return d - '0';
    if (d >= 'a' && d <= 'f') return d - 'a' + 10;
    return d >= 'A' && d <= 'F' ? d - 'A' + 10 : -1;
}

bool vocab_byte_of(const char *text, size_t n, uint8_t *byte) {
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return false;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    if (high < 0 || low < 0) return false;
    *byte = (uint8_t)(high << 4 | low);
    return true;
}

/* Appends what the token decodes to. Most tokens that hold no space mark are shown as they are. */
static void set_shown(vocab *v, token_entry *t) {
    const char *text = v->texts.data + t->text_at;
    uint8_t byte;
    if (vocab_byte_of(text, t->text_size, &byte)) {
        t->flags |= TOKEN_BYTE;
        t->shown_at = (uint32_t)v->texts.size;
        t->shown_size = 1;
        strbuf_add(&v->texts, &byte, 1);
        return;
    }
    t->shown_at = t->text_at;
    t->shown_size = t->text_size;
    if (!memmem(text, t->text_size, SPACE_MARK, SPACE_MARK_BYTES)) return;
    t->shown_at = (uint32_t)v->texts.size;
    for (uint32_t i = 0; i < t->text_size;) {
        const char *p = v->texts.data + t->text_at + i; /* strbuf_add moves the block */
        bool space = t->text_size - i >= SPACE_MARK_BYTES && memcmp(p, SPACE_MARK, SPACE_MARK_BYTES) == 0;
        char b = space ? ' ' : *p;
        strbuf_add(&v->texts, &b, 1);
        i += space ? SPACE_MARK_BYTES : 1;
    }
    t->shown_size = (uint32_t)v->texts.size - t->shown_at;
}

status vocab_finish(vocab *v) {
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8] = "<0x00>";
        name[3] = "0123456789ABCDEF"[byte >> 4];
        name[4] = "0123456789ABCDEF"[byte & 15];
        v->byte_ids[byte] = vocab_find(v, name, 6);
        if (v->byte_ids[byte] == NO_TOKEN)
            return fail(ST_FORMAT, "byte token %s is missing: byte_fallback needs all 256", name);
    }
    if (v->texts.size > UINT32_MAX / 2) return fail(ST_FORMAT, "the tokens have more than 2 GiB of text");
    for (uint32_t id = 0; id < v->size; id++)
        if (v->tokens[id].flags & TOKEN_EXISTS) set_shown(v, &v->tokens[id]);
    return ST_OK;
}

uint32_t vocab_find(const vocab *v, const char *text, size_t n) {
    if (v->slot_count == 0) return NO_TOKEN;
    uint64_t slot = v->slots[slot_of(v, text, n, text_hash(text, n))];
    return slot ? (uint32_t)slot - 1 : NO_TOKEN;
}

void vocab_close(vocab *v) {
    free(v->tokens);
    free(v->slots);
    strbuf_close(&v->texts);
    *v = (vocab){0};
}
