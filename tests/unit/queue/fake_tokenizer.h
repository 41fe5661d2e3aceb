/* A tokenizer small enough to write token streams by hand, behind the functions of daemon/text/tokenizer.h. Ids: 0 <pad>,
 * 1 <eos>, 2 <bos>, 3 + b the byte b, then words. Encoding is one byte token a byte. */
#ifndef TESTS_UNIT_QUEUE_FAKE_TOKENIZER_H
#define TESTS_UNIT_QUEUE_FAKE_TOKENIZER_H

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/tokenizer.h"

enum { PAD, EOS, BOS, BYTE, WORD = BYTE + 256 };
enum { HELLO = WORD, WORLD, A, AB, B, C, E_ACUTE, CHANNEL, CHANNEL_END, CALL, CALL_END, RESPONSE, QUOTE, TURN, TURN_END, FAKE_VOCAB };

struct tokenizer { int unused; };

static const char *const fake_words[] = {"hello", " world", "a", "ab", "b", "c", "\xC3\xA9", "<|channel>", "<channel|>",
                                         "<|tool_call>", "<tool_call|>", "<|tool_response>", "<|\"|>", "<|turn>", "<turn|>"};
static const char *const fake_special[] = {"<pad>", "<eos>", "<bos>"};

uint32_t tokenizer_vocab_size(const tokenizer *t) { return (void)t, FAKE_VOCAB; }
bool tokenizer_is_special(const tokenizer *t, uint32_t id) { return (void)t, id < BYTE || (id >= CHANNEL && id < FAKE_VOCAB); }

const char *tokenizer_text(const tokenizer *t, uint32_t id, size_t *n) {
    (void)t;
    const char *text = id < BYTE ? fake_special[id] : id >= WORD && id < FAKE_VOCAB ? fake_words[id - WORD] : NULL;
    *n = text ? strlen(text) : 0;
    return text;
}

bool tokenizer_find(const tokenizer *t, const char *text, uint32_t *id) {
    size_t n;
    for (*id = 0; *id < FAKE_VOCAB; ++*id) {
        const char *s = tokenizer_text(t, *id, &n);
        if (s && !strcmp(s, text)) return true;
    }
    return false;
}

const char *tokenizer_bytes(const tokenizer *t, uint32_t id, size_t *n) {
    static char all[256];
    if (id < BYTE || id >= WORD) return tokenizer_text(t, id, n);
    all[id - BYTE] = (char)(id - BYTE);
    *n = 1;
    return &all[id - BYTE];
}


status tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool parse_special, size_t ids_max,
                        uint32_t **ids, size_t *count) {
    (void)t;
    size_t valid = utf8_check(text, n), k = 0;
    if (valid < n) return fail(ST_INVALID, "not UTF-8 at byte %zu", valid);
    if (n > ids_max) return fail(ST_INVALID, "%zu tokens, at most %zu", n, ids_max);
    *ids = memory_alloc_array(n, sizeof **ids);
    for (size_t i = 0; i < n; k++) {
        (*ids)[k] = BYTE + (uint8_t)text[i++];
        for (uint32_t s = 0; parse_special && s < 3; s++) {
            size_t m = strlen(fake_special[s]);
            if (n - (i - 1) < m || memcmp(text + i - 1, fake_special[s], m) != 0) continue;
            (*ids)[k] = s;
            i += m - 1;
        }
    }
    *count = k;
    return ST_OK;
}

/* Ranges of strangers are not looked at: what a test says of them it says with the real tokenizer. */
status tokenizer_encode_marked(const tokenizer *t, const char *text, size_t n, const text_range *plain, size_t plain_count,
                               size_t ids_max, uint32_t **ids, size_t *count) {
    (void)plain, (void)plain_count;
    return tokenizer_encode(t, text, n, true, ids_max, ids, count);
}

/* Kept for ever, as a tokenizer's own. */
status tokenizer_vocabulary(const tokenizer *t, const vocabulary **out) {
    static vocabulary *made;
    vocabulary_token list[FAKE_VOCAB] = {{0}};
    static uint8_t bytes[256];
    (void)t;
    for (uint32_t i = 0; i < FAKE_VOCAB; i++) {
        if (i >= BYTE && i < WORD) bytes[i - BYTE] = (uint8_t)(i - BYTE), list[i] = (vocabulary_token){&bytes[i - BYTE], 1};
        else if (i >= WORD && i < CHANNEL)
            list[i] = (vocabulary_token){(const uint8_t *)fake_words[i - WORD], (uint32_t)strlen(fake_words[i - WORD])};
    }
    status st = made ? ST_OK : vocabulary_make(&made, list, FAKE_VOCAB);
    *out = made;
    return st;
}

void detokenizer_open(detokenizer *d, const tokenizer *t, bool skip_special) {
    *d = (detokenizer){.tokenizer = t, .skip_special = skip_special};
}

void detokenizer_flush(detokenizer *d, strbuf *out) {
    for (; d->pending_count > 0; d->pending_count--) strbuf_add_string(out, "\xEF\xBF\xBD");
}

/* Whether pending is the beginning of a character. */
static inline bool fake_may_go_on(const uint8_t *s, size_t n) {
    uint8_t padded[4];
    size_t want = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || n >= want) return false;
    for (int second = 0x80; second <= 0xBF; second++) {
        memset(padded, 0x80, sizeof padded);
        padded[1] = (uint8_t)second;
        memcpy(padded, s, n);
        if (utf8_check(padded, want) == want) return true;
    }
    return false;
}

static inline void fake_byte(detokenizer *d, uint8_t byte, strbuf *out) {
    if (d->pending_count > 0) {
        d->pending[d->pending_count] = byte;
        if (utf8_check(d->pending, d->pending_count + 1u) == d->pending_count + 1u) {
            strbuf_add(out, d->pending, d->pending_count + 1u);
            d->pending_count = 0;
            return;
        }
        if (fake_may_go_on(d->pending, d->pending_count + 1u)) {
            d->pending_count++;
            return;
        }
        detokenizer_flush(d, out);
    }
    d->pending[0] = byte;
    if (byte < 0x80) strbuf_add(out, &byte, 1);
    else if (fake_may_go_on(&byte, 1)) d->pending_count = 1;
    else strbuf_add_string(out, "\xEF\xBF\xBD");
}

status detokenizer_add(detokenizer *d, uint32_t id, strbuf *out) {
    if (id >= FAKE_VOCAB) return fail(ST_INVALID, "id %u", id);
    if (id >= BYTE && id < WORD) {
        fake_byte(d, (uint8_t)(id - BYTE), out);
        return ST_OK;
    }
    if (id < BYTE && d->skip_special) return ST_OK;
    detokenizer_flush(d, out);
    strbuf_add_string(out, id < BYTE ? fake_special[id] : fake_words[id - WORD]);
    return ST_OK;
}

status tokenizer_decode(const tokenizer *t, const uint32_t *ids, size_t count, bool skip_special, strbuf *out) {
    detokenizer d;
    detokenizer_open(&d, t, skip_special);
    for (size_t i = 0; i < count; i++) TRY(detokenizer_add(&d, ids[i], out));
    detokenizer_flush(&d, out);
    return ST_OK;
}

#endif
