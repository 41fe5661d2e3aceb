/* Gemma's tokenizer from tokenizer.json: byte-fallback BPE without pre-tokenisation (a whole piece between special
 * tokens is one word), added tokens, U+0020 ↔ U+2581.
 *
 * Memory:  tokenizer_open allocates; tokenizer_close releases. Read-only after open.
 * Threads: any number may encode and decode at once; a detokenizer belongs to one.
 * Cost:    O(n log n) on any input.
 * Errors:  ST_FORMAT naming what is wrong with the file; ST_INVALID for text that is not UTF-8 (byte offset named) and
 *          for ids outside the vocabulary. */
#ifndef DAEMON_TEXT_TOKENIZER_H
#define DAEMON_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "base/strbuf.h"

typedef struct tokenizer tokenizer;

STATUS_CHECKED status tokenizer_open(tokenizer **out, const char *path);
/* From bytes: what the fuzz target calls. */
STATUS_CHECKED status tokenizer_parse(tokenizer **out, const char *json, size_t n);
void tokenizer_close(tokenizer *t);

uint32_t tokenizer_vocab_size(const tokenizer *t);  /* highest id + 1 */
/* The id of a token by its exact text; false: there is none. */
bool tokenizer_find(const tokenizer *t, const char *text, uint32_t *id);
bool tokenizer_is_special(const tokenizer *t, uint32_t id);

/* *ids (free()) holds the tokens of text[n]. parse_special: the text of special tokens becomes their ids. No token is
 * added in front. At most ids_max tokens, else ST_INVALID with both numbers. */
STATUS_CHECKED status tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool parse_special,
                                       size_t ids_max, uint32_t **ids, size_t *count);
/* Appends the text of ids; bytes that are not UTF-8 become U+FFFD, one a byte. */
STATUS_CHECKED status tokenizer_decode(const tokenizer *t, const uint32_t *ids, size_t count, bool skip_special,
                                       strbuf *out);

/* Streaming: never emits part of a character. */
typedef struct detokenizer {
    const tokenizer *tokenizer;
    bool skip_special;
    uint8_t pending[4];       /* bytes of an incomplete character */
    uint8_t pending_count;
} detokenizer;
void detokenizer_open(detokenizer *d, const tokenizer *t, bool skip_special);
/* Appends what may be sent after this token. */
STATUS_CHECKED status detokenizer_add(detokenizer *d, uint32_t id, strbuf *out);
/* Appends U+FFFD for each byte still waiting. */
void detokenizer_flush(detokenizer *d, strbuf *out);
/* Whether text of the last token is still waiting: its id is reported with the delta that carries its last byte. */
static inline bool detokenizer_waits(const detokenizer *d) { return d->pending_count > 0; }

#endif
