/* A second grammar.h, for tests of what builds grammars: it keeps the network as it is told and reads it naively, so that
 * nothing of the compiler is trusted. A test that includes this has these functions in place of the library's.
 *
 * A text is symbols: bytes, and SYMBOL_TOKEN + id for special tokens. */
#ifndef TESTS_GRAMMAR_NETWORK_H
#define TESTS_GRAMMAR_NETWORK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/grammar.h"

enum { SYMBOL_TOKEN = 256, NETWORK_COST_MAX = 1 << 28 };

typedef enum network_kind { NETWORK_EMPTY, NETWORK_SYMBOL, NETWORK_CALL, NETWORK_REPEAT } network_kind;

typedef struct network_edge {
    network_kind kind;
    uint32_t a, b, c, to, next; /* symbols a … b; callee a; unit a, b … c times. next: plus 1 */
} network_edge;

struct grammar {
    uint32_t *start, *end; /* [rules] */
    uint32_t *first;       /* [states] edge, plus 1 */
    network_edge *edge;
    uint32_t rules, states, edges, *cost, *rule_cost;
};

grammar *grammar_open(void) {
    grammar *g = memory_alloc(sizeof *g);
    grammar_add_rule(g);
    return g;
}

void grammar_close(grammar *g) {
    if (!g) return;
    free(g->start);
    free(g->end);
    free(g->first);
    free(g->edge);
    free(g->cost);
    free(g->rule_cost);
    free(g);
}

static void *network_room(void *array, uint32_t count, size_t size) {
    return (count & (count - 1)) == 0 ? memory_grow(array, (count ? 2 * (size_t)count : 1) * size) : array;
}

uint32_t grammar_add_state(grammar *g, uint32_t rule) {
    (void)rule;
    g->first = network_room(g->first, g->states, sizeof *g->first);
    g->first[g->states] = 0;
    return g->states++;
}

uint32_t grammar_add_rule(grammar *g) {
    g->start = network_room(g->start, g->rules, sizeof *g->start);
    g->end = network_room(g->end, g->rules, sizeof *g->end);
    g->start[g->rules] = grammar_add_state(g, g->rules);
    g->end[g->rules] = grammar_add_state(g, g->rules);
    return g->rules++;
}

uint32_t grammar_rule_start(const grammar *g, uint32_t rule) { return g->start[rule]; }
uint32_t grammar_rule_end(const grammar *g, uint32_t rule) { return g->end[rule]; }

static void network_add(grammar *g, uint32_t from, network_edge e) {
    g->edge = network_room(g->edge, g->edges, sizeof *g->edge);
    e.next = g->first[from];
    g->edge[g->edges++] = e;
    g->first[from] = g->edges;
}

void grammar_edge_empty(grammar *g, uint32_t from, uint32_t to) {
    network_add(g, from, (network_edge){.kind = NETWORK_EMPTY, .to = to});
}
void grammar_edge_bytes(grammar *g, uint32_t from, uint8_t low, uint8_t high, uint32_t to) {
    network_add(g, from, (network_edge){.kind = NETWORK_SYMBOL, .a = low, .b = high, .to = to});
}
void grammar_edge_token(grammar *g, uint32_t from, uint32_t special_id, uint32_t to) {
    uint32_t s = SYMBOL_TOKEN + special_id;
    network_add(g, from, (network_edge){.kind = NETWORK_SYMBOL, .a = s, .b = s, .to = to});
}
void grammar_edge_call(grammar *g, uint32_t from, uint32_t callee, uint32_t to) {
    network_add(g, from, (network_edge){.kind = NETWORK_CALL, .a = callee, .to = to});
}
void grammar_edge_repeat(grammar *g, uint32_t from, uint32_t unit, uint32_t least, uint32_t most,
                         uint32_t to) {
    network_add(g, from, (network_edge){.kind = NETWORK_REPEAT, .a = unit, .b = least, .c = most, .to = to});
}
void grammar_edge_text(grammar *g, uint32_t from, const char *text, size_t bytes, uint32_t to) {
    if (bytes == 0) grammar_edge_empty(g, from, to);
    for (size_t i = 0; i < bytes; i++) {
        uint32_t next = i + 1 == bytes ? to : grammar_add_state(g, 0);
        grammar_edge_bytes(g, from, (uint8_t)text[i], (uint8_t)text[i], next);
        from = next;
    }
}
void grammar_loop_any(grammar *g, uint32_t state) { grammar_edge_bytes(g, state, 0, 255, state); }

