/* What an engine was sent lately, as chains of page hashes: where a prompt's beginning may still be in a cache.
 * It knows prompts only; whether the engine has kept them is the engine's. Bounded, and old pages go first.
 *
 * Memory:  prefix_chain_make and prefix_index_open allocate, their close functions release.
 * Threads: one. */
#ifndef DAEMON_QUEUE_PREFIX_INDEX_H
#define DAEMON_QUEUE_PREFIX_INDEX_H

#include <stddef.h>
#include <stdint.h>

enum { PREFIX_PAGE_TOKENS = 64, PREFIX_INDEX_PAGES = 1 << 16 };

/* hash[i] stands for the first i + 1 pages of a prompt; what does not fill a page is left out. */
typedef struct prefix_chain {
    uint64_t *hash; /* [count] */
    uint32_t count;
} prefix_chain;

void prefix_chain_make(prefix_chain *out, const uint32_t *tokens, size_t n);
void prefix_chain_close(prefix_chain *c);

typedef struct prefix_index prefix_index;

prefix_index *prefix_index_open(void);
void prefix_index_close(prefix_index *x); /* NULL is fine */
void prefix_index_clear(prefix_index *x);
void prefix_index_add(prefix_index *x, const prefix_chain *c);
/* Pages of the chain, from the first on, that were added and not pushed out. */
uint32_t prefix_index_match(const prefix_index *x, const prefix_chain *c);

#endif
