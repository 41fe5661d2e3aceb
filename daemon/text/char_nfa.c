#include "daemon/text/char_nfa.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"

void char_nfa_close(char_nfa *a) {
    for (uint32_t i = 0; i < a->set_count; i++) char_set_close(&a->set[i]);
    free(a->set);
    free(a->set_next);
    free(a->edge);
    free(a->state);
    *a = (char_nfa){0};
}

static void *room(void *array, uint32_t count, uint32_t *capacity, size_t size) {
    if (count < *capacity) return array;
    *capacity = *capacity ? 2 * *capacity : 16;
    return memory_grow(array, *capacity * size);
}

uint32_t char_nfa_add_state(char_nfa *a, bool accepts) {
    a->state = room(a->state, a->state_count, &a->state_capacity, sizeof *a->state);
    a->state[a->state_count] = (char_state){CHAR_NFA_NONE, accepts};
    return a->state_count++;
}

static uint32_t hash_set(const char_set *s) {
    uint32_t h = s->count;
    for (uint32_t i = 0; i < s->count; i++) h = (h ^ s->range[i].low ^ s->range[i].high << 11) * 0x9E3779B1u;
    return h >> 24;
}

uint32_t char_nfa_add_set(char_nfa *a, const char_set *s) {
    uint32_t *bucket = &a->set_bucket[hash_set(s)];
    for (uint32_t i = *bucket; i > 0; i = a->set_next[i - 1])
        if (char_set_equal(&a->set[i - 1], s)) return i - 1;
    uint32_t capacity = a->set_capacity;
    a->set = room(a->set, a->set_count, &a->set_capacity, sizeof *a->set);
    if (a->set_capacity != capacity)
        a->set_next = memory_grow(a->set_next, a->set_capacity * sizeof *a->set_next);
    char_set copy = {.count = s->count, .capacity = s->count};
    if (s->count > 0) {
        copy.range = memory_alloc_array(s->count, sizeof *s->range);
        memcpy(copy.range, s->range, s->count * sizeof *s->range);
    }
    a->set[a->set_count] = copy;
    a->set_next[a->set_count] = *bucket;
    *bucket = ++a->set_count;
    return a->set_count - 1;
}

uint32_t char_nfa_add_any(char_nfa *a) {
    char_set any = {0};
    char_set_invert(&any);
    uint32_t set = char_nfa_add_set(a, &any);
    char_set_close(&any);
    return set;
}

void char_nfa_add_edge(char_nfa *a, uint32_t from, uint32_t set, uint32_t to) {
    /* A second edge does no harm: only the latest are looked through. */
    uint32_t seen = 0;
    for (uint32_t e = a->state[from].first_edge; e != CHAR_NFA_NONE && seen < 32; e = a->edge[e].next, seen++)
        if (a->edge[e].set == set && a->edge[e].to == to) return;
    a->edge = room(a->edge, a->edge_count, &a->edge_capacity, sizeof *a->edge);
    a->edge[a->edge_count] = (char_edge){set, to, a->state[from].first_edge};
    a->state[from].first_edge = a->edge_count++;
}

status char_nfa_check_size(const char_nfa *a) {
    if (a->state_count > CHAR_NFA_STATES_MAX)
        return fail(ST_INVALID, "%u states or more, at most %d", a->state_count, CHAR_NFA_STATES_MAX);
    if (a->edge_count > CHAR_NFA_EDGES_MAX)
        return fail(ST_INVALID, "%u edges or more, at most %d", a->edge_count, CHAR_NFA_EDGES_MAX);
    return ST_OK;
}

static bool is_wide(const char_set *s) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->count && n <= 64; i++) n += s->range[i].high - s->range[i].low + 1;
    return n > 64;
}

uint32_t char_nfa_wide_states(const char_nfa *a) {
    uint32_t wide = 0;
    for (uint32_t s = 0; s < a->state_count; s++) {
        uint32_t e = a->state[s].first_edge;
        while (e != CHAR_NFA_NONE && !is_wide(&a->set[a->edge[e].set])) e = a->edge[e].next;
        wide += e != CHAR_NFA_NONE;
    }
    return wide;
}

