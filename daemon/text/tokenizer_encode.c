/* Text to tokens: added tokens are cut out, what is left falls into words where no merge can cross (bpe.h),
 * and words seen before in the same text are copied from where they were first encoded. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/text_hash.h"
#include "daemon/text/tokenizer_internal.h"

enum {
    CACHE_WORD_BYTES = 48, /* longer words come back too seldom */
    CACHE_BITS_MIN = 6,
    CACHE_BITS_MAX = 14, /* 16,384 words in 192 KiB: half of a small L2 */
    /* A space whose mark is no token becomes three byte tokens. */
    TEXT_BYTES_MAX = BPE_SYMBOLS_MAX / 3,
};
_Static_assert(CACHE_WORD_BYTES * 3 <= UINT8_MAX, "a word's tokens are counted in 8 bits");

typedef struct cached_word {
    uint32_t text_at, ids_at;
    uint8_t bytes, count; /* bytes 0: free */
} cached_word;

typedef struct encoder {
    const tokenizer *t;
    const char *text;
    size_t size;
    uint32_t *ids;
    size_t count, capacity;
    bpe_work work;
    cached_word *cache;
    unsigned cache_bits;
} encoder;

static void reserve_ids(encoder *e, size_t n) {
    if (e->count + n > e->capacity) {
        e->capacity = e->capacity * 2 > e->count + n ? e->capacity * 2 : e->count + n;
        e->ids = memory_grow(e->ids, e->capacity * sizeof *e->ids);
    }
}

static void push_ids(encoder *e, const uint32_t *ids, size_t n) {
    reserve_ids(e, n);
    memcpy(e->ids + e->count, ids, n * sizeof *ids);
    e->count += n;
}

/* text[begin … end) are the n start symbols in work.ids. */
static void encode_word(encoder *e, size_t begin, size_t end, size_t n) {
    size_t bytes = end - begin;
    if (n == 1 || bytes > CACHE_WORD_BYTES) {
        push_ids(e, e->work.ids, bpe_merge_word(&e->t->bpe, &e->work, n));
        return;
    }
    cached_word *c = &e->cache[text_hash(e->text + begin, bytes) & (((size_t)1 << e->cache_bits) - 1)];
    if (c->bytes == bytes && memcmp(e->text + c->text_at, e->text + begin, bytes) == 0) {
        reserve_ids(e, c->count); /* first: it may move what is copied */
        push_ids(e, e->ids + c->ids_at, c->count);
        return;
    }
    size_t count = bpe_merge_word(&e->t->bpe, &e->work, n);
    *c = (cached_word){(uint32_t)begin, (uint32_t)e->count, (uint8_t)bytes, (uint8_t)count};
    push_ids(e, e->work.ids, count);
}

/* The byte tokens of a character that has no token of its own; returns how many. */
static unsigned push_bytes(const encoder *e, size_t at, unsigned length, uint32_t *out) {
    const char *bytes = e->text + at;
    if (*bytes == ' ') {
        bytes = SPACE_MARK;
        length = SPACE_MARK_BYTES;
    }
    for (unsigned i = 0; i < length; i++) out[i] = e->t->vocab.byte_ids[(uint8_t)bytes[i]];
    return length;
}

/* One piece between added tokens. Words are cut between characters only, never between the bytes of one, so
 * that equal texts are equal words. */
static void encode_piece(encoder *e, size_t begin, size_t end) {
    const bpe *b = &e->t->bpe;
    size_t word = begin, n = 0;
    for (size_t at = begin; at < end;) {
        uint32_t code_point, symbols[4];
        unsigned length = utf8_decode(e->text + at, &code_point), count = 1;
        symbols[0] = bpe_symbol(b, code_point);
        if (symbols[0] == NO_TOKEN) count = push_bytes(e, at, length, symbols);
        if (n > 0 && !bpe_may_join(b, e->work.ids[n - 1], symbols[0])) {
            encode_word(e, word, at, n);
            word = at;
            n = 0;
        }
        bpe_work_reserve(&e->work, n + 4);
        for (unsigned i = 0; i < count; i++) e->work.ids[n++] = symbols[i];
        at += length;
    }
    if (n > 0) encode_word(e, word, end, n);
}

/* Cuts at added tokens. plain[] are the ranges where special tokens are text like any other. */
static void encode_all(encoder *e, const text_range *plain, size_t plain_count) {
    const added_tokens *added = &e->t->added;
    size_t piece = 0, range = 0;
    for (size_t at = 0; at < e->size;) {
        const added_token *found = NULL;
        if (added_tokens_may_start(added, e->text[at])) {
            while (range < plain_count && (plain[range].end <= at || plain[range].end == plain[range].begin))
                range++;
            size_t special_end = range < plain_count ? plain[range].begin : e->size;
            found = added_tokens_match(added, e->text + at, e->size - at,
                                       special_end > at ? special_end - at : 0);
        }
        if (!found) {
            at++;
            continue;
        }
        encode_piece(e, piece, at);
        push_ids(e, &found->id, 1);
        at += found->size;
        piece = at;
    }
    encode_piece(e, piece, e->size);
}

status tokenizer_encode_marked(const tokenizer *t, const char *text, size_t n, const text_range *plain,
                               size_t plain_count, size_t ids_max, uint32_t **ids, size_t *count) {
    *ids = NULL;
    *count = 0;
    for (size_t i = 0; i < plain_count; i++)
        INVARIANT(plain[i].begin <= plain[i].end && plain[i].end <= n &&
                  (i == 0 || plain[i - 1].end <= plain[i].begin));
    if (n > TEXT_BYTES_MAX)
        return fail(ST_INVALID, "the text has %zu bytes, at most %d are allowed", n, TEXT_BYTES_MAX);
    size_t valid = n > 0 ? utf8_check(text, n) : 0;
    if (valid != n) return fail(ST_INVALID, "the text is not UTF-8 at byte %zu", valid);
    encoder e = {.t = t, .text = text, .size = n, .cache_bits = CACHE_BITS_MIN};
    while (e.cache_bits < CACHE_BITS_MAX && n >> (e.cache_bits + 4) > 0) e.cache_bits++;
    e.cache = memory_alloc_array((size_t)1 << e.cache_bits, sizeof *e.cache);
    e.capacity = n / 4 + 16;
    e.ids = memory_grow(NULL, e.capacity * sizeof *e.ids);
    bpe_work_reserve(&e.work, 1);
    encode_all(&e, plain, plain_count);
    bpe_work_close(&e.work);
    free(e.cache);
    if (e.count > ids_max) {
        free(e.ids);
        return fail(ST_INVALID, "the text has %zu tokens, at most %zu are allowed", e.count, ids_max);
    }
    *ids = e.ids;
    *count = e.count;
    return ST_OK;
}

status tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool parse_special, size_t ids_max,
                        uint32_t **ids, size_t *count) {
    text_range all = {0, n};
    return tokenizer_encode_marked(t, text, n, &all, parse_special ? 0 : 1, ids_max, ids, count);
}
