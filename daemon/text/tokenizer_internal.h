/* What the files of the tokenizer share. Read-only once its reader has returned, but for what is guarded
 * by its lock. */
#ifndef DAEMON_TEXT_TOKENIZER_INTERNAL_H
#define DAEMON_TEXT_TOKENIZER_INTERNAL_H

#include <pthread.h>

#include "daemon/text/added_tokens.h"
#include "daemon/text/bpe.h"
#include "daemon/text/tokenizer.h"
#include "daemon/text/vocab.h"

struct tokenizer {
    vocab vocab;
    added_tokens added;
    bpe bpe;
    pthread_mutex_t lock;
    vocabulary *bytes; /* guarded by lock; NULL until first asked for */
};

/* An empty one, for tokenizer_close. */
tokenizer *tokenizer_new(void);

/* Between the readers (tokenizer_json.c, tokenizer_gguf.c) and tokenizer_build.c. `where` is what messages call the list
 * of merges, pair a buffer for the text that a merge makes. All tokens are in the vocabulary before the first merge. */

/* The next half of a merge: its id, and its text behind what is in pair. */
STATUS_CHECKED status tokenizer_merge_half(const tokenizer *t, const char *where, const char *text, size_t n,
                                           strbuf *pair, uint32_t *id);
/* After both halves; merge.merged is found here. */
STATUS_CHECKED status tokenizer_merge_end(tokenizer *t, const char *where, const strbuf *pair,
                                          bpe_merge merge);
/* A whole merge written as "left right". */
STATUS_CHECKED status tokenizer_merge_text(tokenizer *t, const char *where, const char *text, size_t n,
                                           strbuf *pair);
/* A token of the vocabulary that is cut out of texts; n is at least 1. */
void tokenizer_add_added(tokenizer *t, const char *text, size_t n, uint32_t id, bool special);
/* After the last token and merge. */
STATUS_CHECKED status tokenizer_finish(tokenizer *t);

#endif
