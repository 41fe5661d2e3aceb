/* What the tokens of a model stand for, as bytes: all that following a grammar needs to know of a tokenizer. The coordinator
 * makes it of the tokenizer, the leader reads it from the engine link.
 *
 * A token without bytes (a special one, or an id nobody uses) is never allowed for its text. The same holds for tokens of
 * more than TOKEN_BYTES_MAX bytes: what they stand for can be written with others.
 *
 * Memory:  vocabulary_close releases; about 10 MB for 262,144 tokens.
 * Threads: read-only once open.
 * Errors:  vocabulary_read: ST_FORMAT naming the entry. */
#ifndef BASE_VOCABULARY_H
#define BASE_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/token_trie.h"

typedef struct vocabulary vocabulary;

typedef struct vocabulary_token {
    const uint8_t *bytes; /* [size] */
    uint32_t size;        /* 0: none */
} vocabulary_token;

/* tokens[count] by id; copied. ST_FORMAT: more than LIMIT_VOCAB, or LIMIT_VOCABULARY_BYTES. */
STATUS_CHECKED status vocabulary_make(vocabulary **out, const vocabulary_token *tokens, uint32_t count);
/* From what vocabulary_bytes gave on the other side. */
STATUS_CHECKED status vocabulary_read(vocabulary **out, const uint8_t *bytes, size_t n);
void vocabulary_close(vocabulary *v); /* NULL is fine */

uint32_t vocabulary_count(const vocabulary *v); /* highest id + 1 */
vocabulary_token vocabulary_token_of(const vocabulary *v, uint32_t id);
const token_trie *vocabulary_trie(const vocabulary *v);
/* As it travels; the vocabulary's. */
const uint8_t *vocabulary_bytes(const vocabulary *v, size_t *n);
/* Of those bytes, SHA-256: whether two sides mean the same. */
const uint8_t *vocabulary_hash(const vocabulary *v); /* [32] */

#endif
