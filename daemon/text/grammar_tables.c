/* Which tokens each state takes, as far as its rule alone decides, for the states where many do: inside a string the leader
 * then copies a set of tokens in place of walking the vocabulary. What goes on behind the rule's end is kept beside them as
 * the rest of a token, a few hundred of them, since few bytes can follow. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/grammar_internal.h"

enum { RESTS_MAX = 1 << 19, NO_CLASS = 0 };

typedef struct byte_set {
    uint64_t bits[4];
} byte_set;

static void set_add(byte_set *s, uint8_t b) { s->bits[b / 64] |= UINT64_C(1) << b % 64; }
static bool set_has(const byte_set *s, uint8_t b) { return s->bits[b / 64] >> b % 64 & 1; }
static bool set_join(byte_set *s, const byte_set *more) {
    uint64_t grown = 0;
    for (int i = 0; i < 4; i++) {
        grown |= more->bits[i] & ~s->bits[i];
        s->bits[i] |= more->bits[i];
    }
    return grown != 0;
}

typedef struct rest {
    const uint8_t *bytes;
    uint32_t size, units, token;
} rest;

typedef struct maker {
    automaton *a;
    automaton_parts *p;
    const token_trie *trie;
    uint32_t root[256];                   /* node of each first byte; AUTOMATON_NONE */
    byte_set *first, *follow;             /* [rules]: bytes a rule begins with, and that may come behind it */
    uint32_t *taken[TOKEN_BYTES_MAX + 2]; /* by units touched: [p->words], NULL until first needed */
    bool any_taken[TOKEN_BYTES_MAX + 2];
    rest *rests;
    uint32_t rest_count, rest_cap, visited, narrow;
    bool over;       /* too many places at once to be looked at beforehand */
    uint64_t *class; /* [states]: equal where no token can tell two states apart */
    uint64_t *mask_hash;
    uint32_t mask_hash_cap;
} maker;

static void *grown(void *array, uint32_t need, uint32_t *cap, size_t size) {
    if (need <= *cap) return array;
    while (*cap < need) *cap = *cap ? *cap * 2 : 64;
    return memory_grow(array, *cap * size);
}

/* ---- what a rule begins with, and what may follow it ---- */

static byte_set first_of(const maker *m, uint32_t state) {
    const automaton_parts *p = m->p;
    byte_set out = {{0}};
    for (uint32_t i = p->state[state].range; i < p->state[state + 1].range; i++)
        for (unsigned b = p->range[i].low; b <= p->range[i].high; b++) set_add(&out, (uint8_t)b);
    for (uint32_t i = p->state[state].call; i < p->state[state + 1].call; i++)
        set_join(&out, &m->first[p->symbol[p->call[i].symbol].rule]);
    return out;
}

static void find_follow(maker *m) {
    const automaton_parts *p = m->p;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t r = p->rules; r-- > 0;) { /* callees come behind their first callers */
            byte_set first = first_of(m, p->rule[r]);
            more |= set_join(&m->first[r], &first);
        }
    }
    for (bool more = true; more;) {
        more = false;
        for (uint32_t r = 0; r < p->rules; r++)
            for (uint32_t s = p->rule[r]; s < p->rule[r + 1]; s++)
                for (uint32_t i = p->state[s].call; i < p->state[s + 1].call; i++) {
                    byte_set *follow = &m->follow[p->symbol[p->call[i].symbol].rule];
                    byte_set first = first_of(m, p->call[i].target);
                    more |= set_join(follow, &first);
                    if (p->state[p->call[i].target].accept) more |= set_join(follow, &m->follow[r]);
                }
    }
}

/* ---- walks ---- */

static void take(maker *m, uint32_t node, uint32_t units) {
    if (m->trie->first[node] == m->trie->first[node + 1]) return;
    uint32_t **words = &m->taken[units];
    if (!*words) *words = memory_alloc_array(m->p->words, sizeof **words);
    m->any_taken[units] = true;
    for (uint32_t i = m->trie->first[node]; i < m->trie->first[node + 1]; i++)
        (*words)[m->trie->token[i] / 32] |= 1u << m->trie->token[i] % 32;
}

static void forget_taken(maker *m) {
    for (uint32_t units = 0; units < TOKEN_BYTES_MAX + 2; units++) {
        if (m->any_taken[units]) memset(m->taken[units], 0, m->p->words * sizeof **m->taken);
        m->any_taken[units] = false;
    }
}

