/* What an automaton over characters is measured and written out with. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/char_nfa.h"

/* What JSON escapes by a letter; the other characters below U+0020 are \u00XX. */
static char short_escape(uint32_t c) {
    switch (c) {
    case '"': return '"';
    case '\\': return '\\';
    case '\b': return 'b';
    case '\f': return 'f';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    default: return 0;
    }
}

static void write_hex_digit(grammar *g, uint32_t from, uint32_t digit, uint32_t to) {
    uint8_t c = (uint8_t)(digit < 10 ? '0' + digit : 'a' + digit - 10);
    grammar_edge_bytes(g, from, c, c, to);
    if (digit >= 10) grammar_edge_bytes(g, from, (uint8_t)(c - 'a' + 'A'), (uint8_t)(c - 'a' + 'A'), to);
}

/* behind: the state behind a backslash, made for the first that needs it. */
static void write_escape(grammar *g, uint32_t rule, uint32_t from, uint32_t *behind, uint32_t c,
                         uint32_t to) {
    if (*behind == CHAR_NFA_NONE) {
        *behind = grammar_add_state(g, rule);
        grammar_edge_bytes(g, from, '\\', '\\', *behind);
    }
    char letter = short_escape(c);
    if (letter) {
        grammar_edge_bytes(g, *behind, (uint8_t)letter, (uint8_t)letter, to);
        return;
    }
    uint32_t high = grammar_add_state(g, rule), low = grammar_add_state(g, rule);
    grammar_edge_text(g, *behind, "u00", 3, high);
    write_hex_digit(g, high, c >> 4, low);
    write_hex_digit(g, low, c & 15, to);
}

void char_set_write(const char_set *s, grammar *g, uint32_t rule, uint32_t from, uint32_t to,
                    char_writing writing) {
    uint32_t behind = CHAR_NFA_NONE;
    for (uint32_t i = 0; i < s->count; i++) {
        uint32_t low = s->range[i].low, high = s->range[i].high;
        for (; writing == CHAR_WRITING_JSON && low <= high && low <= '\\'; low++) {
            if (low < 0x20 || low == '"' || low == '\\') {
                write_escape(g, rule, from, &behind, low, to);
                continue;
            }
            uint32_t end = low < '"' ? '"' - 1 : '\\' - 1;
            if (end > high) end = high;
            grammar_edge_bytes(g, from, (uint8_t)low, (uint8_t)end, to);
            low = end;
        }
        if (low <= high) grammar_edge_code_points(g, from, low, high, to);
    }
}

/* A large set that leads to a state is written once, whoever it comes from. */
typedef struct hub {
    uint32_t set, to, state;
} hub;

static uint32_t find_hub(hub **hubs, uint32_t *count, grammar *g, uint32_t rule, const char_nfa *a,
                         const char_edge *e, const uint32_t *place, char_writing writing,
                         uint32_t *first_of) {
    /* Hubs of one target form a list through their own places: targets have one or two sets. */
    for (uint32_t h = first_of[e->to]; h != CHAR_NFA_NONE; h = (*hubs)[h].to)
        if ((*hubs)[h].set == e->set) return (*hubs)[h].state;
    *hubs = memory_grow(*hubs, (*count + 1) * sizeof **hubs);
    uint32_t state = grammar_add_state(g, rule);
    (*hubs)[*count] = (hub){e->set, first_of[e->to], state};
    first_of[e->to] = (*count)++;
    char_set_write(&a->set[e->set], g, rule, state, place[e->to], writing);
    return state;
}

static bool is_small(const char_set *s) { return s->count <= 4 && s->range[s->count - 1].high < 0x80; }

void char_nfa_write(const char_nfa *a, grammar *g, uint32_t rule, uint32_t from, uint32_t to,
                    char_writing writing) {
    if (a->state_count == 0) return;
    uint32_t *place = memory_alloc_array(a->state_count, sizeof *place), hub_count = 0;
    uint32_t *first_of = memory_alloc_array(a->state_count, sizeof *first_of);
    hub *hubs = NULL;
    for (uint32_t s = 0; s < a->state_count; s++) {
        place[s] = grammar_add_state(g, rule);
        first_of[s] = CHAR_NFA_NONE;
        if (a->state[s].accepts) grammar_edge_empty(g, place[s], to);
    }
    grammar_edge_empty(g, from, place[0]);
    for (uint32_t s = 0; s < a->state_count; s++)
        for (uint32_t e = a->state[s].first_edge; e != CHAR_NFA_NONE; e = a->edge[e].next) {
            const char_edge *edge = &a->edge[e];
            if (is_small(&a->set[edge->set]))
                char_set_write(&a->set[edge->set], g, rule, place[s], place[edge->to], writing);
            else
                grammar_edge_empty(g, place[s],
                                   find_hub(&hubs, &hub_count, g, rule, a, edge, place, writing, first_of));
        }
    free(hubs);
    free(first_of);
    free(place);
}

