#include "daemon/text/grammar_walk.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* A class of a state that calls others has this bit: below it places are followed, not states. */
static const uint64_t CALLS = 1;
static const uint8_t level_bytes[WALK_LEVELS] = {0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 255};

static uint32_t level_for(uint32_t bytes) {
    uint32_t level = 0;
    while (level_bytes[level] < bytes) level++;
    return level;
}

/* ---- the trie ---- */

static void find_levels(grammar_walk *w) {
    const token_trie *t = w->trie;
    uint32_t deepest[TOKEN_BYTES_MAX + 3] = {
        0}; /* below the children, by depth, that were seen of a node still to come */
    for (uint32_t i = t->nodes; i-- > 0;) {
        uint32_t d = t->depth[i], below = deepest[d + 1] > d ? deepest[d + 1] : d;
        deepest[d + 1] = 0;
        if (below > deepest[d]) deepest[d] = below;
        if (below > w->rounds) w->rounds = below;
        w->level[i] = (uint8_t)level_for(below - d);
    }
}

void grammar_walk_open(grammar_walk *w, automaton *a) {
    *w = (grammar_walk){.a = a, .trie = vocabulary_trie(a->v)};
    memset(w->root, 0xFF, sizeof w->root);
    for (uint32_t i = 0; i < w->trie->nodes; i = w->trie->end[i]) w->root[w->trie->byte[i]] = i;
}

void grammar_walk_close(grammar_walk *w) {
    free(w->level);
    for (uint32_t i = 0; i < WALK_LEVELS; i++) free(w->class[i]);
    free(w->at);
    free(w->taken);
    free(w->ends);
}

/* ---- states that tokens cannot tell apart ---- */

uint64_t grammar_walk_mixed(uint64_t h, uint64_t x) {
    h = ((h << 23 | h >> 41) + UINT64_C(0xD1B54A32D192ED03)) ^ x; /* not 0 for equal ones */
    h *= UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 29;
}

/* class: by one byte less. */
static uint64_t look_once(const grammar_walk *w, const uint64_t *class, uint32_t state) {
    const automaton_parts *p = &w->a->p;
    uint64_t h = 1 + p->state[state].accept, of = 0;
    unsigned behind = 256;
    for (uint32_t i = p->state[state].range; i < p->state[state + 1].range; i++) {
        const automaton_range *r = &p->range[i];
        if (r->low != behind || class[r->target - w->first] != of) {
            of = class[r->target - w->first];
            h = grammar_walk_mixed(grammar_walk_mixed(grammar_walk_mixed(h, behind), r->low), of);
        }
        behind = r->high + 1u;
    }
    h = grammar_walk_mixed(h, behind);
    for (uint32_t i = p->state[state].call; i < p->state[state + 1].call; i++)
        h = grammar_walk_mixed(grammar_walk_mixed(h, p->call[i].symbol), class[p->call[i].target - w->first]);
    return (h | 2) & ~CALLS; /* not 0 */
}

static void make_room(grammar_walk *w, uint32_t states) {
    if (!w->level) {
        size_t nodes = (size_t)w->trie->nodes + 1;
        w->level = memory_alloc(nodes);
        w->at = memory_alloc_array(nodes, sizeof *w->at);
        w->ends = memory_alloc_array(nodes / 64 + 1, sizeof *w->ends);
        w->taken = memory_alloc_array((size_t)w->a->p.words + 1, sizeof *w->taken);
        find_levels(w);
    }
    if (states <= w->class_cap) return;
    w->class_cap = states;
    for (uint32_t i = 0; i < WALK_LEVELS; i++) {
        free(w->class[i]);
        w->class[i] = memory_alloc_array(states, sizeof *w->class[i]);
    }
}

void grammar_walk_begin(grammar_walk *w, uint32_t rule) {
    const automaton_parts *p = &w->a->p;
    uint32_t n = p->rule[rule + 1] - p->rule[rule], level = 0;
    make_room(w, n);
    w->first = p->rule[rule];
    uint64_t *now = memory_alloc_array(n, sizeof *now), *next = memory_alloc_array(n, sizeof *next);
    for (uint32_t s = 0; s < n; s++) now[s] = 2 + 4 * (uint64_t)p->state[w->first + s].accept;
    for (uint32_t r = 0;; r++) {
        for (; level < WALK_LEVELS && (level_bytes[level] == r || r >= w->rounds); level++)
            memcpy(w->class[level], now, n * sizeof *now);
        if (level == WALK_LEVELS) break;
        for (uint32_t s = 0; s < n; s++) next[s] = look_once(w, now, w->first + s);
        uint64_t *swap = now;
        now = next;
        next = swap;
    }
    w->work += (uint64_t)n * w->rounds / 2;
    free(now);
    free(next);
}

uint64_t grammar_walk_class(const grammar_walk *w, uint32_t state) {
    return w->class[WALK_LEVELS - 1][state - w->first];
}

uint64_t grammar_walk_class_within(const grammar_walk *w, uint32_t state, uint32_t bytes) {
    return w->class[level_for(bytes)][state - w->first];
}

/* ---- walks ---- */

static bool calls_others(const automaton_parts *p, uint32_t state) {
    return p->state[state].call != p->state[state + 1].call;
}

static void take(grammar_walk *w, uint32_t node) {
    for (uint32_t i = w->trie->first[node]; i < w->trie->first[node + 1]; i++)
        w->taken[w->trie->token[i] / 32] |= 1u << w->trie->token[i] % 32;
}