/* Byte by byte: values of the n bytes from `low` to `high`, where both have the same length. */
static void network_between(grammar *g, uint32_t from, const uint8_t *low, const uint8_t *high, unsigned n,
                            uint32_t to) {
    static const uint8_t least[3] = {0x80, 0x80, 0x80}, most[3] = {0xBF, 0xBF, 0xBF};
    if (n == 1) {
        grammar_edge_bytes(g, from, low[0], high[0], to);
        return;
    }
    for (uint32_t b = low[0]; b <= high[0]; b++) {
        uint32_t next = grammar_add_state(g, 0);
        grammar_edge_bytes(g, from, (uint8_t)b, (uint8_t)b, next);
        network_between(g, next, b == low[0] ? low + 1 : least, b == high[0] ? high + 1 : most, n - 1, to);
    }
}

void grammar_edge_code_points(grammar *g, uint32_t from, uint32_t low, uint32_t high, uint32_t to) {
    static const uint32_t part[][2] = {
        {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        uint32_t a = low > part[i][0] ? low : part[i][0], b = high < part[i][1] ? high : part[i][1];
        char first[4], last[4];
        if (a > b) continue;
        unsigned n = utf8_encode(a, first);
        utf8_encode(b, last);
        network_between(g, from, (const uint8_t *)first, (const uint8_t *)last, n, to);
    }
}

status grammar_compile(const grammar *g, const tokenizer *t, const uint32_t *ends, uint32_t end_count,
                       uint8_t **bytes, size_t *size) {
    (void)t, (void)ends, (void)end_count;
    *bytes = memory_alloc(1);
    *size = g->states;
    return ST_OK;
}

/* ---- Does it match? ---- */

typedef struct network_reader {
    const grammar *g;
    const uint32_t *text;
    uint32_t count;
    struct network_memo {
        uint64_t key;  /* rule and place, plus 1 */
        uint8_t *ends; /* [count + 1] whether the rule can end there; NULL while it is being read */
    } * memo;
    uint32_t memo_size, memo_used;
} network_reader;

static const uint8_t *network_ends(network_reader *r, uint32_t rule, uint32_t at);

static uint32_t network_memo_at(const network_reader *r, uint64_t key) {
    uint32_t i = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 40) & (r->memo_size - 1);
    while (r->memo[i].key && r->memo[i].key != key) i = (i + 1) & (r->memo_size - 1);
    return i;
}

static void network_memo_grow(network_reader *r) {
    struct network_memo *old = r->memo;
    uint32_t size = r->memo_size;
    r->memo_size = size ? 2 * size : 256;
    r->memo = memory_alloc_array(r->memo_size, sizeof *r->memo);
    for (uint32_t i = 0; i < size; i++)
        if (old[i].key) r->memo[network_memo_at(r, old[i].key)] = old[i];
    free(old);
}

typedef struct network_walk {
    uint64_t *todo, *seen;
    uint32_t count, capacity, seen_size, seen_used;
} network_walk;

static bool network_mark(network_walk *w, uint64_t key) {
    uint32_t i = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 40) & (w->seen_size - 1);
    while (w->seen[i] && w->seen[i] != key) i = (i + 1) & (w->seen_size - 1);
    if (w->seen[i]) return false;
    w->seen[i] = key;
    w->seen_used++;
    return true;
}

