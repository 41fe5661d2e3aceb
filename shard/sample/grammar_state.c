#include "shard/sample/grammar_state.h"

#include <stdlib.h>
#include <string.h>

#include "base/automaton.h"
#include "base/invariant.h"
#include "base/memory.h"

/* Automata without a request that are kept: the same schema tends to come again. */
enum { KEPT_IDLE = 8 };

typedef struct entry entry;
struct entry {
    entry *next; /* used longer ago */
    automaton *automaton;
    uint8_t *bytes;
    size_t size;
    uint32_t users;
};

struct grammar_book {
    uint32_t vocab;
    vocabulary *vocabulary;
    entry *latest;
    entry *taken; /* what states are opened with; NULL: none, or one that was refused. It counts as a user */
};

struct grammar_state {
    entry *of;
    automaton_cursor *cursor;
    uint32_t *allowed;
};

grammar_book *grammar_book_open(uint32_t vocab) {
    grammar_book *b = memory_alloc(sizeof *b);
    b->vocab = vocab;
    return b;
}

static void free_entry(entry *e) {
    automaton_drop(e->automaton);
    free(e->bytes);
    free(e);
}

static void let_go(grammar_book *b) {
    if (b->taken) b->taken->users--;
    b->taken = NULL;
}

void grammar_book_close(grammar_book *b) {
    if (!b) return;
    let_go(b);
    while (b->latest) {
        entry *e = b->latest;
        INVARIANT(e->users == 0);
        b->latest = e->next;
        free_entry(e);
    }
    vocabulary_close(b->vocabulary);
    free(b);
}

status grammar_book_take_vocabulary(grammar_book *b, const uint8_t *bytes, size_t n) {
    if (b->vocabulary) {
        size_t have;
        const uint8_t *known = vocabulary_bytes(b->vocabulary, &have);
        if (have == n && !memcmp(known, bytes, n)) return ST_OK;
        return fail(ST_MISMATCH, "vocabulary: %zu bytes, unlike the %zu that came before", n, have);
    }
    vocabulary *v;
    TRY(vocabulary_read(&v, bytes, n));
    if (vocabulary_count(v) > b->vocab) {
        uint32_t count = vocabulary_count(v);
        vocabulary_close(v);
        return fail(ST_MISMATCH, "vocabulary: %u tokens, the model has %u", count, b->vocab);
    }
    b->vocabulary = v;
    return ST_OK;
}

static void forget_idle(grammar_book *b) {
    uint32_t idle = 0;
    for (entry **at = &b->latest; *at;) {
        entry *e = *at;
        if (e->users > 0 || idle++ < KEPT_IDLE) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        free_entry(e);
    }
}

/* The entry with these bytes, which becomes the latest. */
static status find_entry(grammar_book *b, const uint8_t *bytes, size_t n, entry **out) {
    entry **at = &b->latest, *e;
    while (*at && ((*at)->size != n || memcmp((*at)->bytes, bytes, n) != 0)) at = &(*at)->next;
    if (*at) {
        e = *at;
        *at = e->next;
    } else {
        automaton *a;
        TRY(automaton_read(&a, bytes, n, b->vocabulary));
        e = memory_alloc(sizeof *e);
        e->automaton = a;
        e->size = n;
        e->bytes = memory_alloc(n);
        memcpy(e->bytes, bytes, n);
    }
    e->next = b->latest;
    b->latest = *out = e;
    forget_idle(b);
    return ST_OK;
}

status grammar_book_take_grammar(grammar_book *b, const uint8_t *bytes, size_t n) {
    entry *e;
    let_go(b);
    if (!b->vocabulary) return fail(ST_INVALID, "a grammar came before the vocabulary it is about");
    TRY(find_entry(b, bytes, n, &e));
    e->users++;
    b->taken = e;
    return ST_OK;
}

static status look_ahead(grammar_state *g) {
    return automaton_ended(g->cursor) ? ST_OK : automaton_mask(g->cursor, g->allowed);
}

static status replay(grammar_state *g, const uint32_t *emitted, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        status st = automaton_take_token(g->cursor, emitted[i]);
        if (st != ST_OK) return fail_within(st, "token %u of the answer so far", i);
    }
    if (automaton_ended(g->cursor))
        return fail(ST_INVALID, "the answer so far is complete and has its end token");
    return look_ahead(g);
}

status grammar_state_open(grammar_state **out, grammar_book *b, const uint32_t *emitted, uint32_t count) {
    entry *e = b->taken;
    if (!e) return fail(ST_INVALID, "the one of the request before was refused, or there was none");
    grammar_state *g = memory_alloc(sizeof *g);
    g->of = e;
    e->users++;
    g->cursor = automaton_cursor_open(e->automaton);
    g->allowed = memory_alloc_array((size_t)(b->vocab + 31) / 32, sizeof *g->allowed);
    status st = replay(g, emitted, count);
    if (st != ST_OK) {
        grammar_state_close(g);
        return st;
    }
    *out = g;
    return ST_OK;
}

void grammar_state_close(grammar_state *g) {
    if (!g) return;
    automaton_cursor_close(g->cursor);
    g->of->users--; /* a book without room for it forgets it when the next one comes */
    free(g->allowed);
    free(g);
}

status grammar_state_take(grammar_state *g, uint32_t token) {
    TRY(automaton_take_token(g->cursor, token));
    return look_ahead(g);
}

bool grammar_state_ended(const grammar_state *g) { return automaton_ended(g->cursor); }
const uint32_t *grammar_state_allowed(const grammar_state *g) { return g->allowed; }
