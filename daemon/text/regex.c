/* A regular expression's tree as an automaton without empty moves. */
#include "daemon/text/regex.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/regex_internal.h"

/* A machine in Thompson's form; moves without a character go to `to` and `other`. */
typedef enum move_kind { MOVE_SPLIT, MOVE_SET, MOVE_BEGIN, MOVE_END, MOVE_FINAL } move_kind;

typedef struct move {
    move_kind kind;
    uint32_t set, to, other; /* CHAR_NFA_NONE: nowhere */
} move;

typedef struct machine {
    move *move;
    uint32_t count;
} machine;

enum { SATURATED = 1 << 30 };

/* Moves that a subtree takes, which add() then makes; saturates. Children come before their parents in the tree. */
static uint32_t *measure(const regex_tree *t) {
    uint32_t *size = memory_alloc_array(t->count + 1, sizeof *size);
    for (uint32_t i = 0; i < t->count; i++) {
        const regex_node *n = &t->node[i];
        uint64_t s = 1;
        if (n->kind == REGEX_BOTH) s = (uint64_t)size[n->left] + size[n->right];
        if (n->kind == REGEX_EITHER) s = (uint64_t)size[n->left] + size[n->right] + 2;
        if (n->kind == REGEX_REPEAT && n->most == CHAR_NFA_NONE) s = (n->least + 1ull) * size[n->left] + 1;
        else if (n->kind == REGEX_REPEAT) s = (uint64_t)n->most * size[n->left] + (n->most - n->least) + 1;
        size[i] = s > SATURATED ? SATURATED : (uint32_t)s;
    }
    return size;
}

static uint32_t add(machine *m, move_kind kind, uint32_t set, uint32_t to, uint32_t other) {
    m->move[m->count] = (move){kind, set, to, other};
    return m->count++;
}

/* Returns where the subtree begins when it goes on at `to`. BOTH leans left, as long as the expression: it is unrolled. */
static uint32_t build(machine *m, const regex_tree *t, uint32_t at, uint32_t to) {
    const regex_node *n = &t->node[at];
    for (; n->kind == REGEX_BOTH; n = &t->node[at]) {
        to = build(m, t, n->right, to);
        at = n->left;
    }
    if (n->kind == REGEX_SET) return add(m, MOVE_SET, n->set, to, CHAR_NFA_NONE);
    if (n->kind == REGEX_BEGIN) return add(m, MOVE_BEGIN, 0, to, CHAR_NFA_NONE);
    if (n->kind == REGEX_END) return add(m, MOVE_END, 0, to, CHAR_NFA_NONE);
    if (n->kind == REGEX_EITHER) {
        uint32_t list = CHAR_NFA_NONE;
        for (; n->kind == REGEX_EITHER; n = &t->node[at]) {
            uint32_t right = build(m, t, n->right, to);
            list = add(m, MOVE_SPLIT, 0, right, list);
            at = n->left;
        }
        return add(m, MOVE_SPLIT, 0, build(m, t, at, to), list);
    }
    if (n->kind != REGEX_REPEAT) return to;
    uint32_t begin = to;
    if (n->most == CHAR_NFA_NONE) {
        begin = add(m, MOVE_SPLIT, 0, CHAR_NFA_NONE, to);
        m->move[begin].to = build(m, t, n->left, begin);
    } else {
        for (uint32_t i = n->least; i < n->most; i++)
            begin = add(m, MOVE_SPLIT, 0, build(m, t, n->left, begin), to);
    }
    for (uint32_t i = 0; i < n->least; i++) begin = build(m, t, n->left, begin);
    return begin;
}

/* What can be done from a place before the next character. */
typedef struct closure {
    const machine *machine;
    uint32_t *stack, *set_move; /* set_move[set_count]: the moves that take a character */
    uint8_t *seen;              /* 1: reached; 2: reached behind an end mark */
    uint32_t set_count;
    bool accepts, accepts_at_end; /* the end of the expression was reached; only behind an end mark */
} closure;

static void close_over(closure *c, uint32_t from, bool at_begin) {
    uint32_t depth = 0;
    memset(c->seen, 0, c->machine->count);
    c->set_count = 0;
    c->accepts = c->accepts_at_end = false;
    c->stack[depth++] = from << 1;
    while (depth > 0) {
        uint32_t at = c->stack[--depth] >> 1, ended = c->stack[depth] & 1;
        const move *m = &c->machine->move[at];
        if (c->seen[at] & (1 << ended)) continue;
        c->seen[at] |= (uint8_t)(1 << ended);
        if (m->kind == MOVE_SET && !ended) c->set_move[c->set_count++] = at;
        if (m->kind == MOVE_FINAL) *(ended ? &c->accepts_at_end : &c->accepts) = true;
        if (m->kind == MOVE_END) ended = 1;
        if (m->kind == MOVE_SPLIT || m->kind == MOVE_END || (m->kind == MOVE_BEGIN && at_begin)) {
            if (m->other != CHAR_NFA_NONE) c->stack[depth++] = m->other << 1 | ended;
            if (m->to != CHAR_NFA_NONE) c->stack[depth++] = m->to << 1 | ended;
        }
    }
}