static void set_end(grammar_walk *w, uint32_t node, bool end) {
    uint64_t bit = UINT64_C(1) << node % 64;
    w->ends[node / 64] = (w->ends[node / 64] & ~bit) | (end ? bit : 0);
}

static void forget_below(grammar_walk *w, uint32_t node) {
    const token_trie *t = w->trie;
    for (uint32_t i = t->first[node]; i < t->first[t->end[node]]; i++)
        w->taken[t->token[i] / 32] &= ~(1u << t->token[i] % 32);
    uint32_t i = node, end = t->end[node];
    w->work += (end - node) / 4;
    for (; i < end && i % 64; i++) set_end(w, i, false);
    for (; i + 64 <= end; i += 64) w->ends[i / 64] = 0;
    for (; i < end; i++) set_end(w, i, false);
}

/* A step of places costs by their number. */
static bool push(grammar_walk *w, automaton_cursor *c, uint8_t byte) {
    bool alive = automaton_push(c, byte);
    w->work += 4 + 2 * (c->places - c->level[c->levels - 1].place);
    return alive;
}

/* From a state that calls others, at a node that has just been reached, with all that begins like it. */
static void walk_calls(grammar_walk *w, uint32_t symbol, uint32_t state, uint32_t root) {
    const token_trie *t = w->trie;
    automaton_cursor *c = automaton_cursor_at(w->a, symbol, state);
    bool alive = automaton_push_here(c);
    for (uint32_t i = root; i < t->end[root] && !c->over && w->work <= GRAMMAR_WORK_MAX;) {
        if (i != root) {
            automaton_pop_to(c, t->depth[i] - t->depth[root] + 1u);
            alive = push(w, c, t->byte[i]);
        }
        if (!alive) {
            i = t->end[i];
            continue;
        }
        take(w, i);
        if (c->level[c->levels - 1].outside) set_end(w, i, true);
        i++;
    }
    w->over |= c->over;
    automaton_cursor_close(c);
}

/* Below a node whose first state is `target`, or none. */
static void walk_below(grammar_walk *w, uint32_t symbol, uint32_t target, uint32_t root) {
    const token_trie *t = w->trie;
    const automaton_parts *p = &w->a->p;
    uint32_t state[TOKEN_BYTES_MAX + 1];
    bool fresh[TOKEN_BYTES_MAX + 1] = {false}; /* nothing of last time stands below the node of that depth */
    for (uint32_t i = root; i < t->end[root];) {
        uint32_t d = t->depth[i], next = d == 1 ? target : automaton_next(p, state[d - 1], t->byte[i]);
        uint64_t was = fresh[d - 1] ? 0 : w->at[i], is = 0;
        w->work++;
        if (next != AUTOMATON_NONE) is = w->class[w->level[i]][next - w->first];
        if (is && calls_others(p, next)) is |= CALLS;
        w->at[i] = is;
        if (is == was) {
            i = t->end[i];
            continue;
        }
        if (was && (is == 0 || (was | is) & CALLS)) forget_below(w, i);
        if (is == 0 || is & CALLS) {
            if (is) walk_calls(w, symbol, next, i);
            i = t->end[i];
            continue;
        }
        state[d] = next;
        fresh[d] = was == 0 || was & CALLS;
        take(w, i);
        set_end(w, i, p->state[next].accept);
        i++;
    }
}

void grammar_walk_from(grammar_walk *w, uint32_t symbol, uint32_t state) {
    for (unsigned b = 0; b < 256; b++)
        if (w->root[b] != AUTOMATON_NONE)
            walk_below(w, symbol, automaton_next(&w->a->p, state, (uint8_t)b), w->root[b]);
}

/* ---- how wide a state is ---- */

static void count_calls(grammar_walk *w, uint32_t symbol, uint32_t state, uint32_t root, uint32_t *left) {
    const token_trie *t = w->trie;
    automaton_cursor *c = automaton_cursor_at(w->a, symbol, state);
    bool alive = automaton_push_here(c);
    for (uint32_t i = root; i < t->end[root] && !c->over && *left > 0;) {
        if (i != root) {
            automaton_pop_to(c, t->depth[i] - t->depth[root] + 1u);
            alive = push(w, c, t->byte[i]);
            --*left;
        }
        i = alive ? i + 1 : t->end[i];
    }
    w->over |= c->over;
    automaton_cursor_close(c);
}

static void count_below(grammar_walk *w, uint32_t symbol, uint32_t target, uint32_t root, uint32_t *left) {
    const token_trie *t = w->trie;
    const automaton_parts *p = &w->a->p;
    uint32_t state[TOKEN_BYTES_MAX + 1];
    for (uint32_t i = root; i < t->end[root] && *left > 0;) {
        uint32_t d = t->depth[i], next = d == 1 ? target : automaton_next(p, state[d - 1], t->byte[i]);
        w->work++;
        --*left;
        if (next == AUTOMATON_NONE) {
            i = t->end[i];
        } else if (calls_others(p, next)) {
            count_calls(w, symbol, next, i, left);
            i = t->end[i];
        } else {
            state[d] = next;
            i++;
        }
    }
}

bool grammar_walk_is_wide(grammar_walk *w, uint32_t symbol, uint32_t state, uint32_t nodes) {
    uint32_t left = nodes + 1;
    for (unsigned b = 0; b < 256 && left > 0; b++) {
        uint32_t target = automaton_next(&w->a->p, state, (uint8_t)b);
        if (w->root[b] != AUTOMATON_NONE && target != AUTOMATON_NONE)
            count_below(w, symbol, target, w->root[b], &left);
    }
    return left == 0;
}
