#include "daemon/http/token_text.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "daemon/http/json_out.h"

const char *token_bytes(const tokenizer *t, uint32_t id, size_t *n, char room[24]) {
    const char *bytes = t ? tokenizer_bytes(t, id, n) : NULL;
    if (bytes) return bytes;
    *n = (size_t)snprintf(room, 24, "token_id:%u", id);
    return room;
}

static void write_token(const tokenizer *t, uint32_t id, float logprob, strbuf *out) {
    char room[24];
    size_t n;
    const char *bytes = token_bytes(t, id, &n, room);
    out_text(out, "token", bytes, n);
    out_float(out, "logprob", logprob);
    out_array(out, "bytes");
    for (size_t i = 0; i < n; i++) out_number(out, NULL, (uint8_t)bytes[i]);
    out_end_array(out);
}

void token_write_chat(const tokenizer *t, const Gemmad__V1__TokenLogprob *l, size_t top, strbuf *out) {
    out_object(out, NULL);
    write_token(t, l->token_id, l->logprob, out);
    out_array(out, "top_logprobs");
    for (size_t i = 0; i < l->n_top && i < top; i++) {
        out_object(out, NULL);
        write_token(t, l->top[i]->token_id, l->top[i]->logprob, out);
        out_end_object(out);
    }
    out_end_array(out);
    out_end_object(out);
}

/* Keys of top_logprobs must differ, so tokens that are part of a character are written as their bytes: "bytes:\xe2\x80". */
static void add_name(const tokenizer *t, uint32_t id, strbuf *out) {
    char room[24], hex[8];
    size_t n;
    const char *bytes = token_bytes(t, id, &n, room);
    if (utf8_check(bytes, n) == n) {
        strbuf_add(out, bytes, n);
        return;
    }
    strbuf_add_string(out, "bytes:");
    for (size_t i = 0; i < n; i++) {
        snprintf(hex, sizeof hex, "\\x%02x", (uint8_t)bytes[i]);
        strbuf_add_string(out, hex);
    }
}

/* Two tokens of one text (a byte and the same letter): the first, which is likelier, stands. */
static void add_top(token_columns *c, const tokenizer *t, uint32_t id, float logprob, size_t object) {
    strbuf name = {0}, key = {0};
    add_name(t, id, &name);
    out_text(&key, NULL, strbuf_text(&name), name.size);
    strbuf_add(&key, ":", 1);
    const char *before =
        memmem(c->top_logprobs.data + object, c->top_logprobs.size - object, key.data, key.size);
    /* Only as a whole key: after a brace or a comma. */
    if (!before || (before[-1] != '{' && before[-1] != ',')) {
        out_key(&c->top_logprobs, NULL);
        strbuf_add(&c->top_logprobs, key.data, key.size);
        out_float(&c->top_logprobs, NULL, logprob);
    }
    strbuf_close(&name);
    strbuf_close(&key);
}

static void add_tops(token_columns *c, const tokenizer *t, uint32_t id, const Gemmad__V1__TokenLogprob *l,
                     size_t top) {
    bool listed = false;
    out_object(&c->top_logprobs, NULL);
    size_t object = c->top_logprobs.size - 1;
    for (size_t i = 0; i < l->n_top && i < top; i++) {
        add_top(c, t, l->top[i]->token_id, l->top[i]->logprob, object);
        listed = listed || l->top[i]->token_id == id;
    }
    if (!listed) add_top(c, t, id, l->logprob, object);
    out_end_object(&c->top_logprobs);
}

void token_columns_add(token_columns *c, const tokenizer *t, uint32_t id, const Gemmad__V1__TokenLogprob *l,
                       size_t top, uint64_t offset) {
    strbuf name = {0};
    add_name(t, id, &name);
    out_text(&c->tokens, NULL, strbuf_text(&name), name.size);
    strbuf_close(&name);
    out_number(&c->text_offset, NULL, offset);
    c->want_top = top > 0;
    if (l) out_float(&c->token_logprobs, NULL, l->logprob);
    else out_null(&c->token_logprobs, NULL);
    if (l && top > 0) add_tops(c, t, id, l, top);
    else out_null(&c->top_logprobs, NULL);
}

static void write_column(strbuf *column, const char *key, strbuf *out) {
    out_array(out, key);
    strbuf_add(out, strbuf_text(column), column->size);
    out_end_array(out);
    strbuf_clear(column);
}

void token_columns_write(token_columns *c, const char *key, strbuf *out) {
    out_object(out, key);
    write_column(&c->tokens, "tokens", out);
    write_column(&c->token_logprobs, "token_logprobs", out);
    if (c->want_top) write_column(&c->top_logprobs, "top_logprobs", out);
    else out_null(out, "top_logprobs");
    write_column(&c->text_offset, "text_offset", out);
    out_end_object(out);
    strbuf_clear(&c->top_logprobs);
}

void token_columns_close(token_columns *c) {
    strbuf_close(&c->tokens);
    strbuf_close(&c->token_logprobs);
    strbuf_close(&c->top_logprobs);
    strbuf_close(&c->text_offset);
}

uint64_t token_characters(const char *bytes, size_t n) {
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((uint8_t)bytes[i] & 0xC0) != 0x80;
    return count;
}
