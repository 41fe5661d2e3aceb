#include "daemon/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/text/tokenizer_internal.h"

void tokenizer_close(tokenizer *t) {
    if (!t) return;
    vocab_close(&t->vocab);
    added_tokens_close(&t->added);
    bpe_close(&t->bpe);
    vocabulary_close(t->bytes);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

uint32_t tokenizer_vocab_size(const tokenizer *t) { return t->vocab.size; }

bool tokenizer_find(const tokenizer *t, const char *text, uint32_t *id) {
    uint32_t found = vocab_find(&t->vocab, text, strlen(text));
    if (found == NO_TOKEN) return false;
    *id = found;
    return true;
}

static const token_entry *entry_of(const tokenizer *t, uint32_t id) {
    if (id >= t->vocab.size || !(t->vocab.tokens[id].flags & TOKEN_EXISTS)) return NULL;
    return &t->vocab.tokens[id];
}

bool tokenizer_is_special(const tokenizer *t, uint32_t id) {
    const token_entry *e = entry_of(t, id);
    return e && e->flags & TOKEN_SPECIAL;
}

bool tokenizer_bos(const tokenizer *t, uint32_t *id) {
    uint32_t found;
    if (!tokenizer_find(t, "<bos>", &found) || !tokenizer_is_special(t, found)) return false;
    *id = found;
    return true;
}

const char *tokenizer_text(const tokenizer *t, uint32_t id, size_t *n) {
    const token_entry *e = entry_of(t, id);
    *n = e ? e->text_size : 0;
    return e ? t->vocab.texts.data + e->text_at : NULL;
}

const char *tokenizer_bytes(const tokenizer *t, uint32_t id, size_t *n) {
    const token_entry *e = entry_of(t, id);
    *n = e ? e->shown_size : 0;
    return e ? t->vocab.texts.data + e->shown_at : NULL;
}
