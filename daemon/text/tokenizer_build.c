/* What every file's reader makes a tokenizer with, once the tokens are in the vocabulary. */
#include <string.h>

#include "base/memory.h"
#include "daemon/text/tokenizer_internal.h"

tokenizer *tokenizer_new(void) {
    tokenizer *t = memory_alloc(sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    return t;
}

static int shown(size_t n) { return n > 64 ? 64 : (int)n; }

status tokenizer_merge_half(const tokenizer *t, const char *where, const char *text, size_t n, strbuf *pair,
                            uint32_t *id) {
    *id = vocab_find(&t->vocab, text, n);
    if (*id == NO_TOKEN)
        return fail(ST_FORMAT, "%s[%zu]: \"%.*s\" is not in the vocabulary", where, t->bpe.count, shown(n),
                    text);
    strbuf_add(pair, text, n);
    return ST_OK;
}

status tokenizer_merge_end(tokenizer *t, const char *where, const strbuf *pair, bpe_merge merge) {
    merge.merged = vocab_find(&t->vocab, strbuf_text(pair), pair->size);
    if (merge.merged == NO_TOKEN)
        return fail(ST_FORMAT, "%s[%zu] makes \"%.*s\", which is not in the vocabulary", where, t->bpe.count,
                    shown(pair->size), strbuf_text(pair));
    return bpe_add(&t->bpe, merge);
}

status tokenizer_merge_text(tokenizer *t, const char *where, const char *text, size_t n, strbuf *pair) {
    bpe_merge merge = {0};
    const char *space = memchr(text, ' ', n);
    if (!space || memchr(space + 1, ' ', (size_t)(text + n - space - 1)))
        return fail(ST_FORMAT, "%s[%zu]: \"%.*s\" is not two tokens with one space between", where,
                    t->bpe.count, shown(n), text);
    strbuf_clear(pair);
    TRY(tokenizer_merge_half(t, where, text, (size_t)(space - text), pair, &merge.left));
    TRY(tokenizer_merge_half(t, where, space + 1, (size_t)(text + n - space - 1), pair, &merge.right));
    return tokenizer_merge_end(t, where, pair, merge);
}

void tokenizer_add_added(tokenizer *t, const char *text, size_t n, uint32_t id, bool special) {
    if (special) vocab_mark_special(&t->vocab, id);
    added_tokens_add(&t->added, text, n, id, special);
}

status tokenizer_finish(tokenizer *t) {
    added_tokens_build(&t->added);
    TRY(vocab_finish(&t->vocab));
    bpe_build(&t->bpe, &t->vocab);
    return ST_OK;
}
