#include "daemon/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "proto/limits.h"

enum {
    FAN_OUT = 16,
    LEVELS_MAX = 9,
    NO_RANK = INT32_MAX,
    RANK_BITS = 24,
    ID_BITS = 20,
    PAGE_COUNT = 0x110000 >> 8
};
_Static_assert(LIMIT_VOCAB <= 1 << ID_BITS, "two ids and a rank share 64 bits");

#define FREE_PAIR UINT64_MAX

status bpe_add(bpe *b, bpe_merge merge) {
    if (b->count == MERGES_MAX) return fail(ST_FORMAT, "more than %d merges", MERGES_MAX);
    if (b->count == b->capacity) {
        b->capacity = b->capacity ? b->capacity * 2 : 1024;
        b->merges = memory_grow(b->merges, b->capacity * sizeof *b->merges);
    }
    b->merges[b->count++] = merge;
    return ST_OK;
}

static unsigned log2_above(size_t n, unsigned least) {
    unsigned bits = least;
    while ((size_t)1 << bits < n) bits++;
    return bits;
}

static size_t pair_slot(const bpe *b, uint32_t left, uint32_t right) {
    size_t mask = ((size_t)1 << (64 - b->pairs_shift)) - 1;
    uint64_t key = (uint64_t)left << ID_BITS | right;
    size_t i = (size_t)(bpe_hash(left, right) >> b->pairs_shift);
    while (b->pairs[i] >> RANK_BITS != key && b->pairs[i] != FREE_PAIR) i = (i + 1) & mask;
    return i;
}

static inline int32_t pair_rank(const bpe *b, uint32_t left, uint32_t right) {
    uint64_t pair = b->pairs[pair_slot(b, left, right)];
    return pair == FREE_PAIR ? NO_RANK : (int32_t)(pair & ((1u << RANK_BITS) - 1));
}

static void build_pairs(bpe *b) {
    unsigned bits = log2_above(b->count * 2, 6);
    b->pairs_shift = 64 - bits;
    b->pairs = memory_alloc_array((size_t)1 << bits, sizeof *b->pairs);
    memset(b->pairs, 0xFF, ((size_t)1 << bits) * sizeof *b->pairs);
    for (size_t rank = 0; rank < b->count; rank++) {
        const bpe_merge *m = &b->merges[rank];
        /* A pair that is listed twice has its last rank: so does the library that made the file. */
        b->pairs[pair_slot(b, m->left, m->right)] =
            (uint64_t)m->left << (ID_BITS + RANK_BITS) | (uint64_t)m->right << RANK_BITS | rank;
    }
}

static void set_symbol(bpe *b, uint32_t code_point, uint32_t id) {
    uint32_t **page = &b->pages[code_point >> 8];
    if (!*page) {
        *page = memory_alloc_array(256, sizeof **page);
        memset(*page, 0xFF, 256 * sizeof **page);
    }
    (*page)[code_point & 255] = id;
    if (code_point < 128) b->ascii[code_point] = id;
}

static void build_symbols(bpe *b, const vocab *v) {
    b->pages = memory_alloc_array(PAGE_COUNT, sizeof *b->pages);
    memset(b->ascii, 0xFF, sizeof b->ascii);
    for (uint32_t id = 0; id < v->size; id++) {
        if (!(v->tokens[id].flags & TOKEN_EXISTS)) continue;
        size_t n;
        const char *text = vocab_text(v, id, &n);
        uint32_t code_point;
        if (n > 0 && n <= 4 && utf8_length((uint8_t)text[0]) == n) {
            (void)utf8_decode(text, &code_point);
            set_symbol(b, code_point, id);
        }
    }
    /* The normaliser writes U+2581 for a space, so a token of U+0020 is out of any text's reach. */
    b->ascii[' '] = bpe_symbol(b, SPACE_MARK_CODE_POINT);
}

/* The start symbols that a token may begin (or end) with: its first (last) character, and a byte token if the
 * text reads like one there, since a merge may have made the token from it. */
