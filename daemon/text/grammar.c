/* The builder: nothing is judged here but bounds. */
#include "daemon/text/grammar.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/grammar_internal.h"

grammar *grammar_open(void) {
    grammar *g = memory_alloc(sizeof *g);
    grammar_add_rule(g);
    return g;
}

void grammar_close(grammar *g) {
    if (!g) return;
    free(g->rule);
    free(g->rule_of);
    free(g->edge);
    free(g);
}

static void *grown(void *array, uint32_t need, uint32_t *cap, size_t size) {
    if (need <= *cap) return array;
    *cap = *cap ? *cap * 2 : 64;
    return memory_grow(array, *cap * size);
}

static uint32_t new_state(grammar *g, uint32_t rule) {
    g->rule_of = grown(g->rule_of, g->states + 1, &g->state_cap, sizeof *g->rule_of);
    g->rule_of[g->states] = rule;
    return g->states++;
}

uint32_t grammar_add_rule(grammar *g) {
    g->wanted_rules++;
    g->wanted_states += 2;
    if (g->rules == GRAMMAR_RULES_MAX || g->states + 2 > GRAMMAR_STATES_MAX) return 0;
    g->rule = grown(g->rule, g->rules + 1, &g->rule_cap, sizeof *g->rule);
    uint32_t rule = g->rules++;
    g->rule[rule].start = new_state(g, rule);
    g->rule[rule].end = new_state(g, rule);
    return rule;
}

uint32_t grammar_rule_start(const grammar *g, uint32_t rule) {
    INVARIANT(rule < g->rules);
    return g->rule[rule].start;
}

uint32_t grammar_rule_end(const grammar *g, uint32_t rule) {
    INVARIANT(rule < g->rules);
    return g->rule[rule].end;
}

uint32_t grammar_add_state(grammar *g, uint32_t rule) {
    INVARIANT(rule < g->rules);
    g->wanted_states++;
    if (g->states == GRAMMAR_STATES_MAX) return g->rule[rule].start;
    return new_state(g, rule);
}

static void add_edge(grammar *g, grammar_edge e) {
    INVARIANT(e.from < g->states && e.to < g->states);
    g->wanted_edges++;
    /* Once a bound was met ids stand for others: what is built from there on is never used. */
    if (g->wanted_rules > g->rules || g->wanted_states > g->states || g->edges == GRAMMAR_EDGES_MAX) return;
    INVARIANT(g->rule_of[e.from] == g->rule_of[e.to]);
    g->edge = grown(g->edge, g->edges + 1, &g->edge_cap, sizeof *g->edge);
    g->edge[g->edges++] = e;
}

void grammar_edge_empty(grammar *g, uint32_t from, uint32_t to) {
    add_edge(g, (grammar_edge){.kind = GRAMMAR_EMPTY, .from = from, .to = to});
}

void grammar_edge_bytes(grammar *g, uint32_t from, uint8_t low, uint8_t high, uint32_t to) {
    INVARIANT(low <= high);
    add_edge(g, (grammar_edge){.kind = GRAMMAR_BYTES, .from = from, .to = to, .a = low, .b = high});
}

void grammar_edge_token(grammar *g, uint32_t from, uint32_t special_id, uint32_t to) {
    add_edge(g, (grammar_edge){.kind = GRAMMAR_TOKEN, .from = from, .to = to, .a = special_id});
}

void grammar_edge_call(grammar *g, uint32_t from, uint32_t callee, uint32_t to) {
    INVARIANT(callee < g->rules);
    add_edge(g, (grammar_edge){.kind = GRAMMAR_CALL, .from = from, .to = to, .a = callee});
}

void grammar_edge_repeat(grammar *g, uint32_t from, uint32_t unit, uint32_t least, uint32_t most,
                         uint32_t to) {
    INVARIANT(unit < g->rules && least <= most && least < GRAMMAR_UNBOUNDED);
    grammar_edge e = {.kind = GRAMMAR_REPEAT, .from = from, .to = to, .a = unit, .b = least, .c = most};
    add_edge(g, e);
}

void grammar_edge_text(grammar *g, uint32_t from, const char *text, size_t bytes, uint32_t to) {
    INVARIANT(from < g->states);
    if (bytes == 0) grammar_edge_empty(g, from, to);
    for (size_t i = 0; i < bytes; i++) {
        uint32_t next = i + 1 == bytes ? to : grammar_add_state(g, g->rule_of[from]);
        grammar_edge_bytes(g, from, (uint8_t)text[i], (uint8_t)text[i], next);
        from = next;
    }
}

/* Bytes at … n-1 of characters between low and high, whose bytes before are the same. */
static void edge_between(grammar *g, uint32_t from, const uint8_t *low, const uint8_t *high, unsigned n,
                         uint32_t to) {
    static const uint8_t least[4] = {0x80, 0x80, 0x80, 0x80}, most[4] = {0xBF, 0xBF, 0xBF, 0xBF};
    if (n == 1) {
        grammar_edge_bytes(g, from, low[0], high[0], to);
        return;
    }
    uint32_t rule = g->rule_of[from];
    if (low[0] == high[0]) {
        uint32_t next = grammar_add_state(g, rule);
        grammar_edge_bytes(g, from, low[0], low[0], next);
        edge_between(g, next, low + 1, high + 1, n - 1, to);
        return;
    }
    bool low_whole = !memcmp(low + 1, least, n - 1), high_whole = !memcmp(high + 1, most, n - 1);
    unsigned first = low[0] + (low_whole ? 0u : 1u), last = high[0] - (high_whole ? 0u : 1u);
    if (!low_whole) {
        uint32_t next = grammar_add_state(g, rule);
        grammar_edge_bytes(g, from, low[0], low[0], next);
        edge_between(g, next, low + 1, most, n - 1, to);
    }
    if (first <= last) {
        uint32_t next = grammar_add_state(g, rule);
        grammar_edge_bytes(g, from, (uint8_t)first, (uint8_t)last, next);
        edge_between(g, next, least, most, n - 1, to);
    }
    if (!high_whole) {
        uint32_t next = grammar_add_state(g, rule);
        grammar_edge_bytes(g, from, high[0], high[0], next);
        edge_between(g, next, least, high + 1, n - 1, to);
    }
}

void grammar_edge_code_points(grammar *g, uint32_t from, uint32_t low, uint32_t high, uint32_t to) {
    /* Of one length each, without the surrogates. */
    static const uint32_t part[][2] = {
        {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}};
    INVARIANT(low <= high && high <= 0x10FFFF && from < g->states);
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        uint32_t a = low > part[i][0] ? low : part[i][0], b = high < part[i][1] ? high : part[i][1];
        if (a > b) continue;
        char first[4], last[4];
        unsigned n = utf8_encode(a, first);
        utf8_encode(b, last);
        edge_between(g, from, (const uint8_t *)first, (const uint8_t *)last, n, to);
    }
}

void grammar_loop_any(grammar *g, uint32_t state) { grammar_edge_bytes(g, state, 0, 255, state); }
