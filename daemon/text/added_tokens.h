/* The tokens that are cut out of a text before anything else: leftmost first, longest among those that start
 * there.
 *
 * Memory:  a zeroed list is empty; added_tokens_close releases. Texts are copied.
 * Threads: read-only after added_tokens_build.
 * Cost:    a search is O(bytes of text · bytes of the longest added token · log of their number). */
#ifndef DAEMON_TEXT_ADDED_TOKENS_H
#define DAEMON_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct added_token {
    char *text;
    size_t size; /* at least 1 */
    uint32_t id;
    bool special;
} added_token;

typedef struct added_tokens {
    added_token *list; /* sorted by bytes after added_tokens_build */
    size_t count, capacity;
    uint32_t first[257]; /* list[first[b] … first[b + 1]) start with byte b */
} added_tokens;

void added_tokens_add(added_tokens *a, const char *text, size_t n, uint32_t id, bool special);
void added_tokens_build(added_tokens *a);
void added_tokens_close(added_tokens *a);

/* The longest that text[n] starts with and that is allowed: a special one within its first special_bytes
 * only. NULL: none. */
const added_token *added_tokens_match(const added_tokens *a, const char *text, size_t n,
                                      size_t special_bytes);
static inline bool added_tokens_may_start(const added_tokens *a, char byte) {
    return a->first[(uint8_t)byte] != a->first[(uint8_t)byte + 1];
}

#endif