static unsigned outer_symbols(const bpe *b, const vocab *v, uint32_t id, bool last, uint32_t out[2]) {
    size_t n;
    const char *text = vocab_text(v, id, &n);
    unsigned count = 0;
    uint32_t code_point;
    uint8_t byte;
    if (n == 0) return 0; /* no text makes it */
    size_t at = last ? n - 1 : 0;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80) at--;
    (void)utf8_decode(text + at, &code_point);
    uint32_t symbol = code_point == ' ' ? NO_TOKEN : bpe_symbol(b, code_point);
    if (symbol != NO_TOKEN) out[count++] = symbol;
    if (n >= 6 && vocab_byte_of(last ? text + n - 6 : text, 6, &byte)) out[count++] = v->byte_ids[byte];
    return count;
}

static void build_borders(bpe *b, const vocab *v) {
    /* Many merges share a border (Gemma: 515,000 have 34,000), so two bits a merge leave 97 % of them clear.
     */
    unsigned bits = log2_above(b->count * 2, 10);
    b->borders_shift = 64 - bits;
    b->borders = memory_alloc_array((size_t)1 << (bits - 6), sizeof *b->borders);
    for (size_t rank = 0; rank < b->count; rank++) {
        uint32_t left[2], right[2];
        unsigned lefts = outer_symbols(b, v, b->merges[rank].left, true, left);
        unsigned rights = outer_symbols(b, v, b->merges[rank].right, false, right);
        for (unsigned i = 0; i < lefts; i++)
            for (unsigned k = 0; k < rights; k++) {
                uint64_t bit = bpe_hash(left[i], right[k]) >> b->borders_shift;
                b->borders[bit >> 6] |= (uint64_t)1 << (bit & 63);
            }
    }
}

void bpe_build(bpe *b, const vocab *v) {
    build_pairs(b);
    build_symbols(b, v);
    build_borders(b, v);
    /* Encoding reads what a merge makes and nothing else of it: a third of the cache lines. */
    b->merged = memory_alloc_array(b->count, sizeof *b->merged);
    for (size_t rank = 0; rank < b->count; rank++) b->merged[rank] = b->merges[rank].merged;
    free(b->merges);
    b->merges = NULL;
}

void bpe_close(bpe *b) {
    for (size_t i = 0; b->pages && i < PAGE_COUNT; i++) free(b->pages[i]);
    free(b->pages);
    free(b->merges);
    free(b->merged);
    free(b->pairs);
    free(b->borders);
    *b = (bpe){0};
}

/* --- one word --- */

static size_t round_up(size_t n) { return (n + FAN_OUT - 1) / FAN_OUT * FAN_OUT; }

/* Where each level of the tree begins in ranks[]; returns how many there are. The last has one group. */
static unsigned tree_levels(size_t n, size_t begin[LEVELS_MAX], size_t *size) {
    unsigned levels = 0;
    size_t at = 0;
    for (;;) {
        INVARIANT(levels < LEVELS_MAX);
        begin[levels++] = at;
        at += round_up(n);
        if (n <= FAN_OUT) break;
        n = round_up(n) / FAN_OUT;
    }
    *size = at;
    return levels;
}

void bpe_work_reserve(bpe_work *w, size_t n) {
    if (n <= w->capacity) return;
    size_t capacity = w->capacity ? w->capacity * 2 : 256;
    if (capacity < n) capacity = n;
    size_t begin[LEVELS_MAX], size;
    (void)tree_levels(capacity, begin, &size);
    w->ids = memory_grow(w->ids, capacity * sizeof *w->ids);
    w->spans = memory_grow(w->spans, capacity * sizeof *w->spans);
    w->ranks = memory_grow(w->ranks, size * sizeof *w->ranks);
    w->capacity = capacity;
}

void bpe_work_close(bpe_work *w) {
    free(w->ids);
    free(w->spans);
    free(w->ranks);
    *w = (bpe_work){0};
}