bool char_nfa_equal(const char_nfa *a, const char_nfa *b) {
    if (a->state_count != b->state_count || a->edge_count != b->edge_count || a->set_count != b->set_count)
        return false;
    for (uint32_t i = 0; i < a->state_count; i++)
        if (a->state[i].first_edge != b->state[i].first_edge || a->state[i].accepts != b->state[i].accepts)
            return false;
    for (uint32_t i = 0; i < a->edge_count; i++)
        if (a->edge[i].set != b->edge[i].set || a->edge[i].to != b->edge[i].to ||
            a->edge[i].next != b->edge[i].next)
            return false;
    for (uint32_t i = 0; i < a->set_count; i++)
        if (!char_set_equal(&a->set[i], &b->set[i])) return false;
    return true;
}

/* The pairs of states that were reached, by hash. */
typedef struct pair_table {
    uint64_t *pair; /* UINT64_MAX: free */
    uint32_t *state;
    uint32_t size;
} pair_table;

static uint32_t pair_state(pair_table *t, char_nfa *out, const char_nfa *a, const char_nfa *b, uint32_t p,
                           uint32_t q, uint64_t *made) {
    uint64_t pair = (uint64_t)p << 32 | q;
    uint32_t at = (uint32_t)(pair * 0x9E3779B97F4A7C15u >> 32) & (t->size - 1);
    while (t->pair[at] != UINT64_MAX && t->pair[at] != pair) at = (at + 1) & (t->size - 1);
    if (t->pair[at] == UINT64_MAX) {
        t->pair[at] = pair;
        made[out->state_count] = pair;
        t->state[at] = char_nfa_add_state(out, a->state[p].accepts && b->state[q].accepts);
    }
    return t->state[at];
}

status char_nfa_intersect(char_nfa *out, const char_nfa *a, const char_nfa *b) {
    status st = ST_OK;
    /* One state's edges may pass the maximum before it is checked: so many more pairs at most. */
    uint32_t slack = CHAR_NFA_STATES_MAX + 2, work = 0;
    pair_table table = {.size = 4 * CHAR_NFA_STATES_MAX};
    table.pair = memory_alloc_array(table.size, sizeof *table.pair);
    table.state = memory_alloc_array(table.size, sizeof *table.state);
    uint64_t *made = memory_alloc_array(slack, sizeof *made);
    memset(table.pair, 0xFF, table.size * sizeof *table.pair);
    *out = (char_nfa){0};
    pair_state(&table, out, a, b, 0, 0, made);
    for (uint32_t s = 0; s < out->state_count && st == ST_OK; s++) {
        uint32_t p = (uint32_t)(made[s] >> 32), q = (uint32_t)made[s];
        for (uint32_t e = a->state[p].first_edge; e != CHAR_NFA_NONE && st == ST_OK; e = a->edge[e].next)
            for (uint32_t f = b->state[q].first_edge; f != CHAR_NFA_NONE && st == ST_OK;
                 f = b->edge[f].next) {
                char_set both = {0};
                if (++work > CHAR_NFA_WORK_MAX) {
                    st = fail(ST_INVALID, "over %d pairs of edges", CHAR_NFA_WORK_MAX);
                    break;
                }
                char_set_intersect(&both, &a->set[a->edge[e].set], &b->set[b->edge[f].set]);
                if (both.count > 0) {
                    uint32_t to = pair_state(&table, out, a, b, a->edge[e].to, b->edge[f].to, made);
                    char_nfa_add_edge(out, s, char_nfa_add_set(out, &both), to);
                    st = char_nfa_check_size(out);
                }
                char_set_close(&both);
            }
    }
    free(made);
    free(table.pair);
    free(table.state);
    if (st != ST_OK) char_nfa_close(out);
    return st;
}