/* The rule may end at the node: what follows in longer tokens is for its callers. */
static void take_rests(maker *m, uint32_t node, uint32_t units, const byte_set *follow) {
    const token_trie *t = m->trie;
    for (uint32_t child = node + 1; child < t->end[node]; child = t->end[child]) {
        if (!set_has(follow, t->byte[child])) continue;
        for (uint32_t i = t->first[child]; i < t->first[t->end[child]] && m->rest_count <= RESTS_MAX; i++) {
            vocabulary_token whole = vocabulary_token_of(m->a->v, t->token[i]);
            m->rests = grown(m->rests, m->rest_count + 1, &m->rest_cap, sizeof *m->rests);
            m->rests[m->rest_count++] =
                (rest){whole.bytes + t->depth[node], whole.size - t->depth[node], units, t->token[i]};
        }
    }
}

/* Units have one way for each byte and begin again where they end. */
static void walk_unit(maker *m, uint32_t rule, uint32_t start, uint32_t from, uint32_t root) {
    const token_trie *t = m->trie;
    uint32_t state[TOKEN_BYTES_MAX + 1] = {start}, units[TOKEN_BYTES_MAX + 1] = {0};
    for (uint32_t i = root; i < t->end[root];) {
        uint32_t d = t->depth[i], next = automaton_next(m->p, d == 1 ? from : state[d - 1], t->byte[i]);
        m->visited++;
        if (next == AUTOMATON_NONE) {
            i = t->end[i];
            continue;
        }
        bool whole = m->p->state[next].accept;
        state[d] = whole ? start : next;
        units[d] = units[d - 1] + whole;
        take(m, i, units[d] + !whole);
        if (whole) take_rests(m, i, units[d], &m->follow[rule]);
        i++;
    }
}

/* From a state that calls others, at a node that has just been reached, with all that begins like it. */
static void walk_calls(maker *m, uint32_t rule, uint32_t symbol, uint32_t state, uint32_t root) {
    const token_trie *t = m->trie;
    automaton_cursor *c = automaton_cursor_at(m->a, symbol, state);
    bool alive = automaton_push_here(c);
    for (uint32_t i = root; i < t->end[root] && !c->over;) {
        if (i != root) {
            automaton_pop_to(c, t->depth[i] - t->depth[root] + 1u);
            alive = automaton_push(c, t->byte[i]);
            m->visited++;
        }
        if (!alive) {
            i = t->end[i];
            continue;
        }
        take(m, i, 0);
        if (c->level[c->levels - 1].outside) take_rests(m, i, 0, &m->follow[rule]);
        i++;
    }
    m->over |= c->over;
    automaton_cursor_close(c);
}

static void walk_plain(maker *m, uint32_t rule, uint32_t symbol, uint32_t from, uint32_t root) {
    const token_trie *t = m->trie;
    uint32_t state[TOKEN_BYTES_MAX + 1] = {from};
    for (uint32_t i = root; i < t->end[root];) {
        uint32_t d = t->depth[i], next = automaton_next(m->p, state[d - 1], t->byte[i]);
        m->visited++;
        state[d] = next;
        if (next == AUTOMATON_NONE) {
            i = t->end[i];
        } else if (m->p->state[next].call != m->p->state[next + 1].call) {
            walk_calls(m, rule, symbol, next, i);
            i = t->end[i];
        } else {
            take(m, i, 0);
            if (m->p->state[next].accept) take_rests(m, i, 0, &m->follow[rule]);
            i++;
        }
    }
}

static void walk_state(maker *m, uint32_t rule, uint32_t symbol, uint32_t state) {
    const automaton_parts *p = m->p;
    m->rest_count = m->visited = 0;
    forget_taken(m);
    for (uint32_t i = p->state[state].range; i < p->state[state + 1].range; i++)
        for (unsigned b = p->range[i].low; b <= p->range[i].high; b++) {
            if (m->root[b] == AUTOMATON_NONE) continue;
            if (p->symbol[symbol].counted) walk_unit(m, rule, p->rule[rule], state, m->root[b]);
            else walk_plain(m, rule, symbol, state, m->root[b]);
        }
}

/* ---- states that no token can tell apart ---- */

static uint64_t mixed(uint64_t h, uint64_t x) {
    h = (h ^ x) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 29;
}

