/* Texts of tokens as a trie in depth-first order: one walk with a machine that steps over bytes says which tokens it takes,
 * and what it refuses is left out with all that begins alike.
 *
 * Memory:  token_trie_close releases.
 * Threads: read-only once built. */
#ifndef BASE_TOKEN_TRIE_H
#define BASE_TOKEN_TRIE_H

#include <stddef.h>
#include <stdint.h>

enum { TOKEN_BYTES_MAX = 255 };

typedef struct token_trie {
    uint32_t nodes, entries;
    uint8_t *byte;   /* [nodes] */
    uint8_t *depth;  /* [nodes]: bytes from the root, 1 … */
    uint32_t *end;   /* [nodes]: the first node behind those that begin with this one */
    uint32_t *first; /* [nodes + 1]: entry[first[i] … first[i + 1] - 1] have exactly the bytes of node i */
    uint32_t *token; /* [entries] */
    uint32_t *units; /* [entries], or NULL: all 0; see automaton_table */
    uint32_t node_cap, entry_cap;
} token_trie;

/* Adds an entry behind the last one. shared: how many bytes it begins with like that; rest: those that follow. Rising order
 * of bytes is the caller's to keep. */
void token_trie_add(token_trie *t, uint32_t shared, const uint8_t *rest, uint32_t rest_size, uint32_t token,
                    uint32_t units);
/* After the last token_trie_add. */
void token_trie_finish(token_trie *t);
void token_trie_close(token_trie *t);

#endif
