/* A network followed as it was built: every configuration with its whole stack, each step by trying all edges. */
#ifndef TESTS_UNIT_TEXT_NAIVE_GRAMMAR_H
#define TESTS_UNIT_TEXT_NAIVE_GRAMMAR_H

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/text/grammar_internal.h"

enum { NAIVE_DEPTH = 24, NAIVE_MOST = 2000, NAIVE_TOKEN = 256 };

/* A frame stands at a state, or repeats a unit: count of its texts are complete. */
typedef struct naive_frame {
    uint32_t state, unit, count, least, most; /* unit: AUTOMATON_NONE at a state */
} naive_frame;
typedef struct naive_stack {
    naive_frame frame[NAIVE_DEPTH];
    uint32_t depth;
} naive_stack;

typedef struct naive {
    const grammar *g;
    bool *ends; /* [states]: the rule's end can be reached */
    naive_stack *now, *next;
    uint32_t count, next_count;
    bool complete, over;
} naive;

static inline bool naive_edge_ends(const naive *n, const grammar_edge *e) {
    if (!n->ends[e->to]) return false;
    if (e->kind == GRAMMAR_CALL) return n->ends[n->g->rule[e->a].start];
    if (e->kind == GRAMMAR_REPEAT) return e->b == 0 || n->ends[n->g->rule[e->a].start];
    return true;
}

static inline bool naive_stack_lives(const naive *n, const naive_stack *s) {
    for (uint32_t i = 0; i < s->depth; i++) {
        const naive_frame *f = &s->frame[i];
        if (f->unit == AUTOMATON_NONE && !n->ends[f->state]) return false;
        if (f->unit != AUTOMATON_NONE && f->count < f->least && !n->ends[n->g->rule[f->unit].start])
            return false;
    }
    return true;
}

static inline void naive_add(naive *n, const naive_stack *s) {
    if (!naive_stack_lives(n, s)) return;
    for (uint32_t i = 0; i < n->next_count; i++)
        if (n->next[i].depth == s->depth && !memcmp(n->next[i].frame, s->frame, s->depth * sizeof *s->frame))
            return;
    if (n->next_count == NAIVE_MOST) n->over = true;
    else n->next[n->next_count++] = *s;
}

static inline void naive_push(naive *n, naive_stack s, naive_frame f) {
    if (s.depth == NAIVE_DEPTH) {
        n->over = true;
        return;
    }
    s.frame[s.depth++] = f;
    naive_add(n, &s);
}

static inline void naive_expand(naive *n, naive_stack s) {
    naive_frame *top = &s.frame[s.depth - 1];
    if (top->unit != AUTOMATON_NONE) {
        if (top->count < top->most)
            naive_push(n, s, (naive_frame){n->g->rule[top->unit].start, AUTOMATON_NONE, 0, 0, 0});
        if (top->count >= top->least) {
            s.depth--;
            naive_add(n, &s);
        }
        return;
    }
    if (top->state == n->g->rule[n->g->rule_of[top->state]].end) {
        naive_stack up = s;
        if (--up.depth == 0) {
            n->complete = true;
        } else {
            naive_frame *f = &up.frame[up.depth - 1];
            if (f->unit != AUTOMATON_NONE && (f->most != GRAMMAR_UNBOUNDED || f->count < f->least))
                f->count++;
            naive_add(n, &up);
        }
    }
    for (uint32_t i = 0; i < n->g->edges; i++) {
        const grammar_edge *e = &n->g->edge[i];
        if (e->from != top->state) continue;
        naive_stack to = s;
        to.frame[to.depth - 1].state = e->to;
        if (e->kind == GRAMMAR_EMPTY) naive_add(n, &to);
        if (e->kind == GRAMMAR_CALL)
            naive_push(n, to, (naive_frame){n->g->rule[e->a].start, AUTOMATON_NONE, 0, 0, 0});
        if (e->kind == GRAMMAR_REPEAT) naive_push(n, to, (naive_frame){0, e->a, 0, e->b, e->c});
    }
}

static inline void naive_settle(naive *n) {
    n->complete = false;
    for (uint32_t i = 0; i < n->next_count && !n->over; i++) naive_expand(n, n->next[i]);
    naive_stack *t = n->now;
    n->now = n->next;
    n->count = n->next_count;
    n->next = t;
    n->next_count = 0;
}

static inline void naive_begin(naive *n) {
    naive_stack s = {.frame = {{n->g->rule[0].start, AUTOMATON_NONE, 0, 0, 0}}, .depth = 1};
    n->over = false;
    n->next_count = 0;
    naive_add(n, &s);
    naive_settle(n);
}

static inline void naive_open(naive *n, const grammar *g) {
    *n = (naive){.g = g};
    n->ends = memory_alloc_array(g->states, sizeof *n->ends);
    for (uint32_t i = 0; i < g->rules; i++) n->ends[g->rule[i].end] = true;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < g->edges; i++)
            if (!n->ends[g->edge[i].from] && naive_edge_ends(n, &g->edge[i]))
                more = n->ends[g->edge[i].from] = true;
    }
    n->now = memory_alloc_array(NAIVE_MOST, sizeof *n->now);
    n->next = memory_alloc_array(NAIVE_MOST, sizeof *n->next);
}

static inline void naive_close(naive *n) {
    free(n->ends);
    free(n->now);
    free(n->next);
}

/* A byte, or NAIVE_TOKEN + id. False: nothing takes it. */
static inline bool naive_take(naive *n, uint32_t letter) {
    for (uint32_t i = 0; i < n->count; i++) {
        const naive_frame *top = &n->now[i].frame[n->now[i].depth - 1];
        if (top->unit != AUTOMATON_NONE) continue;
        for (uint32_t k = 0; k < n->g->edges; k++) {
            const grammar_edge *e = &n->g->edge[k];
            bool fits = letter < NAIVE_TOKEN ? e->kind == GRAMMAR_BYTES && e->a <= letter && letter <= e->b
                                             : e->kind == GRAMMAR_TOKEN && e->a == letter - NAIVE_TOKEN;
            if (e->from != top->state || !fits) continue;
            naive_stack s = n->now[i];
            s.frame[s.depth - 1].state = e->to;
            naive_add(n, &s);
        }
    }
    naive_settle(n);
    return n->count > 0;
}

#endif