static uint64_t look_once(const maker *m, uint32_t state) {
    const automaton_parts *p = m->p;
    uint64_t h = 1 + p->state[state].accept, class = NO_CLASS;
    unsigned behind = 256;
    for (uint32_t i = p->state[state].range; i < p->state[state + 1].range; i++) {
        const automaton_range *r = &p->range[i];
        if (r->low != behind || m->class[r->target] != class) {
            class = m->class[r->target];
            h = mixed(mixed(mixed(h, behind), r->low), class);
        }
        behind = r->high + 1u;
    }
    h = mixed(h, behind);
    for (uint32_t i = p->state[state].call; i < p->state[state + 1].call; i++)
        h = mixed(mixed(h, p->call[i].symbol), m->class[p->call[i].target]);
    return h;
}

/* As many rounds as a token has bytes: the states of a{20,400} differ near its ends only, for tokens. */
static void find_classes(maker *m, uint32_t rule) {
    const automaton_parts *p = m->p;
    uint32_t first = p->rule[rule], n = p->rule[rule + 1] - first, rounds = 0;
    uint64_t *next = memory_alloc_array((size_t)n + 1, sizeof *next);
    for (uint32_t i = 0; i < m->trie->nodes; i++)
        if (m->trie->depth[i] > rounds) rounds = m->trie->depth[i];
    for (uint32_t s = 0; s < n; s++) m->class[first + s] = 1 + p->state[first + s].accept;
    for (uint32_t r = 0; r < rounds; r++) {
        for (uint32_t s = 0; s < n; s++) next[s] = look_once(m, first + s);
        memcpy(m->class + first, next, n * sizeof *next);
    }
    free(next);
}

/* ---- tables ---- */

static int by_bytes(const void *a, const void *b) {
    const rest *x = a, *y = b;
    uint32_t n = x->size < y->size ? x->size : y->size;
    int order = memcmp(x->bytes, y->bytes, n);
    if (order) return order;
    if (x->size != y->size) return x->size < y->size ? -1 : 1;
    if (x->units != y->units) return x->units < y->units ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* The number of the mask; one that is there is used again. */
static uint32_t mask_number(maker *m, const uint32_t *words) {
    automaton_parts *p = m->p;
    size_t bytes = p->words * sizeof *words;
    uint64_t hash = 14695981039346656037u;
    for (uint32_t i = 0; i < p->words; i++) hash = (hash ^ words[i]) * 1099511628211u;
    for (uint32_t i = 0; i < p->masks; i++)
        if (m->mask_hash[i] == hash && !memcmp(p->mask + (size_t)i * p->words, words, bytes)) return i;
    p->mask = grown(p->mask, p->masks + 1, &p->mask_cap, bytes);
    memcpy(p->mask + (size_t)p->masks * p->words, words, bytes);
    m->mask_hash = grown(m->mask_hash, p->masks + 1, &m->mask_hash_cap, sizeof *m->mask_hash);
    m->mask_hash[p->masks] = hash;
    return p->masks++;
}

static void add_groups(maker *m, automaton_table *table) {
    automaton_parts *p = m->p;
    table->group = p->groups;
    for (uint32_t units = 0; units < TOKEN_BYTES_MAX + 2; units++) {
        if (!m->any_taken[units]) continue;
        p->group = grown(p->group, p->groups + 1, &p->group_cap, sizeof *p->group);
        p->group[p->groups++] = (automaton_group){units, mask_number(m, m->taken[units])};
    }
    table->groups = p->groups - table->group;
}

/* What is allowed whatever follows need not be looked at again. */
static void drop_taken_rests(maker *m) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < m->rest_count; i++) {
        uint32_t token = m->rests[i].token;
        if (!m->any_taken[0] || !(m->taken[0][token / 32] >> token % 32 & 1)) m->rests[kept++] = m->rests[i];
    }
    m->rest_count = kept;
}

static void add_rests(maker *m, automaton_table *table) {
    const rest *before = NULL;
    if (m->rest_count) qsort(m->rests, m->rest_count, sizeof *m->rests, by_bytes);
    for (uint32_t i = 0; i < m->rest_count; i++) {
        const rest *r = &m->rests[i];
        uint32_t shared = 0;
        while (before && shared < before->size && shared < r->size &&
               before->bytes[shared] == r->bytes[shared])
            shared++;
        token_trie_add(&table->rest, shared, r->bytes + shared, r->size - shared, r->token, r->units);
        before = r;
    }
    token_trie_finish(&table->rest);
}

