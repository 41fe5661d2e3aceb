/* The tokenizer of a GGUF file. Its scores mean nothing; what tokenizer.json says besides tokens, merges and added
 * tokens is fixed for the one kind of tokenizer that is read here, whose name is checked. */
#include <stdlib.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/tokenizer_internal.h"
#include "proto/limits.h"

/* The format's numbers of token types. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

static const char tokens_key[] = "tokenizer.ggml.tokens", types_key[] = "tokenizer.ggml.token_type",
                  merges_key[] = "tokenizer.ggml.merges";

static status check_kind(const gguf *g) {
    gguf_text model = {0};
    bool prefix = false;
    TRY(gguf_read_text_optional(g, "tokenizer.ggml.model", &model));
    if (!model.at) return fail(ST_FORMAT, "%s: tokenizer.ggml.model is missing", g->name);
    if (!gguf_text_is(model, "gemma4"))
        return fail(ST_UNSUPPORTED, "%s: tokenizer.ggml.model is %.*s; only gemma4 is implemented", g->name,
                    model.size > 64 ? 64 : (int)model.size, model.at);
    TRY(gguf_read_bool_optional(g, "tokenizer.ggml.add_space_prefix", &prefix));
    if (prefix)
        return fail(ST_UNSUPPORTED, "%s: tokenizer.ggml.add_space_prefix is true, only false is implemented",
                    g->name);
    return ST_OK;
}

static status add_token(tokenizer *t, const gguf *g, uint32_t id, gguf_text text, int64_t type) {
    if (utf8_check(text.at, text.size) != text.size)
        return fail(ST_FORMAT, "%s: %s[%u] is not UTF-8", g->name, tokens_key, id);
    uint8_t byte;
    if (type < TYPE_NORMAL || type > TYPE_BYTE)
        return fail(ST_FORMAT, "%s: %s[%u] is %lld, allowed are %d to %d", g->name, types_key, id,
                    (long long)type, TYPE_NORMAL, TYPE_BYTE);
    if (type == TYPE_BYTE && !vocab_byte_of(text.at, text.size, &byte))
        return fail(ST_FORMAT, "%s: %s[%u] is a byte token and not spelled as one", g->name, tokens_key, id);
    status st = vocab_add(&t->vocab, text.at, text.size, id);
    if (st != ST_OK) return fail_within(st, "%s: %s", g->name, tokens_key);
    /* Those that tokenizer.json lists as added; published ones are all special, whatever their type is called here. */
    if ((type == TYPE_UNKNOWN || type == TYPE_CONTROL || type == TYPE_USER) && text.size > 0)
        tokenizer_add_added(t, text.at, text.size, id, true);
    return ST_OK;
}

static status read_tokens(tokenizer *t, const gguf *g) {
    const gguf_value *tokens, *types;
    TRY(gguf_read_array(g, tokens_key, GGUF_TEXT, &tokens));
    TRY(gguf_read_array(g, types_key, GGUF_I32, &types));
    if (tokens->count == 0 || tokens->count > LIMIT_VOCAB || types->count != tokens->count)
        return fail(ST_FORMAT, "%s: %s has %llu entries and %s %llu, allowed are as many in both, 1 to %d",
                    g->name, tokens_key, (unsigned long long)tokens->count, types_key,
                    (unsigned long long)types->count, LIMIT_VOCAB);
    const uint8_t *at = tokens->at;
    for (uint32_t id = 0; id < tokens->count; id++) {
        int64_t type = 0;
        (void)gguf_integer(types, id, &type);
        TRY(add_token(t, g, id, gguf_next_text(&at), type));
    }
    return ST_OK;
}

static status read_merges(tokenizer *t, const gguf *g) {
    const gguf_value *merges;
    strbuf pair = {0};
    status st = gguf_read_array(g, merges_key, GGUF_TEXT, &merges);
    if (st != ST_OK) return st;
    const uint8_t *at = merges->at;
    for (uint64_t i = 0; st == ST_OK && i < merges->count; i++) {
        gguf_text text = gguf_next_text(&at);
        st = tokenizer_merge_text(t, merges_key, text.at, text.size, &pair);
        if (st != ST_OK) st = fail_within(st, "%s", g->name);
    }
    strbuf_close(&pair);
    return st;
}

status tokenizer_read_gguf(tokenizer **out, const gguf *g) {
    *out = NULL;
    status st = ST_OK;
    tokenizer *t = tokenizer_new();
    TRY_OR_FAIL(check_kind(g));
    TRY_OR_FAIL(read_tokens(t, g));
    TRY_OR_FAIL(read_merges(t, g));
    st = tokenizer_finish(t);
    if (st != ST_OK) st = fail_within(st, "%s", g->name);
    if (st == ST_OK) *out = t;
fail:
    if (st != ST_OK) tokenizer_close(t);
    return st;
}