static void network_visit(network_walk *w, uint32_t state, uint32_t at) {
    uint64_t key = ((uint64_t)state << 32 | at) + 1;
    if (2 * (w->seen_used + 1) > w->seen_size) {
        network_walk more = {.seen_size = 2 * w->seen_size};
        more.seen = memory_alloc_array(more.seen_size, sizeof *more.seen);
        for (uint32_t i = 0; i < w->seen_size; i++)
            if (w->seen[i]) network_mark(&more, w->seen[i]);
        free(w->seen);
        w->seen = more.seen;
        w->seen_size = more.seen_size;
    }
    if (!network_mark(w, key)) return;
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 16;
        w->todo = memory_grow(w->todo, w->capacity * sizeof *w->todo);
    }
    w->todo[w->count++] = key - 1;
}

/* The unit's end behind `at`: at most one, since no string of it begins another. UINT32_MAX: none. */
static uint32_t network_unit_end(network_reader *r, uint32_t unit, uint32_t at) {
    const uint8_t *ends = network_ends(r, unit, at);
    for (uint32_t i = at + 1; ends && i <= r->count; i++)
        if (ends[i]) return i;
    return UINT32_MAX;
}

static void network_follow(network_reader *r, network_walk *w, const network_edge *e, uint32_t at) {
    if (e->kind == NETWORK_EMPTY) network_visit(w, e->to, at);
    if (e->kind == NETWORK_SYMBOL && at < r->count && r->text[at] >= e->a && r->text[at] <= e->b)
        network_visit(w, e->to, at + 1);
    if (e->kind == NETWORK_CALL) {
        const uint8_t *ends = network_ends(r, e->a, at);
        for (uint32_t i = at; ends && i <= r->count; i++)
            if (ends[i]) network_visit(w, e->to, i);
    }
    if (e->kind == NETWORK_REPEAT)
        for (uint32_t k = 0, place = at; place != UINT32_MAX && (k <= e->c || e->c == GRAMMAR_UNBOUNDED);
             k++) {
            if (k >= e->b) network_visit(w, e->to, place);
            place = network_unit_end(r, e->a, place);
        }
}

static const uint8_t *network_ends(network_reader *r, uint32_t rule, uint32_t at) {
    uint64_t key = ((uint64_t)rule << 32 | at) + 1;
    if (2 * (r->memo_used + 1) > r->memo_size) network_memo_grow(r);
    uint32_t slot = network_memo_at(r, key);
    if (r->memo[slot].key) return r->memo[slot].ends;
    r->memo[slot].key = key;
    r->memo_used++;
    network_walk w = {.seen_size = 64};
    w.seen = memory_alloc_array(w.seen_size, sizeof *w.seen);
    uint8_t *ends = memory_alloc(r->count + 1);
    network_visit(&w, r->g->start[rule], at);
    while (w.count > 0) {
        uint64_t place = w.todo[--w.count];
        uint32_t state = (uint32_t)(place >> 32), where = (uint32_t)place;
        if (state == r->g->end[rule]) ends[where] = 1;
        for (uint32_t e = r->g->first[state]; e > 0; e = r->g->edge[e - 1].next)
            network_follow(r, &w, &r->g->edge[e - 1], where);
    }
    free(w.todo);
    free(w.seen);
    r->memo[network_memo_at(r, key)].ends = ends;
    return ends;
}

/* Whether rule 0 matches the whole text. */
static bool network_matches(const grammar *g, const uint32_t *text, uint32_t count) {
    network_reader r = {.g = g, .text = text, .count = count};
    const uint8_t *ends = network_ends(&r, 0, 0);
    bool matches = ends && ends[count];
    for (uint32_t i = 0; i < r.memo_size; i++) free(r.memo[i].ends);
    free(r.memo);
    return matches;
}

static inline bool network_matches_bytes(const grammar *g, const char *text, size_t bytes) {
    uint32_t *symbols = memory_alloc_array(bytes + 1, sizeof *symbols);
    for (size_t i = 0; i < bytes; i++) symbols[i] = (uint8_t)text[i];
    bool matches = network_matches(g, symbols, (uint32_t)bytes);
    free(symbols);
    return matches;
}

/* ---- A random text ---- */

