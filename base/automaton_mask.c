/* Which tokens may come next. */
#include <string.h>

#include "base/automaton_parts.h"
#include "proto/limits.h"

static void allow(uint32_t *words, uint32_t id) { words[id / 32] |= 1u << id % 32; }

/* Allows the tokens of a trie that can be followed from the last level, whose units lie between least and most. */
static void walk(automaton_cursor *c, const token_trie *t, uint32_t least, uint32_t most, uint32_t *words) {
    uint32_t base = c->levels;
    for (uint32_t i = 0; i < t->nodes && !c->over;) {
        automaton_pop_to(c, base + t->depth[i] - 1);
        if (!automaton_push(c, t->byte[i])) {
            i = t->end[i];
            continue;
        }
        for (uint32_t k = t->first[i]; k < t->first[i + 1]; k++)
            if (t->units[k] >= least && t->units[k] <= most) allow(words, t->token[k]);
        i++;
    }
    automaton_pop_to(c, base);
}

static void apply_table(automaton_cursor *c, automaton_place at, uint32_t *words) {
    const automaton_parts *p = &c->a->p;
    const automaton_table *t = &p->table[p->state[at.state].table];
    const automaton_symbol *symbol = &p->symbol[c->frame[at.frame].symbol];
    uint32_t least = 0, most = UINT32_MAX, fits = 0;
    if (symbol->counted) {
        least = symbol->least > at.count ? symbol->least - at.count : 0;
        if (symbol->most != AUTOMATON_UNBOUNDED) most = symbol->most - at.count;
    }
    while (fits < t->groups && p->group[t->group + fits].units <= most) fits++;
    if (fits > 0) {
        const uint32_t *merged = c->a->merged + (size_t)(t->group + fits - 1) * p->words;
        for (uint32_t i = 0; i < p->words; i++) words[i] |= merged[i];
    }
    if (t->rest.entries == 0) return;
    if (automaton_push_end(c, at.frame)) walk(c, &t->rest, least, most, words);
    automaton_pop_to(c, 1);
}

status automaton_mask(automaton_cursor *c, uint32_t *words) {
    const automaton_parts *p = &c->a->p;
    memset(words, 0, p->words * sizeof *words);
    uint32_t places = c->places;
    for (uint32_t i = 0; i < places && !c->over; i++) {
        const automaton_state *s = &p->state[c->place[i].state];
        for (uint32_t k = s->token; k < s[1].token; k++) allow(words, p->token[k].id);
        if (s->table != AUTOMATON_NONE) apply_table(c, c->place[i], words);
    }
    if (!c->over && automaton_push_narrow(c)) walk(c, vocabulary_trie(c->a->v), 0, UINT32_MAX, words);
    automaton_pop_to(c, 1);
    for (uint32_t i = 0; c->level[0].complete && i < p->ends; i++) allow(words, p->end[i]);
    if (c->over) {
        c->over = false;
        return fail(ST_UNSUPPORTED,
                    "the next token could lead to more than %d places of the grammar, or %d rules deep, "
                    "which is not followed",
                    LIMIT_GRAMMAR_PLACES, LIMIT_GRAMMAR_DEPTH);
    }
    for (uint32_t i = 0; i < p->words; i++)
        if (words[i]) return ST_OK;
    return fail(ST_INTERNAL, "the grammar allows no token here");
}