typedef struct flattening {
    closure closure;
    char_nfa *out;
    const regex_tree *tree;
    uint32_t *place; /* of a move's target, plus 1; 0: none yet */
    uint32_t *waiting, waiting_count;
    uint32_t any, sink; /* with REGEX_SEARCH: where every rest is fine */
    bool search;
} flattening;

static uint32_t place_of(flattening *f, uint32_t target) {
    if (!f->place[target]) {
        f->place[target] = char_nfa_add_state(f->out, false) + 1;
        f->waiting[f->waiting_count++] = target;
    }
    return f->place[target] - 1;
}

/* The edges of `state`, which stands for the place `from` of the machine. */
static status flatten(flattening *f, uint32_t state, uint32_t from, bool at_begin) {
    closure *c = &f->closure;
    close_over(c, from, at_begin);
    f->out->state[state].accepts = c->accepts || c->accepts_at_end;
    if (c->accepts && f->search) {
        char_nfa_add_edge(f->out, state, f->any, f->sink);
        return ST_OK;
    }
    for (uint32_t i = 0; i < c->set_count; i++) {
        const move *m = &c->machine->move[c->set_move[i]];
        const char_set *s = &f->tree->sets.set[m->set];
        if (s->count == 0) continue;
        char_nfa_add_edge(f->out, state, char_nfa_add_set(f->out, s), place_of(f, m->to));
        TRY(char_nfa_check_size(f->out));
    }
    return ST_OK;
}

static status flatten_all(flattening *f, uint32_t start) {
    char_nfa_add_state(f->out, false);
    if (f->search) {
        f->any = char_nfa_add_any(f->out);
        f->sink = char_nfa_add_state(f->out, true);
        char_nfa_add_edge(f->out, f->sink, f->any, f->sink);
        uint32_t later = char_nfa_add_state(f->out, false);
        TRY(flatten(f, later, start, false));
        char_nfa_add_edge(f->out, later, f->any, later);
        TRY(flatten(f, 0, start, true));
        char_nfa_add_edge(f->out, 0, f->any, later);
    } else {
        TRY(flatten(f, 0, start, true));
    }
    while (f->waiting_count > 0) {
        uint32_t target = f->waiting[--f->waiting_count];
        TRY(flatten(f, f->place[target] - 1, target, false));
    }
    return ST_OK;
}

static status make(char_nfa *out, const regex_tree *t, uint32_t moves, bool search) {
    machine m = {.move = memory_alloc_array(moves + 1, sizeof *m.move)};
    uint32_t final = add(&m, MOVE_FINAL, 0, CHAR_NFA_NONE, CHAR_NFA_NONE);
    uint32_t start = build(&m, t, t->root, final);
    flattening f = {.out = out, .tree = t, .search = search};
    f.closure.machine = &m;
    f.closure.stack = memory_alloc_array(4 * (size_t)m.count + 4, sizeof *f.closure.stack);
    f.closure.set_move = memory_alloc_array(m.count, sizeof *f.closure.set_move);
    f.closure.seen = memory_alloc(m.count);
    f.place = memory_alloc_array(m.count, sizeof *f.place);
    f.waiting = memory_alloc_array(m.count, sizeof *f.waiting);
    status st = flatten_all(&f, start);
    free(f.closure.stack);
    free(f.closure.set_move);
    free(f.closure.seen);
    free(f.place);
    free(f.waiting);
    free(m.move);
    return st;
}

status regex_read(char_nfa *out, const char *text, size_t bytes, regex_where where) {
    regex_tree tree;
    *out = (char_nfa){0};
    TRY(regex_parse(&tree, text, bytes));
    uint32_t *size = measure(&tree), moves = size[tree.root];
    status st = ST_OK;
    if (moves > CHAR_NFA_STATES_MAX)
        st = fail(ST_INVALID, "about %u states, at most %d", moves, CHAR_NFA_STATES_MAX);
    if (st == ST_OK) st = make(out, &tree, moves, where == REGEX_SEARCH);
    free(size);
    regex_tree_close(&tree);
    if (st != ST_OK) char_nfa_close(out);
    else char_nfa_trim(out);
    return st;
}