status char_nfa_lengths(char_nfa *out, uint32_t least, uint32_t most) {
    *out = (char_nfa){0};
    uint32_t last = most == CHAR_NFA_NONE ? least : most;
    if (last >= CHAR_NFA_STATES_MAX)
        return fail(ST_INVALID, "%llu states, at most %d", (unsigned long long)last + 1, CHAR_NFA_STATES_MAX);
    uint32_t any = char_nfa_add_any(out);
    for (uint32_t i = 0; i <= last; i++) char_nfa_add_state(out, i >= least);
    for (uint32_t i = 0; i < last; i++) char_nfa_add_edge(out, i, any, i + 1);
    if (most == CHAR_NFA_NONE) char_nfa_add_edge(out, last, any, last);
    return ST_OK;
}

/* A tree of the names: node[i] is state i. */
static uint32_t name_child(char_nfa *out, uint32_t state, uint32_t c) {
    for (uint32_t e = out->state[state].first_edge; e != CHAR_NFA_NONE; e = out->edge[e].next) {
        const char_range *r = out->set[out->edge[e].set].range;
        if (r->low == c && r->high == c) return out->edge[e].to;
    }
    return CHAR_NFA_NONE;
}

status char_nfa_none_of(char_nfa *out, const char_set *alphabet, const char_name *names, size_t count,
                        bool may_be_empty) {
    *out = (char_nfa){0};
    status st = ST_OK;
    char_nfa_add_state(out, may_be_empty);
    for (size_t i = 0; i < count && st == ST_OK; i++) {
        uint32_t at = 0, c;
        bool inside = true; /* a name of other characters cannot come anyway */
        for (size_t b = 0; b < names[i].bytes && st == ST_OK && inside; st = char_nfa_check_size(out)) {
            b += utf8_decode(names[i].text + b, &c);
            inside = char_set_has(alphabet, c);
            uint32_t child = inside ? name_child(out, at, c) : 0;
            if (child == CHAR_NFA_NONE) {
                char_set one = {0};
                char_set_add(&one, c, c);
                child = char_nfa_add_state(out, true);
                char_nfa_add_edge(out, at, char_nfa_add_set(out, &one), child);
                char_set_close(&one);
            }
            at = child;
        }
        if (inside && st == ST_OK) out->state[at].accepts = false;
    }
    if (st != ST_OK) {
        char_nfa_close(out);
        return st;
    }
    uint32_t tree = out->state_count, other = char_nfa_add_state(out, true),
             all = char_nfa_add_set(out, alphabet);
    for (uint32_t s = 0; s < tree; s++) {
        char_set rest = {0};
        char_set_add_set(&rest, alphabet);
        for (uint32_t e = out->state[s].first_edge; e != CHAR_NFA_NONE; e = out->edge[e].next) {
            char_range r = out->set[out->edge[e].set].range[0];
            char_set_remove(&rest, r.low, r.high);
        }
        if (rest.count > 0) char_nfa_add_edge(out, s, char_nfa_add_set(out, &rest), other);
        char_set_close(&rest);
    }
    char_nfa_add_edge(out, other, all, other);
    return ST_OK;
}

bool char_nfa_accepts(const char_nfa *a, const char *text, size_t bytes) {
    uint8_t *now = memory_alloc(a->state_count + 1), *next = memory_alloc(a->state_count + 1);
    bool found = false;
    uint32_t c;
    now[0] = a->state_count > 0;
    for (size_t b = 0; b < bytes;) {
        b += utf8_decode(text + b, &c);
        memset(next, 0, a->state_count);
        for (uint32_t s = 0; s < a->state_count; s++) {
            if (!now[s]) continue;
            for (uint32_t e = a->state[s].first_edge; e != CHAR_NFA_NONE; e = a->edge[e].next)
                if (!next[a->edge[e].to] && char_set_has(&a->set[a->edge[e].set], c)) next[a->edge[e].to] = 1;
        }
        uint8_t *swap = now;
        now = next;
        next = swap;
    }
    for (uint32_t s = 0; s < a->state_count; s++) found |= now[s] && a->state[s].accepts;
    free(now);
    free(next);
    return found;
}
