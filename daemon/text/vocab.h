/* The tokens of a vocabulary: text by id, id by text, and what each decodes to.
 *
 * Memory:  a zeroed vocab is empty; vocab_close releases. Texts share one block.
 * Threads: read-only after loading.
 * Errors:  ST_FORMAT naming the token; the vocab is then good for vocab_close only. */
#ifndef DAEMON_TEXT_VOCAB_H
#define DAEMON_TEXT_VOCAB_H

#include "base/status.h"
#include "base/strbuf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NO_TOKEN UINT32_MAX

/* How Gemma writes a space: U+2581. */
#define SPACE_MARK "\xE2\x96\x81"
enum { SPACE_MARK_CODE_POINT = 0x2581, SPACE_MARK_BYTES = 3 };

enum { TOKEN_EXISTS = 1, TOKEN_SPECIAL = 2, TOKEN_BYTE = 4 };

typedef struct token_entry {
    uint32_t text_at, text_size;   /* in vocab.texts: exactly as in the file */
    uint32_t shown_at, shown_size; /* in vocab.texts: what it decodes to; a byte token's single byte */
    uint8_t flags;
} token_entry;

typedef struct vocab {
    token_entry *tokens;     /* [size] */
    uint32_t size, capacity; /* highest id + 1 */
    uint32_t count;          /* tokens that exist */
    strbuf texts;
    uint64_t *slots; /* [slot_count], open addressing: hash << 32 | id + 1; 0: free */
    size_t slot_count;
    uint32_t byte_ids[256]; /* of <0xNN>, once vocab_finish has run */
} vocab;

/* The id and the text must both be new. */
STATUS_CHECKED status vocab_add(vocab *v, const char *text, size_t n, uint32_t id);
void vocab_mark_special(vocab *v, uint32_t id);
/* After the last vocab_add: decoded texts and byte tokens; all 256 of them must exist. */
STATUS_CHECKED status vocab_finish(vocab *v);
void vocab_close(vocab *v);

uint32_t vocab_find(const vocab *v, const char *text, size_t n); /* NO_TOKEN: none */
static inline const char *vocab_text(const vocab *v, uint32_t id, size_t *n) {
    *n = v->tokens[id].text_size;
    return v->texts.data + v->tokens[id].text_at;
}
/* Whether text is spelled "<0xNN"+">" (upper- or lower-case digits), and which byte it names. */
bool vocab_byte_of(const char *text, size_t n, uint8_t *byte);

#endif