static inline int32_t least_of_2(int32_t a, int32_t b) { return a < b ? a : b; }

/* Pairwise, so that a processor takes the minima side by side: a chain of 16 costs three times as long. */
static inline int32_t least_of(const int32_t *g) {
    int32_t m[4];
    for (int i = 0; i < 4; i++)
        m[i] = least_of_2(least_of_2(g[i], g[i + 4]), least_of_2(g[i + 8], g[i + 12]));
    return least_of_2(least_of_2(m[0], m[1]), least_of_2(m[2], m[3]));
}

typedef struct tree {
    int32_t *ranks;
    unsigned levels;
    size_t begin[LEVELS_MAX];
} tree;

static void tree_build(tree *t, const bpe *b, bpe_work *w, size_t n) {
    size_t size;
    t->ranks = w->ranks;
    t->levels = tree_levels(n, t->begin, &size);
    for (size_t i = 0; i + 1 < n; i++) t->ranks[i] = pair_rank(b, w->ids[i], w->ids[i + 1]);
    for (size_t i = n - 1; i < round_up(n); i++) t->ranks[i] = NO_RANK;
    for (unsigned level = 1; level < t->levels; level++) {
        size_t below = t->begin[level - 1], at = t->begin[level];
        size_t end = level + 1 < t->levels ? t->begin[level + 1] : size;
        for (size_t i = at; i < end; i++, below += FAN_OUT)
            t->ranks[i] = below < at ? least_of(t->ranks + below) : NO_RANK;
    }
}

/* The first position whose pair has the lowest rank; *rank NO_RANK: no pair is left. */
static size_t tree_first(const tree *t, int32_t *rank) {
    *rank = least_of(t->ranks + t->begin[t->levels - 1]);
    if (*rank == NO_RANK) return 0;
    size_t at = 0;
    for (unsigned level = t->levels; level-- > 0;) {
        const int32_t *group = t->ranks + t->begin[level] + at * FAN_OUT;
        size_t i = 0;
        while (group[i] != *rank) i++;
        at = at * FAN_OUT + i;
    }
    return at;
}

/* After leaves of the group of `position` changed. Stops where a minimum stays: nothing above it changes. */
static void tree_refresh(tree *t, size_t position) {
    for (unsigned level = 1; level < t->levels; level++) {
        position /= FAN_OUT;
        int32_t least = least_of(t->ranks + t->begin[level - 1] + position * FAN_OUT);
        int32_t *kept = &t->ranks[t->begin[level] + position];
        if (*kept == least) return;
        *kept = least;
    }
}

size_t bpe_merge_word(const bpe *b, bpe_work *w, size_t n) {
    INVARIANT(n <= w->capacity && n <= BPE_SYMBOLS_MAX);
    if (n < 2) return n;
    tree t;
    tree_build(&t, b, w, n);
    uint32_t *ids = w->ids, *spans = w->spans;
    for (size_t i = 0; i < n; i++) spans[i] = 1;
    for (;;) {
        int32_t rank;
        size_t p = tree_first(&t, &rank);
        if (rank == NO_RANK) break;
        size_t q = p + spans[p];
        size_t span = spans[p] + spans[q], next = p + span;
        ids[p] = b->merged[rank];
        spans[p] = spans[next - 1] = (uint32_t)span;
        t.ranks[q] = NO_RANK;
        t.ranks[p] = next < n ? pair_rank(b, ids[p], ids[next]) : NO_RANK;
        size_t before = p > 0 ? p - spans[p - 1] : p;
        if (before != p) t.ranks[before] = pair_rank(b, ids[before], ids[p]);
        tree_refresh(&t, p);
        if (q / FAN_OUT != p / FAN_OUT) tree_refresh(&t, q);
        if (before / FAN_OUT != p / FAN_OUT) tree_refresh(&t, before);
    }
    size_t count = 0;
    for (size_t i = 0; i < n; i += spans[i]) ids[count++] = ids[i];
    return count;
}
