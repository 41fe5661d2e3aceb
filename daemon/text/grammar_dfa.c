/* Rules made deterministic: subsets of the network's states, where calls and counted units are letters like bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/text/grammar_facts.h"

typedef struct subset {
    uint32_t first, count; /* in members */
    uint32_t next;         /* with the same hash, + 1 */
} subset;

/* A rule of the output: one of the network, as callee or as unit; both may be wanted. */
typedef struct job {
    uint32_t rule;
    bool unit;
} job;

typedef struct builder {
    const grammar *g;
    uint8_t *can;
    uint32_t *out_edge, *out_first; /* edges by the state they leave */
    automaton_parts *p;
    job *jobs;         /* [p->rules] */
    uint32_t *job_of;  /* [2 · rules]: + 1 */
    uint32_t *call_of; /* [rules]: the symbol of a plain call, + 1 */
    uint32_t job_cap;
    /* subsets of the rule at work; subset i is state base + i */
    subset *subsets;
    uint32_t *members, *bucket;
    uint32_t count, subset_cap, member_count, member_cap, base;
    uint32_t *mark, round; /* [states] */
    uint32_t *gathered, gathered_count;
    uint64_t work; /* edges looked at */
    bool over;
} builder;

/* Subsets of one rule have so many members together, and all rules so many ranges and edges looked at (half a second), or it
 * is given up. */
enum { BUCKETS = 1 << 14, MEMBERS_MAX = 1 << 24, RANGES_MAX = 1 << 22, WORK_MAX = 1 << 26 };

static void *grown(void *array, uint32_t need, uint32_t *cap, size_t size) {
    if (need <= *cap) return array;
    while (*cap < need) *cap = *cap ? *cap * 2 : 64;
    return memory_grow(array, *cap * size);
}

/* ---- subsets ---- */

static void gather_begin(builder *b) {
    b->round++;
    b->gathered_count = 0;
}

static void gather(builder *b, uint32_t state) {
    if (b->mark[state] == b->round || !b->can[state]) return;
    b->mark[state] = b->round;
    b->gathered[b->gathered_count++] = state;
}