static uint32_t network_edge_cost(const grammar *g, const network_edge *e) {
    uint64_t own = 0;
    if (e->kind == NETWORK_SYMBOL) own = 1;
    if (e->kind == NETWORK_CALL) own = g->rule_cost[e->a];
    if (e->kind == NETWORK_REPEAT) own = (uint64_t)g->rule_cost[e->a] * e->b;
    own += g->cost[e->to];
    return own > NETWORK_COST_MAX ? NETWORK_COST_MAX : (uint32_t)own;
}

/* Symbols that each state needs at least to the end of its rule. */
static void network_measure(grammar *g) {
    if (g->cost) return;
    g->cost = memory_alloc_array(g->states, sizeof *g->cost);
    g->rule_cost = memory_alloc_array(g->rules, sizeof *g->rule_cost);
    for (uint32_t s = 0; s < g->states; s++) g->cost[s] = NETWORK_COST_MAX;
    for (uint32_t r = 0; r < g->rules; r++) g->cost[g->end[r]] = 0, g->rule_cost[r] = NETWORK_COST_MAX;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t s = g->states; s-- > 0;)
            for (uint32_t e = g->first[s]; e > 0; e = g->edge[e - 1].next) {
                uint32_t cost = network_edge_cost(g, &g->edge[e - 1]);
                if (cost < g->cost[s]) g->cost[s] = cost, more = true;
            }
        for (uint32_t r = 0; r < g->rules; r++) g->rule_cost[r] = g->cost[g->start[r]];
    }
}

typedef struct network_sample {
    uint64_t random;
    uint32_t *text, count, budget; /* beyond the budget the shortest way to the end is taken */
} network_sample;

static uint32_t network_random(network_sample *s, uint32_t n) {
    s->random ^= s->random << 13, s->random ^= s->random >> 7, s->random ^= s->random << 17;
    return (uint32_t)(s->random >> 20) % n;
}

/* An edge on a way that ends, at random; beyond the budget the cheapest. NULL: the rule ends here. */
static const network_edge *network_choose(const grammar *g, network_sample *s, uint32_t state, bool at_end) {
    const network_edge *best = NULL;
    uint32_t seen = at_end ? 1 : 0, least = at_end ? 0 : NETWORK_COST_MAX;
    for (uint32_t e = g->first[state]; e > 0; e = g->edge[e - 1].next) {
        const network_edge *edge = &g->edge[e - 1];
        uint32_t cost = network_edge_cost(g, edge);
        if (cost >= NETWORK_COST_MAX) continue;
        if (s->count >= s->budget ? cost < least : network_random(s, ++seen) == 0) best = edge;
        if (cost < least) least = cost;
    }
    return best;
}

static void network_produce(const grammar *g, network_sample *s, uint32_t rule) {
    uint32_t state = g->start[rule];
    for (;;) {
        const network_edge *e = network_choose(g, s, state, state == g->end[rule]);
        if (!e) return;
        if (e->kind == NETWORK_SYMBOL) {
            s->text = network_room(s->text, s->count, sizeof *s->text);
            s->text[s->count++] = e->a + network_random(s, e->b - e->a + 1);
        }
        if (e->kind == NETWORK_CALL) network_produce(g, s, e->a);
        if (e->kind == NETWORK_REPEAT) {
            uint32_t most = s->count >= s->budget ? e->b : e->c == GRAMMAR_UNBOUNDED ? e->b + 8 : e->c;
            for (uint32_t n = e->b + network_random(s, most - e->b + 1); n > 0; n--)
                network_produce(g, s, e->a);
        }
        state = e->to;
    }
}

/* A text of rule 0, free(); the grammar matches something. */
static inline uint32_t *network_random_text(grammar *g, uint64_t seed, uint32_t budget, uint32_t *count) {
    network_sample s = {.random = seed * 0x9E3779B97F4A7C15u + 1, .budget = budget};
    network_measure(g);
    for (uint32_t i = 0; i < 8; i++) network_random(&s, 2);
    network_produce(g, &s, 0);
    *count = s.count;
    return s.text;
}

#endif
