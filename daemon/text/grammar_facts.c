/* From which states the end of their rule can be reached, and whether with nothing, with something, or both. Backwards from
 * the ends, until nothing changes. */
#include <stdlib.h>

#include "base/memory.h"
#include "daemon/text/grammar_facts.h"

typedef struct search {
    const grammar *g;
    uint8_t *can;
    uint32_t *into, *into_first;   /* edges by the state they lead to */
    uint32_t *users, *users_first; /* edges by the rule they call or repeat */
    uint32_t *queue;
    bool *queued;
    uint32_t count;
} search;

static bool uses_rule(const grammar_edge *e) { return e->kind == GRAMMAR_CALL || e->kind == GRAMMAR_REPEAT; }

static uint8_t rule_can(const search *s, uint32_t rule) { return s->can[s->g->rule[rule].start]; }

/* What the edge adds to what its origin can. */
static uint8_t edge_can(const search *s, const grammar_edge *e) {
    uint8_t to = s->can[e->to], unit = uses_rule(e) ? rule_can(s, e->a) : 0;
    if (to == 0) return 0;
    switch (e->kind) {
    case GRAMMAR_EMPTY: return to;
    case GRAMMAR_BYTES:
    case GRAMMAR_TOKEN: return CAN_WITH_SOMETHING;
    case GRAMMAR_CALL: return (unit & CAN_WITH_NOTHING ? to : 0) | (unit & CAN_WITH_SOMETHING);
    default:
        return (e->b == 0 || unit & CAN_WITH_NOTHING ? to : 0) | (e->c > 0 ? unit & CAN_WITH_SOMETHING : 0);
    }
}

static void push(search *s, uint32_t state) {
    if (s->queued[state]) return;
    s->queued[state] = true;
    s->queue[s->count++] = state;
}

static void look(search *s, uint32_t edge) {
    const grammar_edge *e = &s->g->edge[edge];
    uint8_t more = edge_can(s, e);
    if ((s->can[e->from] | more) == s->can[e->from]) return;
    s->can[e->from] |= more;
    push(s, e->from);
}

/* Edge numbers sorted by a key: first[k] … first[k + 1] - 1 of list have key k. */
static void sort_edges(const grammar *g, uint32_t keys, bool by_rule, uint32_t **list, uint32_t **first) {
    uint32_t *at = memory_alloc_array((size_t)keys + 3, sizeof *at);
    *list = memory_alloc_array((size_t)g->edges + 1, sizeof **list);
    for (uint32_t i = 0; i < g->edges; i++)
        if (!by_rule || uses_rule(&g->edge[i])) at[(by_rule ? g->edge[i].a : g->edge[i].to) + 2]++;
    for (uint32_t i = 2; i < keys + 2; i++) at[i] += at[i - 1];
    for (uint32_t i = 0; i < g->edges; i++)
        if (!by_rule || uses_rule(&g->edge[i]))
            (*list)[at[(by_rule ? g->edge[i].a : g->edge[i].to) + 1]++] = i;
    *first = at;
}

uint8_t *grammar_find_facts(const grammar *g) {
    search s = {.g = g};
    s.can = memory_alloc((size_t)g->states + 1);
    s.queued = memory_alloc_array(g->states + 1, sizeof *s.queued);
    s.queue = memory_alloc_array((size_t)g->states + 1, sizeof *s.queue);
    sort_edges(g, g->states, false, &s.into, &s.into_first);
    sort_edges(g, g->rules, true, &s.users, &s.users_first);
    for (uint32_t i = 0; i < g->rules; i++) {
        s.can[g->rule[i].end] = CAN_WITH_NOTHING;
        push(&s, g->rule[i].end);
    }
    while (s.count > 0) {
        uint32_t state = s.queue[--s.count], rule = g->rule_of[state];
        s.queued[state] = false;
        for (uint32_t i = s.into_first[state]; i < s.into_first[state + 1]; i++) look(&s, s.into[i]);
        if (state != g->rule[rule].start) continue;
        for (uint32_t i = s.users_first[rule]; i < s.users_first[rule + 1]; i++) look(&s, s.users[i]);
    }
    free(s.into);
    free(s.into_first);
    free(s.users);
    free(s.users_first);
    free(s.queue);
    free(s.queued);
    return s.can;
}

bool grammar_edge_lives(const grammar *g, const uint8_t *can, const grammar_edge *e) {
    if (!can[e->to]) return false;
    if (!uses_rule(e)) return true;
    return can[g->rule[e->a].start] & CAN_WITH_SOMETHING && (e->kind == GRAMMAR_CALL || e->c > 0);
}

bool grammar_edge_is_empty(const grammar *g, const uint8_t *can, const grammar_edge *e) {
    if (!can[e->to]) return false;
    if (e->kind == GRAMMAR_EMPTY || (e->kind == GRAMMAR_REPEAT && e->b == 0)) return true;
    return e->kind == GRAMMAR_CALL && can[g->rule[e->a].start] & CAN_WITH_NOTHING;
}