static int rising(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* With what can be reached for nothing; the number of the subset. */
static uint32_t gather_end(builder *b) {
    for (uint32_t i = 0; i < b->gathered_count; i++) {
        uint32_t s = b->gathered[i];
        b->work += 4 + b->out_first[s + 1] - b->out_first[s];
        for (uint32_t k = b->out_first[s]; k < b->out_first[s + 1]; k++) {
            const grammar_edge *e = &b->g->edge[b->out_edge[k]];
            if (grammar_edge_is_empty(b->g, b->can, e)) gather(b, e->to);
        }
    }
    qsort(b->gathered, b->gathered_count, sizeof *b->gathered, rising);
    uint32_t hash = 2166136261u;
    for (uint32_t i = 0; i < b->gathered_count; i++) hash = (hash ^ b->gathered[i]) * 16777619u;
    uint32_t *at = &b->bucket[(hash ^ hash >> 15) % BUCKETS];
    for (uint32_t i = *at; i > 0; i = b->subsets[i - 1].next) {
        const subset *s = &b->subsets[i - 1];
        if (s->count == b->gathered_count &&
            !memcmp(b->members + s->first, b->gathered, s->count * sizeof *b->members))
            return i - 1;
    }
    b->subsets = grown(b->subsets, b->count + 1, &b->subset_cap, sizeof *b->subsets);
    b->members = grown(b->members, b->member_count + b->gathered_count, &b->member_cap, sizeof *b->members);
    if (b->gathered_count)
        memcpy(b->members + b->member_count, b->gathered, b->gathered_count * sizeof *b->members);
    b->subsets[b->count] = (subset){b->member_count, b->gathered_count, *at};
    b->member_count += b->gathered_count;
    *at = ++b->count;
    return b->count - 1;
}

/* ---- letters ---- */

static uint32_t job_for(builder *b, uint32_t rule, bool unit) {
    uint32_t *of = &b->job_of[rule * 2 + unit];
    if (*of) return *of - 1;
    b->jobs = grown(b->jobs, b->p->rules + 1, &b->job_cap, sizeof *b->jobs);
    b->jobs[b->p->rules] = (job){rule, unit};
    *of = ++b->p->rules;
    return *of - 1;
}

static uint32_t symbol_for(builder *b, const grammar_edge *e) {
    automaton_parts *p = b->p;
    bool counted = e->kind == GRAMMAR_REPEAT;
    if (!counted && b->call_of[e->a]) return b->call_of[e->a] - 1;
    automaton_symbol want = {job_for(b, e->a, counted), counted ? (e->b ? e->b : 1) : 1, counted ? e->c : 1,
                             counted};
    for (uint32_t i = 0; counted && i < p->symbols; i++) {
        const automaton_symbol *s = &p->symbol[i];
        if (s->rule == want.rule && s->least == want.least && s->most == want.most && s->counted) return i;
    }
    p->symbol = grown(p->symbol, p->symbols + 1, &p->symbol_cap, sizeof *p->symbol);
    p->symbol[p->symbols++] = want;
    if (!counted) b->call_of[e->a] = p->symbols;
    return p->symbols - 1;
}

typedef struct way {
    uint32_t letter, low, high, to; /* bytes: low … high; else letter: the token or symbol */
} way;

typedef struct ways {
    way *list;
    uint32_t count, cap;
} ways;

static void add_way(ways *w, way x) {
    w->list = grown(w->list, w->count + 1, &w->cap, sizeof *w->list);
    w->list[w->count++] = x;
}

static int by_letter(const void *a, const void *b) {
    const way *x = a, *y = b;
    return x->letter < y->letter ? -1 : x->letter > y->letter;
}

static void collect(builder *b, const subset *s, ways *bytes, ways *tokens, ways *calls) {
    bytes->count = tokens->count = calls->count = 0;
    for (uint32_t m = 0; m < s->count; m++) {
        uint32_t state = b->members[s->first + m];
        for (uint32_t k = b->out_first[state]; k < b->out_first[state + 1]; k++) {
            const grammar_edge *e = &b->g->edge[b->out_edge[k]];
            if (!grammar_edge_lives(b->g, b->can, e)) continue;
            if (e->kind == GRAMMAR_BYTES) add_way(bytes, (way){0, e->a, e->b, e->to});
            else if (e->kind == GRAMMAR_TOKEN) add_way(tokens, (way){e->a, 0, 0, e->to});
            else if (e->kind != GRAMMAR_EMPTY) add_way(calls, (way){symbol_for(b, e), 0, 0, e->to});
        }
    }
}

/* Between two neighbouring cuts the same edges hold for all bytes. */
static void byte_ranges(builder *b, const ways *w) {
    automaton_parts *p = b->p;
    bool cut[257] = {[0] = true};
    uint32_t own = p->ranges;
    for (uint32_t i = 0; i < w->count; i++) cut[w->list[i].low] = cut[w->list[i].high + 1] = true;
    for (uint32_t low = 0, high; low < 256; low = high + 1) {
        high = low;
        while (high < 255 && !cut[high + 1]) high++;
        gather_begin(b);
        b->work += w->count / 4;
        for (uint32_t i = 0; i < w->count; i++)
            if (w->list[i].low <= low && low <= w->list[i].high) gather(b, w->list[i].to);
        if (b->gathered_count == 0) continue;
        uint32_t target = b->base + gather_end(b);
        if (p->ranges > own && p->range[p->ranges - 1].target == target &&
            p->range[p->ranges - 1].high + 1u == low) {
            p->range[p->ranges - 1].high = (uint8_t)high;
            continue;
        }
        p->range = grown(p->range, p->ranges + 1, &p->range_cap, sizeof *p->range);
        p->range[p->ranges++] = (automaton_range){target, (uint8_t)low, (uint8_t)high};
    }
}

/* The next run of ways with one letter, from *at on; its target. */
static uint32_t next_letter(builder *b, const ways *w, uint32_t *at) {
    uint32_t letter = w->list[*at].letter;
    gather_begin(b);
    while (*at < w->count && w->list[*at].letter == letter) gather(b, w->list[(*at)++].to);
    return b->base + gather_end(b);
}

static void token_ways(builder *b, const ways *w) {
    automaton_parts *p = b->p;
    if (w->count) qsort(w->list, w->count, sizeof *w->list, by_letter);
    for (uint32_t i = 0; i < w->count;) {
        uint32_t id = w->list[i].letter, target = next_letter(b, w, &i);
        p->token = grown(p->token, p->tokens + 1, &p->token_cap, sizeof *p->token);
        p->token[p->tokens++] = (automaton_token){id, target};
    }
}

static void call_ways(builder *b, const ways *w) {
    automaton_parts *p = b->p;
    if (w->count) qsort(w->list, w->count, sizeof *w->list, by_letter);
    for (uint32_t i = 0; i < w->count;) {
        uint32_t symbol = w->list[i].letter, target = next_letter(b, w, &i);
        p->call = grown(p->call, p->calls + 1, &p->call_cap, sizeof *p->call);
        p->call[p->calls++] = (automaton_call){symbol, target};
    }
}

/* ---- rules ---- */

static bool accepts(const builder *b, const subset *s, uint32_t end) {
    return s->count && bsearch(&end, b->members + s->first, s->count, sizeof end, rising);
}

static void make_state(builder *b, uint32_t index, uint32_t end, ways *w) {
    automaton_parts *p = b->p;
    subset s = b->subsets[index];
    collect(b, &s, &w[0], &w[1], &w[2]);
    p->state = grown(p->state, p->states + 2, &p->state_cap, sizeof *p->state);
    p->state[p->states] =
        (automaton_state){p->ranges, p->tokens, p->calls, AUTOMATON_NONE, accepts(b, &s, end)};
    byte_ranges(b, &w[0]);
    token_ways(b, &w[1]);
    call_ways(b, &w[2]);
    p->states++;
    p->state[p->states] = (automaton_state){p->ranges, p->tokens, p->calls, AUTOMATON_NONE, false};
}

static void make_rule(builder *b, uint32_t index, ways *w) {
    automaton_parts *p = b->p;
    const grammar_rule *r = &b->g->rule[b->jobs[index].rule];
    memset(b->bucket, 0, BUCKETS * sizeof *b->bucket);
    b->count = b->member_count = 0;
    b->base = p->states;
    p->rule = grown(p->rule, index + 2, &p->rule_cap, sizeof *p->rule);
    p->rule[index] = p->states;
    gather_begin(b);
    gather(b, r->start);
    gather_end(b);
    for (uint32_t i = 0; i < b->count && !b->over; i++) {
        make_state(b, i, r->end, w);
        b->over = p->states + b->count - i > GRAMMAR_STATES_MAX || b->member_count > MEMBERS_MAX ||
                  p->ranges > RANGES_MAX || b->work > WORK_MAX;
    }
    p->rule[index + 1] = p->states;
}

/* ---- what is refused ---- */

static status check_units(const builder *b) {
    const automaton_parts *p = b->p;
    for (uint32_t i = 0; i < p->rules; i++) {
        if (!b->jobs[i].unit) continue;
        uint32_t rule = b->jobs[i].rule, first = p->rule[i], end = p->rule[i + 1];
        if (p->state[first].call != p->state[end].call)
            return fail(ST_INVALID, "rule %u is repeated and calls or repeats another", rule);
        if (p->state[first].accept)
            return fail(ST_INVALID, "rule %u is repeated and matches the empty text", rule);
        for (uint32_t s = first; s < end; s++)
            if (p->state[s].accept &&
                (p->state[s].range != p->state[s + 1].range || p->state[s].token != p->state[s + 1].token))
                return fail(ST_INVALID, "rule %u is repeated, and one text of it begins like another", rule);
    }
    return ST_OK;
}

/* Rules whose first states call each other in a circle. */
static status check_left(const builder *b) {
    const automaton_parts *p = b->p;
    enum { NEW, OPEN, DONE };
    uint8_t *seen = memory_alloc((size_t)p->rules + 1);
    uint32_t *path = memory_alloc_array((size_t)p->rules + 1, sizeof *path),
             *next = memory_alloc_array((size_t)p->rules + 1, sizeof *next);
    uint32_t circle = AUTOMATON_NONE;
    for (uint32_t root = 0; root < p->rules && circle == AUTOMATON_NONE; root++) {
        uint32_t depth = 0;
        if (seen[root] == NEW) path[depth++] = root;
        while (depth > 0 && circle == AUTOMATON_NONE) {
            uint32_t rule = path[depth - 1];
            const automaton_state *s = &p->state[p->rule[rule]];
            if (seen[rule] == NEW) {
                seen[rule] = OPEN;
                next[rule] = s->call;
            }
            if (next[rule] == s[1].call) {
                seen[rule] = DONE;
                depth--;
                continue;
            }
            uint32_t callee = p->symbol[p->call[next[rule]++].symbol].rule;
            if (seen[callee] == OPEN) circle = callee;
            else if (seen[callee] == NEW) path[depth++] = callee;
        }
    }
    free(seen);
    free(path);
    free(next);
    if (circle == AUTOMATON_NONE) return ST_OK;
    return fail(ST_INVALID, "rule %u can reach itself before a byte or token: recursion on the left",
                b->jobs[circle].rule);
}

static void open_builder(builder *b, const grammar *g, automaton_parts *out) {
    *b = (builder){.g = g, .p = out, .can = grammar_find_facts(g)};
    b->job_of = memory_alloc_array((size_t)g->rules * 2, sizeof *b->job_of);
    b->call_of = memory_alloc_array(g->rules, sizeof *b->call_of);
    b->bucket = memory_alloc_array(BUCKETS, sizeof *b->bucket);
    b->mark = memory_alloc_array((size_t)g->states + 1, sizeof *b->mark);
    b->gathered = memory_alloc_array((size_t)g->states + 1, sizeof *b->gathered);
    b->out_first = memory_alloc_array((size_t)g->states + 3, sizeof *b->out_first);
    b->out_edge = memory_alloc_array((size_t)g->edges + 1, sizeof *b->out_edge);
    for (uint32_t i = 0; i < g->edges; i++) b->out_first[g->edge[i].from + 2]++;
    for (uint32_t i = 2; i < g->states + 2; i++) b->out_first[i] += b->out_first[i - 1];
    for (uint32_t i = 0; i < g->edges; i++) b->out_edge[b->out_first[g->edge[i].from + 1]++] = i;
}

static void close_builder(builder *b) {
    free(b->can);
    free(b->jobs);
    free(b->job_of);
    free(b->call_of);
    free(b->bucket);
    free(b->mark);
    free(b->gathered);
    free(b->out_first);
    free(b->out_edge);
    free(b->subsets);
    free(b->members);
}

static status check_network(const grammar *g, const uint8_t *can, uint32_t token_count) {
    if (g->wanted_states > GRAMMAR_STATES_MAX || g->wanted_rules > GRAMMAR_RULES_MAX ||
        g->wanted_edges > GRAMMAR_EDGES_MAX)
        return fail(
            ST_INVALID, "the grammar has %llu states, %llu rules and %llu edges, at most %d, %d and %d",
            (unsigned long long)g->wanted_states, (unsigned long long)g->wanted_rules,
            (unsigned long long)g->wanted_edges, GRAMMAR_STATES_MAX, GRAMMAR_RULES_MAX, GRAMMAR_EDGES_MAX);
    for (uint32_t i = 0; i < g->edges; i++)
        if (g->edge[i].kind == GRAMMAR_TOKEN && g->edge[i].a >= token_count)
            return fail(ST_INVALID, "the grammar names token %u, the vocabulary has %u", g->edge[i].a,
                        token_count);
    if (!can[g->rule[0].start]) return fail(ST_INVALID, "the grammar matches no text at all");
    return ST_OK;
}

static status make_rules(builder *b) {
    ways w[3] = {{0}};
    grammar_edge answer = {.kind = GRAMMAR_CALL};
    symbol_for(b, &answer);
    for (uint32_t i = 0; i < b->p->rules && !b->over; i++) make_rule(b, i, w);
    for (int i = 0; i < 3; i++) free(w[i].list);
    if (b->over && b->work > WORK_MAX)
        return fail(ST_INVALID,
                    "the grammar is too ambiguous: %u states of its automaton took %llu steps, at most %d",
                    b->p->states, (unsigned long long)b->work, WORK_MAX);
    if (b->over)
        return fail(ST_INVALID, "the grammar needs more than %d states of an automaton", GRAMMAR_STATES_MAX);
    TRY(check_units(b));
    return check_left(b);
}

status grammar_determinise(const grammar *g, uint32_t token_count, automaton_parts *out) {
    builder b;
    open_builder(&b, g, out);
    status st = check_network(g, b.can, token_count);
    if (st == ST_OK) st = make_rules(&b);
    close_builder(&b);
    return st;
}
