/* Tokens to text, one at a time or all at once; both are the same code, so that a stream's parts are the
 * whole. */
#include "base/invariant.h"
#include "daemon/text/tokenizer_internal.h"
#include "base/utf8.h"

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

void detokenizer_open(detokenizer *d, const tokenizer *t, bool skip_special) {
    *d = (detokenizer){.tokenizer = t, .skip_special = skip_special};
}

void detokenizer_flush(detokenizer *d, strbuf *out) {
    for (; d->pending_count > 0; d->pending_count--) strbuf_add_string(out, REPLACEMENT);
}

static void add_byte(detokenizer *d, uint8_t byte, strbuf *out) {
    if (d->pending_count > 0 && !utf8_continues(d->pending, d->pending_count, byte))
        detokenizer_flush(d, out);
    if (d->pending_count == 0 && utf8_length(byte) == 0) {
        strbuf_add_string(out, REPLACEMENT);
        return;
    }
    d->pending[d->pending_count++] = byte;
    if (d->pending_count == utf8_length(d->pending[0])) {
        strbuf_add(out, d->pending, d->pending_count);
        d->pending_count = 0;
    }
}

static bool exists(const vocab *v, uint32_t id) { return id < v->size && v->tokens[id].flags & TOKEN_EXISTS; }

static status unknown(const vocab *v, uint32_t id) {
    if (id < v->size) return fail(ST_INVALID, "token id %u is not used in this vocabulary", id);
    return fail(ST_INVALID, "token id %u is outside the vocabulary of %u", id, v->size);
}

static void add_token(detokenizer *d, uint32_t id, strbuf *out) {
    const vocab *v = &d->tokenizer->vocab;
    const token_entry *t = &v->tokens[id];
    if (t->flags & TOKEN_SPECIAL && d->skip_special) return;
    const char *bytes = v->texts.data + t->shown_at;
    if (t->flags & TOKEN_BYTE) {
        add_byte(d, (uint8_t)*bytes, out);
    } else if (t->shown_size > 0) {
        /* Texts of tokens start with a whole character, which ends the wait for the rest of another. */
        detokenizer_flush(d, out);
        strbuf_add(out, bytes, t->shown_size);
    }
}

status detokenizer_add(detokenizer *d, uint32_t id, strbuf *out) {
    const vocab *v = &d->tokenizer->vocab;
    if (!exists(v, id)) return unknown(v, id);
    add_token(d, id, out);
    return ST_OK;
}

status tokenizer_decode(const tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                        strbuf *out) {
    for (size_t i = 0; i < count; i++)
        if (!exists(&t->vocab, ids[i])) return unknown(&t->vocab, ids[i]);
    detokenizer d;
    detokenizer_open(&d, t, skip_special);
    for (size_t i = 0; i < count; i++) add_token(&d, ids[i], out);
    detokenizer_flush(&d, out);
    return ST_OK;
}