static uint32_t distinct_units(const maker *m) {
    uint32_t n = 0;
    for (uint32_t units = 0; units < TOKEN_BYTES_MAX + 2; units++) n += m->any_taken[units];
    return n;
}

static bool may_be_wide(const maker *m, uint32_t state) {
    const automaton_parts *p = m->p;
    uint64_t nodes = 0;
    for (uint32_t i = p->state[state].range; i < p->state[state + 1].range; i++)
        for (unsigned b = p->range[i].low; b <= p->range[i].high; b++)
            if (m->root[b] != AUTOMATON_NONE) nodes += m->trie->end[m->root[b]] - m->root[b];
    return nodes > m->narrow;
}

/* A leader that had to walk the vocabulary for a wide state would hold up everybody: such a grammar is refused. */
static status make_table(maker *m, uint32_t rule, uint32_t symbol, uint32_t state) {
    automaton_parts *p = m->p;
    walk_state(m, rule, symbol, state);
    if (m->visited <= m->narrow) return ST_OK;
    if (!p->symbol[symbol].counted) drop_taken_rests(m);
    if (m->over || m->rest_count > RESTS_MAX)
        return fail(ST_INVALID,
                    "the grammar is too ambiguous: from one of its states a token can lead to more than %d "
                    "places, or end "
                    "its rule in more than %d ways",
                    LIMIT_GRAMMAR_PLACES, RESTS_MAX);
    if (p->groups + distinct_units(m) > LIMIT_GRAMMAR_MASKS)
        return fail(ST_INVALID, "the grammar has more than %d states that differ in the tokens they take",
                    LIMIT_GRAMMAR_MASKS);
    p->table = grown(p->table, p->tables + 1, &p->table_cap, sizeof *p->table);
    automaton_table *table = &p->table[p->tables];
    *table = (automaton_table){0};
    add_groups(m, table);
    add_rests(m, table);
    p->state[state].table = p->tables++;
    return ST_OK;
}

/* The latest state of the rule that tokens cannot tell from this one, among those with tables. */
static uint32_t twin(const maker *m, uint32_t rule, uint32_t state) {
    for (uint32_t s = state; s-- > m->p->rule[rule];)
        if (m->class[s] == m->class[state]) return s;
    return AUTOMATON_NONE;
}

static status make_tables(maker *m, uint32_t rule, uint32_t symbol) {
    automaton_parts *p = m->p;
    uint32_t wide = 0;
    for (uint32_t s = p->rule[rule]; s < p->rule[rule + 1]; s++) wide += may_be_wide(m, s);
    bool classes = wide > 1;
    if (classes) find_classes(m, rule);
    for (uint32_t s = p->rule[rule]; s < p->rule[rule + 1]; s++) {
        if (!may_be_wide(m, s)) continue;
        uint32_t same = classes ? twin(m, rule, s) : AUTOMATON_NONE;
        if (same != AUTOMATON_NONE) p->state[s].table = p->state[same].table;
        else TRY(make_table(m, rule, symbol, s));
    }
    return ST_OK;
}

status grammar_add_tables(automaton *a, uint32_t narrow_nodes) {
    maker m = {.a = a, .p = &a->p, .trie = vocabulary_trie(a->v), .narrow = narrow_nodes};
    automaton_parts *p = &a->p;
    memset(m.root, 0xFF, sizeof m.root);
    for (uint32_t i = 0; i < m.trie->nodes; i = m.trie->end[i]) m.root[m.trie->byte[i]] = i;
    m.first = memory_alloc_array(p->rules, sizeof *m.first);
    m.follow = memory_alloc_array(p->rules, sizeof *m.follow);
    m.class = memory_alloc_array(p->states, sizeof *m.class);
    find_follow(&m);
    uint32_t *symbol =
        memory_alloc_array(p->rules, sizeof *symbol); /* one that calls the rule: all are of one kind */
    for (uint32_t i = 0; i < p->symbols; i++) symbol[p->symbol[i].rule] = i;
    status st = ST_OK;
    for (uint32_t r = 0; r < p->rules && st == ST_OK; r++) st = make_tables(&m, r, symbol[r]);
    free(symbol);
    free(m.first);
    free(m.follow);
    free(m.class);
    for (uint32_t units = 0; units < TOKEN_BYTES_MAX + 2; units++) free(m.taken[units]);
    free(m.rests);
    free(m.mask_hash);
    return st;
}
