/* Which tokens each state takes, as far as its rule alone decides, for the states where many do: inside a string the leader
 * then copies a set of tokens in place of walking the vocabulary. What goes on behind the rule's end is kept beside them as
 * the rest of a token, a few hundred of them, since few bytes can follow. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/grammar_walk.h"

enum { RESTS_MAX = 1 << 19 };

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

/* Tables by what decides about them; AUTOMATON_NONE is one as well: the state is narrow. */
typedef struct known_table {
    uint64_t key; /* 0: free */
    uint32_t table;
} known_table;

typedef struct maker {
    automaton *a;
    automaton_parts *p;
    const token_trie *trie;
    grammar_walk walk; /* of rules that are not counted; */
    uint32_t
        *taken[TOKEN_BYTES_MAX + 2]; /* of units, by units touched: [p->words], NULL until first needed */
    bool any_taken[TOKEN_BYTES_MAX + 2];
    byte_set *first, *follow; /* [rules]: bytes a rule begins with, and that may come behind it */
    rest *rests;
    uint32_t rest_count, rest_cap, narrow;
    known_table *known;        /* [known_size], a power of two, more than there are states */
    uint32_t known_size, wide; /* wide: states done */
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

/* Units have one way for each byte and begin again where they end. The nodes seen. */
static uint32_t walk_unit(maker *m, uint32_t rule, uint32_t start, uint32_t from, uint32_t root) {
    const token_trie *t = m->trie;
    uint32_t state[TOKEN_BYTES_MAX + 1] = {start}, units[TOKEN_BYTES_MAX + 1] = {0}, visited = 0;
    for (uint32_t i = root; i < t->end[root];) {
        uint32_t d = t->depth[i], next = automaton_next(m->p, d == 1 ? from : state[d - 1], t->byte[i]);
        visited++;
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
    return visited;
}

/* False: the state is narrow. */
static bool walk_units(maker *m, uint32_t rule, uint32_t state) {
    const automaton_parts *p = m->p;
    uint32_t visited = 0;
    forget_taken(m);
    for (uint32_t i = p->state[state].range; i < p->state[state + 1].range; i++)
        for (unsigned b = p->range[i].low; b <= p->range[i].high; b++)
            if (m->walk.root[b] != AUTOMATON_NONE)
                visited += walk_unit(m, rule, p->rule[rule], state, m->walk.root[b]);
    m->walk.work += visited;
    return visited > m->narrow;
}

static bool walk_state(maker *m, uint32_t rule, uint32_t symbol, uint32_t state) {
    m->rest_count = 0;
    if (m->p->symbol[symbol].counted) return walk_units(m, rule, state);
    if (!grammar_walk_is_wide(&m->walk, symbol, state, m->narrow)) return false;
    grammar_walk_from(&m->walk, symbol, state);
    for (uint32_t i = 0; i <= m->trie->nodes / 64; i++)
        for (uint64_t left = m->walk.ends[i]; left; left &= left - 1)
            take_rests(m, i * 64 + (uint32_t)__builtin_ctzll(left), 0, &m->follow[rule]);
    m->walk.work += m->rest_count * UINT64_C(4);
    return true;
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

static void add_group(maker *m, uint32_t units, const uint32_t *words) {
    automaton_parts *p = m->p;
    p->group = grown(p->group, p->groups + 1, &p->group_cap, sizeof *p->group);
    p->group[p->groups++] = (automaton_group){units, mask_number(m, words)};
}

static void add_groups(maker *m, automaton_table *table, bool counted) {
    table->group = m->p->groups;
    if (!counted) add_group(m, 0, m->walk.taken);
    for (uint32_t units = 0; counted && units < TOKEN_BYTES_MAX + 2; units++)
        if (m->any_taken[units]) add_group(m, units, m->taken[units]);
    table->groups = m->p->groups - table->group;
}

/* What is allowed whatever follows need not be looked at again. */
static void drop_taken_rests(maker *m) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < m->rest_count; i++) {
        uint32_t token = m->rests[i].token;
        if (!(m->walk.taken[token / 32] >> token % 32 & 1)) m->rests[kept++] = m->rests[i];
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
            if (m->walk.root[b] != AUTOMATON_NONE) nodes += m->trie->end[m->walk.root[b]] - m->walk.root[b];
    return nodes > m->narrow;
}

static status check_work(const maker *m) {
    const grammar_walk *w = &m->walk;
    if (w->over || m->rest_count > RESTS_MAX)
        return fail(ST_INVALID,
                    "the grammar is too ambiguous: from one of its states a token can lead to more than %d "
                    "places, or end its rule in more than %d ways",
                    LIMIT_GRAMMAR_PLACES, RESTS_MAX);
    if (w->work > GRAMMAR_WORK_MAX)
        return fail(ST_INVALID,
                    "the grammar is too large: of its %u states %u that take many tokens took %llu steps "
                    "through the vocabulary, at most %d",
                    m->p->states, m->wide + 1, (unsigned long long)w->work, GRAMMAR_WORK_MAX);
    return ST_OK;
}

/* A leader that had to walk the vocabulary for a wide state would hold up everybody: such a grammar is refused. */
static status make_table(maker *m, uint32_t rule, uint32_t symbol, uint32_t state, uint32_t *out) {
    automaton_parts *p = m->p;
    bool counted = p->symbol[symbol].counted, wide = walk_state(m, rule, symbol, state);
    TRY(check_work(m));
    *out = AUTOMATON_NONE;
    if (!wide) return ST_OK;
    m->wide++;
    if (!counted) drop_taken_rests(m);
    if (p->groups + (counted ? distinct_units(m) : 1) > LIMIT_GRAMMAR_MASKS)
        return fail(ST_INVALID, "the grammar has more than %d states that differ in the tokens they take",
                    LIMIT_GRAMMAR_MASKS);
    p->table = grown(p->table, p->tables + 1, &p->table_cap, sizeof *p->table);
    automaton_table *table = &p->table[p->tables];
    *table = (automaton_table){0};
    add_groups(m, table, counted);
    add_rests(m, table);
    *out = p->tables++;
    return ST_OK;
}

/* What decides about the table of a state: what tokens can tell of it, and what may come behind its rule. */
static uint64_t table_key(const maker *m, uint32_t rule, bool counted, uint32_t state) {
    uint64_t key = grammar_walk_class(&m->walk, state);
    if (counted) key = grammar_walk_mixed(key, grammar_walk_class(&m->walk, m->p->rule[rule]));
    for (int i = 0; i < 4; i++) key = grammar_walk_mixed(key, m->follow[rule].bits[i]);
    return key | 1;
}

static known_table *find_known(maker *m, uint64_t key) {
    uint32_t at = (uint32_t)(key >> 20) & (m->known_size - 1);
    while (m->known[at].key != 0 && m->known[at].key != key) at = (at + 1) & (m->known_size - 1);
    return &m->known[at];
}

/* States that differ late come behind each other: a walk then finds most of what it looks for. */
typedef struct wide_state {
    uint64_t class[4];
    uint32_t state;
} wide_state;

static int by_class(const void *a, const void *b) {
    const wide_state *x = a, *y = b;
    for (int i = 0; i < 4; i++)
        if (x->class[i] != y->class[i]) return x->class[i] < y->class[i] ? -1 : 1;
    return x->state < y->state ? -1 : x->state > y->state;
}

static status table_for(maker *m, uint32_t rule, uint32_t symbol, uint32_t state) {
    uint64_t key = table_key(m, rule, m->p->symbol[symbol].counted, state);
    known_table *known = find_known(m, key);
    if (known->key == 0) {
        TRY(make_table(m, rule, symbol, state, &known->table));
        known->key = key;
    }
    m->p->state[state].table = known->table;
    return ST_OK;
}

static status make_tables(maker *m, uint32_t rule, uint32_t symbol) {
    static const uint32_t bytes[] = {3, 6, 12, 24};
    automaton_parts *p = m->p;
    uint32_t first = p->rule[rule], end = p->rule[rule + 1], count = 0;
    wide_state *list = NULL;
    for (uint32_t s = first; s < end; s++) {
        if (!may_be_wide(m, s)) continue;
        if (!list) {
            list = memory_alloc_array(end - s, sizeof *list);
            grammar_walk_begin(&m->walk, rule);
        }
        for (int i = 0; i < 4; i++) list[count].class[i] = grammar_walk_class_within(&m->walk, s, bytes[i]);
        list[count++].state = s;
    }
    if (count) qsort(list, count, sizeof *list, by_class);
    status st = ST_OK;
    for (uint32_t i = 0; i < count && st == ST_OK; i++) st = table_for(m, rule, symbol, list[i].state);
    free(list);
    return st;
}

static void open_maker(maker *m, automaton *a, uint32_t narrow_nodes) {
    automaton_parts *p = &a->p;
    *m = (maker){.a = a, .p = p, .trie = vocabulary_trie(a->v), .narrow = narrow_nodes, .known_size = 64};
    while (m->known_size < 2 * p->states) m->known_size *= 2;
    m->known = memory_alloc_array(m->known_size, sizeof *m->known);
    m->first = memory_alloc_array(p->rules, sizeof *m->first);
    m->follow = memory_alloc_array(p->rules, sizeof *m->follow);
    grammar_walk_open(&m->walk, a);
    find_follow(m);
}

static void close_maker(maker *m) {
    grammar_walk_close(&m->walk);
    free(m->known);
    free(m->first);
    free(m->follow);
    for (uint32_t units = 0; units < TOKEN_BYTES_MAX + 2; units++) free(m->taken[units]);
    free(m->rests);
    free(m->mask_hash);
}

status grammar_add_tables(automaton *a, uint32_t narrow_nodes) {
    maker m;
    automaton_parts *p = &a->p;
    open_maker(&m, a, narrow_nodes);
    uint32_t *symbol =
        memory_alloc_array(p->rules, sizeof *symbol); /* one that calls the rule: all are of one kind */
    for (uint32_t i = 0; i < p->symbols; i++) symbol[p->symbol[i].rule] = i;
    status st = ST_OK;
    for (uint32_t r = 0; r < p->rules && st == ST_OK; r++) st = make_tables(&m, r, symbol[r]);
    free(symbol);
    close_maker(&m);
    return st;
}
