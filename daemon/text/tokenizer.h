/* Gemma's tokenizer from tokenizer.json or a GGUF file: byte-fallback BPE without pre-tokenisation (a whole piece between
 * special tokens is one word), added tokens, U+0020 ↔ U+2581.
 *
 * What is read of tokenizer.json: model, added_tokens, normalizer, pre_tokenizer, post_processor, decoder.
 * `truncation` and `padding` are not: they are leftovers of a training run, and every caller of the original
 * library resets them.
 *
 * Memory:  tokenizer_open allocates; tokenizer_close releases. Read-only after open. Gemma 4's 262,144 tokens
 *          take 25 MB, and the file's 32 MB while it is read. An encode takes up to 25 bytes for each byte of
 *          its longest word.
 * Threads: any number may encode and decode at once; a detokenizer belongs to one.
 * Cost:    O(n log n) on any input.
 * Errors:  ST_FORMAT naming what is wrong with the file, ST_UNSUPPORTED naming the field that asks for
 *          another kind of tokenizer; ST_INVALID for text that is not UTF-8 (byte offset named) and for ids
 *          that name no token. Unless ST_OK, outputs are NULL, zero, or as they were. */
#ifndef DAEMON_TEXT_TOKENIZER_H
#define DAEMON_TEXT_TOKENIZER_H

#include "base/gguf.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "base/vocabulary.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tokenizer tokenizer;

STATUS_CHECKED status tokenizer_open(tokenizer **out, const char *path);
/* From bytes: what the fuzz target calls. */
STATUS_CHECKED status tokenizer_parse(tokenizer **out, const char *json, size_t n);
/* From the metadata of a GGUF file, which may be closed afterwards; the same tokenizer as the tokenizer.json that the file
 * was made from gives. */
STATUS_CHECKED status tokenizer_read_gguf(tokenizer **out, const gguf *g);
void tokenizer_close(tokenizer *t);

uint32_t tokenizer_vocab_size(const tokenizer *t); /* highest id + 1 */
/* The id of a token by its exact text; false: there is none. */
bool tokenizer_find(const tokenizer *t, const char *text, uint32_t *id);
bool tokenizer_is_special(const tokenizer *t, uint32_t id);
/* The special token "<bos>", for raw completions: nothing is ever added by tokenizer_encode. false: there is
 * none. */
bool tokenizer_bos(const tokenizer *t, uint32_t *id);
/* The token's exact text in the file ("▁the", "<0x41>"), with its length; NULL: no token has this id. Not
 * NUL-terminated; good while the tokenizer is. */
const char *tokenizer_text(const tokenizer *t, uint32_t id, size_t *n);
/* The bytes that the token stands for in a decoded text (" the", "A"): what a grammar over tokens works on.
 * Byte tokens have one byte, which alone need not be UTF-8. As tokenizer_text otherwise. */
const char *tokenizer_bytes(const tokenizer *t, uint32_t id, size_t *n);

/* What the tokens that are not special stand for, for following grammars; made when first asked for (some 0.1 s), good while
 * the tokenizer is. Ids are those of the tokenizer: a model's vocabulary may be larger. Any thread. */
STATUS_CHECKED status tokenizer_vocabulary(const tokenizer *t, const vocabulary **out);

/* *ids (free()) holds the tokens of text[n]. parse_special: the text of special tokens becomes their ids. No
 * token is added in front. At most ids_max tokens, else ST_INVALID with both numbers. Added tokens that are
 * not special (Gemma has none) are always found. *ids is never NULL when ST_OK. */
STATUS_CHECKED status tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool parse_special,
                                       size_t ids_max, uint32_t **ids, size_t *count);
/* The same for a text whose plain[] ranges came from strangers: there the text of special tokens is text like
 * any other, elsewhere it becomes their ids. A range is no border otherwise: its first word goes on from the
 * text before it, as in the whole. Ranges are ascending and do not overlap. This is what chat prompts are
 * encoded with. */
typedef struct text_range {
    size_t begin, end; /* bytes begin … end - 1 */
} text_range;
STATUS_CHECKED status tokenizer_encode_marked(const tokenizer *t, const char *text, size_t n,
                                              const text_range *plain, size_t plain_count, size_t ids_max,
                                              uint32_t **ids, size_t *count);
/* Appends the text of ids; bytes that are not UTF-8 become U+FFFD, one a byte. */
STATUS_CHECKED status tokenizer_decode(const tokenizer *t, const uint32_t *ids, size_t count,
                                       bool skip_special, strbuf *out);

/* Streaming: never emits part of a character. */
typedef struct detokenizer {
    const tokenizer *tokenizer;
    bool skip_special;
    uint8_t pending[4]; /* bytes of an incomplete character */
    uint8_t pending_count;
} detokenizer;
void detokenizer_open(detokenizer *d, const tokenizer *t, bool skip_special);
/* Appends what may be sent after this token. */
STATUS_CHECKED status detokenizer_add(detokenizer *d, uint32_t id, strbuf *out);
/* Appends U+FFFD for each byte still waiting. */
void detokenizer_flush(detokenizer *d, strbuf *out);
/* Whether text of the last token is still waiting: its id is reported with the delta that carries its last
 * byte. */
static inline bool detokenizer_waits(const detokenizer *d) { return d->pending_count > 0; }

#endif