/* Marks the states that an accepting one can be reached from; returns whether state 0 is among them. */
static bool mark_ending(const char_nfa *a, uint8_t *ends) {
    /* Edges backwards: by target, a list of sources. */
    uint32_t *first = memory_alloc_array(a->state_count, sizeof *first), depth = 0;
    uint32_t *next = memory_alloc_array(a->edge_count + 1, sizeof *next);
    uint32_t *source = memory_alloc_array(a->edge_count + 1, sizeof *source);
    uint32_t *stack = memory_alloc_array(a->state_count, sizeof *stack);
    for (uint32_t s = 0; s < a->state_count; s++) first[s] = CHAR_NFA_NONE;
    for (uint32_t s = 0; s < a->state_count; s++)
        for (uint32_t e = a->state[s].first_edge; e != CHAR_NFA_NONE; e = a->edge[e].next) {
            source[e] = s;
            next[e] = first[a->edge[e].to];
            first[a->edge[e].to] = e;
        }
    for (uint32_t s = 0; s < a->state_count; s++)
        if (a->state[s].accepts) ends[stack[depth++] = s] = 1;
    while (depth > 0)
        for (uint32_t e = first[stack[--depth]]; e != CHAR_NFA_NONE; e = next[e])
            if (!ends[source[e]]) {
                ends[source[e]] = 1;
                /* The one on top was read; its list goes on through e, so it may be overwritten. */
                stack[depth++] = source[e];
            }
    free(first);
    free(next);
    free(source);
    free(stack);
    return ends[0];
}

bool char_nfa_trim(char_nfa *a) {
    if (a->state_count == 0) return false;
    uint8_t *ends = memory_alloc(a->state_count);
    uint32_t *place = memory_alloc_array(a->state_count, sizeof *place);
    bool any = mark_ending(a, ends);
    char_nfa out = *a;
    out.state = NULL;
    out.edge = NULL;
    out.state_count = out.state_capacity = out.edge_count = out.edge_capacity = 0;
    for (uint32_t s = 0; any && s < a->state_count; s++)
        if (ends[s]) place[s] = char_nfa_add_state(&out, a->state[s].accepts);
    for (uint32_t s = 0; any && s < a->state_count; s++) {
        if (!ends[s]) continue;
        for (uint32_t e = a->state[s].first_edge; e != CHAR_NFA_NONE; e = a->edge[e].next)
            if (ends[a->edge[e].to]) char_nfa_add_edge(&out, place[s], a->edge[e].set, place[a->edge[e].to]);
    }
    free(place);
    free(ends);
    free(a->state);
    free(a->edge);
    *a = out;
    return any;
}

/* The states one character further; false: there is none. */
static bool step(const char_nfa *a, const uint8_t *now, uint8_t *next) {
    bool any = false;
    memset(next, 0, a->state_count);
    for (uint32_t s = 0; s < a->state_count; s++) {
        if (!now[s]) continue;
        for (uint32_t e = a->state[s].first_edge; e != CHAR_NFA_NONE; e = a->edge[e].next) {
            next[a->edge[e].to] = 1;
            any = true;
        }
    }
    return any;
}

/* Longest path by order of Kahn: a trimmed automaton with a circle has no longest string. Unreached states have been left
 * out by whoever made it, or only make the answer "no longest". */
static uint32_t longest_path(const char_nfa *a) {
    uint32_t *degree = memory_alloc_array(a->state_count, sizeof *degree), done = 0, count = 0, longest = 0;
    uint32_t *order = memory_alloc_array(a->state_count, sizeof *order);
    uint32_t *depth = memory_alloc_array(a->state_count, sizeof *depth);
    for (uint32_t e = 0; e < a->edge_count; e++) degree[a->edge[e].to]++;
    for (uint32_t s = 0; s < a->state_count; s++)
        if (degree[s] == 0) order[count++] = s;
    for (; done < count; done++) {
        uint32_t s = order[done];
        if (a->state[s].accepts && depth[s] > longest) longest = depth[s];
        for (uint32_t e = a->state[s].first_edge; e != CHAR_NFA_NONE; e = a->edge[e].next) {
            if (depth[a->edge[e].to] < depth[s] + 1) depth[a->edge[e].to] = depth[s] + 1;
            if (--degree[a->edge[e].to] == 0) order[count++] = a->edge[e].to;
        }
    }
    free(degree);
    free(order);
    free(depth);
    return done == a->state_count ? longest : CHAR_NFA_NONE;
}

void char_nfa_measure(const char_nfa *a, uint32_t *shortest, uint32_t *longest) {
    uint8_t *now = memory_alloc(a->state_count + 1), *next = memory_alloc(a->state_count + 1);
    *shortest = 0;
    now[0] = 1;
    for (bool found = a->state_count == 0;;) {
        for (uint32_t s = 0; s < a->state_count; s++) found |= now[s] && a->state[s].accepts;
        if (found || !step(a, now, next)) break;
        uint8_t *swap = now;
        now = next;
        next = swap;
        ++*shortest;
    }
    free(now);
    free(next);
    *longest = longest_path(a);
}
