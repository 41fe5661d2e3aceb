/* Byte pair encoding of one word of any length: merge the adjacent pair of lowest rank, leftmost first among
 * equals, until no pair is in the list.
 *
 * Two facts about the list make this fast, and both are exact for any list:
 * - Where no merge has x as the last symbol on its left and y as the first on its right, no token ever
 *   crosses the border of x and y: the text may be cut there, and what comes of the parts is what would have
 *   come of the whole. In Gemma's list no letter stands before a space, so that text in Latin letters falls
 *   into words.
 * - The pair of lowest rank comes from a tree of minima, 16 to a node: a merge changes three leaves and the
 *   few nodes above them, so that n symbols cost O(n log n) whatever they are.
 *
 * Memory:  a zeroed bpe is empty; bpe_close releases. A bpe_work belongs to one call, holds 12.3 bytes a
 *          symbol and grows by doubling.
 * Threads: a bpe is read-only after bpe_build.
 * Errors:  none after bpe_add: sizes are the caller's. */
#ifndef DAEMON_TEXT_BPE_H
#define DAEMON_TEXT_BPE_H

#include "base/status.h"
#include "daemon/text/vocab.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MERGES_MAX = 1 << 23,      /* a rank has 24 bits in a pair's slot */
    BPE_SYMBOLS_MAX = 1 << 30, /* positions have 32 bits, with room for the tree's padding */
};

typedef struct bpe_merge {
    uint32_t left, right, merged;
} bpe_merge;

typedef struct bpe {
    bpe_merge *merges; /* [count], by rank; NULL after bpe_build */
    size_t count, capacity;
    uint32_t *merged;     /* [count] what each merge makes */
    uint64_t *pairs;      /* open addressing: left << 44 | right << 24 | rank */
    unsigned pairs_shift; /* 64 - log2 of their number */
    uint64_t *borders;    /* bits: a hash of two symbols that a merge may join; false hits only cost time */
    unsigned borders_shift;
    uint32_t ascii[128]; /* symbol of a code point; NO_TOKEN: bytes */
    uint32_t **pages;    /* [PAGE_COUNT] of 256 code points, or NULL */
} bpe;

/* One more merge; its rank is how many came before. */
STATUS_CHECKED status bpe_add(bpe *b, bpe_merge merge);
/* After the last bpe_add. */
void bpe_build(bpe *b, const vocab *v);
void bpe_close(bpe *b);

/* The token of one code point, NO_TOKEN: it is written as byte tokens. U+0020 gives the token of U+2581. */
static inline uint32_t bpe_symbol(const bpe *b, uint32_t code_point) {
    if (code_point < 128) return b->ascii[code_point];
    const uint32_t *page = b->pages[code_point >> 8];
    return page ? page[code_point & 255] : NO_TOKEN;
}

static inline uint64_t bpe_hash(uint32_t left, uint32_t right) {
    return (((uint64_t)left << 20 | right) ^ (uint64_t)right << 42) * 0x9E3779B97F4A7C15u;
}

/* False: no merge ever crosses the border of these two start symbols. */
static inline bool bpe_may_join(const bpe *b, uint32_t left, uint32_t right) {
    uint64_t bit = bpe_hash(left, right) >> b->borders_shift;
    return b->borders[bit >> 6] >> (bit & 63) & 1;
}

typedef struct bpe_work {
    uint32_t *ids;   /* [capacity] symbols; a token stands at the first position of its symbols */
    uint32_t *spans; /* [capacity] at the first and last position of a token: its positions */
    int32_t *ranks;  /* the tree: rank of the pair that starts at a position, then minima */
    size_t capacity, ranks_capacity;
} bpe_work;

void bpe_work_reserve(bpe_work *w, size_t n);
void bpe_work_close(bpe_work *w);
/* Merges w->ids[0 … n); the tokens are then in w->ids[0 … result). */
size_t bpe_merge_word(const bpe *b, bpe_work *w, size_t n);

#endif
