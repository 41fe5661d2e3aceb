/* An automaton as bytes, and what following it needs besides. */
#include <stdlib.h>
#include <string.h>

#include "base/automaton_parts.h"
#include "base/byte_reader.h"
#include "base/memory.h"
#include "proto/limits.h"

static const char magic[8] = "gauto01";
enum { ACCEPTS = 1, HAS_TABLE = 2, EXTRA_MAX = 1 << 22 }; /* ranges, tokens, calls and rests, each */

void automaton_parts_close(automaton_parts *p) {
    for (uint32_t i = 0; p->table && i < p->tables; i++) token_trie_close(&p->table[i].rest);
    free(p->rule);
    free(p->symbol);
    free(p->state);
    free(p->range);
    free(p->token);
    free(p->call);
    free(p->table);
    free(p->group);
    free(p->mask);
    free(p->end);
    *p = (automaton_parts){0};
}

automaton *automaton_make(automaton_parts *p, const vocabulary *v) {
    automaton *a = memory_alloc(sizeof *a);
    a->p = *p;
    *p = (automaton_parts){0};
    a->p.words = (vocabulary_count(v) + 31) / 32;
    a->v = v;
    a->references = 1;
    a->place_of = memory_alloc_array(a->p.states + 1, sizeof *a->place_of);
    a->frame_of = memory_alloc_array(a->p.symbols + 1, sizeof *a->frame_of);
    a->pure_end = memory_alloc_array(a->p.states + 1, sizeof *a->pure_end);
    for (uint32_t i = 0; i < a->p.states; i++) {
        const automaton_state *s = &a->p.state[i];
        a->pure_end[i] =
            s->accept && s->range == s[1].range && s->token == s[1].token && s->call == s[1].call;
    }
    return a;
}

automaton *automaton_keep(automaton *a) {
    a->references++;
    return a;
}

void automaton_drop(automaton *a) {
    if (!a || --a->references > 0) return;
    automaton_parts_close(&a->p);
    free(a->place_of);
    free(a->frame_of);
    free(a->merged);
    free(a->pure_end);
    free(a);
}

/* ---- writing ---- */

static void write_mask(const uint32_t *words, uint32_t n, strbuf *out) {
    strbuf runs = {.max = (size_t)n * sizeof *words};
    uint32_t bits = n * 32, behind = 0;
    for (uint32_t i = 0; i < bits && !runs.full;) {
        if (words[i / 32] == 0 && i % 32 == 0) {
            i += 32;
            continue;
        }
        if (!(words[i / 32] >> i % 32 & 1)) {
            i++;
            continue;
        }
        uint32_t begin = i;
        while (i < bits && words[i / 32] >> i % 32 & 1) i++;
        byte_add_varint(&runs, begin - behind);
        byte_add_varint(&runs, i - begin - 1);
        behind = i;
    }
    byte_add_varint(out, runs.full ? AUTOMATON_BITS : AUTOMATON_RUNS);
    byte_add_varint(out, (uint32_t)(runs.full ? n * sizeof *words : runs.size));
    if (runs.full)
        for (uint32_t i = 0; i < n; i++) byte_add_u32(out, words[i]);
    else strbuf_add(out, runs.data, runs.size);
    strbuf_close(&runs);
}

/* What is left of a token is told by the token and where it begins, so its bytes need not travel. */
static void write_table(const automaton_parts *p, const automaton_table *t, const vocabulary *v,
                        strbuf *out) {
    byte_add_varint(out, t->groups);
    for (uint32_t i = 0; i < t->groups; i++) {
        byte_add_varint(out, p->group[t->group + i].units);
        byte_add_varint(out, p->group[t->group + i].mask);
    }
    byte_add_varint(out, t->rest.entries);
    for (uint32_t node = 0; node < t->rest.nodes; node++)
        for (uint32_t i = t->rest.first[node]; i < t->rest.first[node + 1]; i++) {
            byte_add_varint(out, t->rest.token[i]);
            byte_add_varint(out, vocabulary_token_of(v, t->rest.token[i]).size - t->rest.depth[node]);
            byte_add_varint(out, t->rest.units[i]);
        }
}

static void write_states(const automaton_parts *p, strbuf *out) {
    for (uint32_t i = 0; i < p->states; i++) {
        const automaton_state *s = &p->state[i];
        byte_add_varint(out, (s->accept ? ACCEPTS : 0) | (s->table == AUTOMATON_NONE ? 0 : HAS_TABLE));
        byte_add_varint(out, s[1].range - s->range);
        byte_add_varint(out, s[1].token - s->token);
        byte_add_varint(out, s[1].call - s->call);
        if (s->table != AUTOMATON_NONE) byte_add_varint(out, s->table);
    }
    for (uint32_t i = 0; i < p->ranges; i++) {
        byte_add_varint(out, p->range[i].low);
        byte_add_varint(out, p->range[i].high);
        byte_add_varint(out, p->range[i].target);
    }
    for (uint32_t i = 0; i < p->tokens; i++) {
        byte_add_varint(out, p->token[i].id);
        byte_add_varint(out, p->token[i].target);
    }
    for (uint32_t i = 0; i < p->calls; i++) {
        byte_add_varint(out, p->call[i].symbol);
        byte_add_varint(out, p->call[i].target);
    }
}

void automaton_write(const automaton_parts *p, const vocabulary *v, strbuf *out) {
    strbuf_add(out, magic, sizeof magic);
    strbuf_add(out, vocabulary_hash(v), 32);
    const uint32_t count[] = {p->rules, p->symbols, p->states, p->ranges, p->tokens,
                              p->calls, p->tables,  p->groups, p->masks,  p->ends};
    for (size_t i = 0; i < sizeof count / sizeof *count; i++) byte_add_varint(out, count[i]);
    for (uint32_t i = 0; i < p->ends; i++) byte_add_varint(out, p->end[i]);
    for (uint32_t i = 0; i < p->rules; i++) byte_add_varint(out, p->rule[i]);
    for (uint32_t i = 0; i < p->symbols; i++) {
        byte_add_varint(out, p->symbol[i].rule);
        byte_add_varint(out, p->symbol[i].counted);
        byte_add_varint(out, p->symbol[i].least);
        byte_add_varint(out, p->symbol[i].most);
    }
    write_states(p, out);
    uint32_t words = (vocabulary_count(v) + 31) / 32;
    for (uint32_t i = 0; i < p->masks; i++) write_mask(p->mask + (size_t)i * words, words, out);
    for (uint32_t i = 0; i < p->tables; i++) write_table(p, &p->table[i], v, out);
}

/* ---- reading ---- */

typedef struct reading {
    byte_reader r;
    automaton_parts p;
    const vocabulary *v;
} reading;

static status count_below(reading *in, uint32_t *out, const char *what, uint32_t least, uint32_t most) {
    *out = byte_reader_varint(&in->r);
    if (in->r.over || *out < least || *out > most || *out > in->r.left)
        return fail(ST_FORMAT, "automaton: %u %s in %zu bytes, allowed are %u to %u", *out, what, in->r.left,
                    least, most);
    return ST_OK;
}

static status read_counts(reading *in) {
    automaton_parts *p = &in->p;
    const uint8_t *first = byte_reader_take(&in->r, sizeof magic), *hash = byte_reader_take(&in->r, 32);
    if (!first || !hash || memcmp(first, magic, sizeof magic))
        return fail(ST_FORMAT, "automaton: wrong first bytes");
    if (memcmp(hash, vocabulary_hash(in->v), 32))
        return fail(ST_MISMATCH, "automaton: it was made for another vocabulary");
    TRY(count_below(in, &p->rules, "rules", 1, LIMIT_GRAMMAR_STATES));
    TRY(count_below(in, &p->symbols, "symbols", 1, LIMIT_GRAMMAR_STATES));
    TRY(count_below(in, &p->states, "states", 1, LIMIT_GRAMMAR_STATES));
    TRY(count_below(in, &p->ranges, "ranges", 0, EXTRA_MAX));
    TRY(count_below(in, &p->tokens, "tokens", 0, EXTRA_MAX));
    TRY(count_below(in, &p->calls, "calls", 0, EXTRA_MAX));
    TRY(count_below(in, &p->tables, "tables", 0, p->states));
    TRY(count_below(in, &p->groups, "groups", 0, LIMIT_GRAMMAR_MASKS));
    TRY(count_below(in, &p->masks, "masks", 0, LIMIT_GRAMMAR_MASKS));
    TRY(count_below(in, &p->ends, "end tokens", 1, LIMIT_STOP_TOKENS));
    p->words = (vocabulary_count(in->v) + 31) / 32;
    p->end = memory_alloc_array(p->ends, sizeof *p->end);
    p->rule = memory_alloc_array(p->rules + 1, sizeof *p->rule);
    p->symbol = memory_alloc_array(p->symbols, sizeof *p->symbol);
    p->state = memory_alloc_array(p->states + 1, sizeof *p->state);
    p->range = memory_alloc_array(p->ranges + 1, sizeof *p->range);
    p->token = memory_alloc_array(p->tokens + 1, sizeof *p->token);
    p->call = memory_alloc_array(p->calls + 1, sizeof *p->call);
    p->table = memory_alloc_array(p->tables + 1, sizeof *p->table);
    p->group = memory_alloc_array(p->groups + 1, sizeof *p->group);
    p->mask = memory_alloc_array((size_t)p->masks * p->words + 1, sizeof *p->mask);
    return ST_OK;
}

/* A number of the automaton, below its bound. */
static status number(reading *in, uint32_t *out, const char *what, uint32_t bound) {
    *out = byte_reader_varint(&in->r);
    if (in->r.over) return fail(ST_FORMAT, "automaton: it ends inside its %ss", what);
    if (*out >= bound) return fail(ST_FORMAT, "automaton: %s %u of %u", what, *out, bound);
    return ST_OK;
}

static status read_rules(reading *in) {
    automaton_parts *p = &in->p;
    for (uint32_t i = 0; i < p->ends; i++) TRY(number(in, &p->end[i], "end token", vocabulary_count(in->v)));
    for (uint32_t i = 0; i < p->rules; i++) {
        TRY(number(in, &p->rule[i], "first state", p->states));
        if (i == 0 ? p->rule[i] != 0 : p->rule[i] <= p->rule[i - 1])
            return fail(ST_FORMAT, "automaton: rule %u begins with state %u", i, p->rule[i]);
    }
    p->rule[p->rules] = p->states;
    for (uint32_t i = 0; i < p->symbols; i++) {
        automaton_symbol *s = &p->symbol[i];
        uint32_t counted;
        TRY(number(in, &s->rule, "rule", p->rules));
        TRY(number(in, &counted, "kind of call", 2));
        s->counted = counted;
        s->least = byte_reader_varint(&in->r);
        s->most = byte_reader_varint(&in->r);
        if (s->least > s->most || s->most == 0 || (i == 0 && counted))
            return fail(ST_FORMAT, "automaton: symbol %u is %u to %u times rule %u", i, s->least, s->most,
                        s->rule);
    }
    return ST_OK;
}

/* The share of a state in one of the lists, which is counted up to `all`. */
static status share(reading *in, uint32_t *sum, const char *what, uint32_t all) {
    uint32_t n;
    TRY(number(in, &n, what, all - *sum + 1));
    *sum += n;
    return ST_OK;
}

static status read_states(reading *in) {
    automaton_parts *p = &in->p;
    for (uint32_t i = 0; i < p->states; i++) {
        automaton_state *s = &p->state[i];
        uint32_t flags;
        TRY(number(in, &flags, "kind of state", 4));
        s->accept = flags & ACCEPTS;
        s->table = AUTOMATON_NONE;
        s[1].range = s->range;
        s[1].token = s->token;
        s[1].call = s->call;
        TRY(share(in, &s[1].range, "range", p->ranges));
        TRY(share(in, &s[1].token, "token", p->tokens));
        TRY(share(in, &s[1].call, "call", p->calls));
        if (flags & HAS_TABLE) TRY(number(in, &s->table, "table", p->tables));
    }
    const automaton_state *last = &p->state[p->states];
    if (last->range != p->ranges || last->token != p->tokens || last->call != p->calls)
        return fail(ST_FORMAT, "automaton: its states have %u ranges, %u tokens and %u calls", last->range,
                    last->token, last->call);
    return ST_OK;
}

static status target(reading *in, uint32_t rule, uint32_t *out) {
    TRY(number(in, out, "target", in->p.states));
    if (*out < in->p.rule[rule] || *out >= in->p.rule[rule + 1])
        return fail(ST_FORMAT, "automaton: a way from rule %u leads to state %u", rule, *out);
    return ST_OK;
}

static status read_ways(reading *in) {
    automaton_parts *p = &in->p;
    for (uint32_t state = 0, rule = 0; state < p->states; state++) {
        rule += state == p->rule[rule + 1];
        for (uint32_t i = p->state[state].range; i < p->state[state + 1].range; i++) {
            uint32_t low, high;
            TRY(number(in, &low, "byte", 256));
            TRY(number(in, &high, "byte", 256));
            if (low > high || (i > p->state[state].range && low <= p->range[i - 1].high))
                return fail(ST_FORMAT, "automaton: state %u has bytes %u to %u behind others", state, low,
                            high);
            p->range[i].low = (uint8_t)low;
            p->range[i].high = (uint8_t)high;
            TRY(target(in, rule, &p->range[i].target));
        }
    }
    for (uint32_t state = 0, rule = 0; state < p->states; state++) {
        rule += state == p->rule[rule + 1];
        for (uint32_t i = p->state[state].token; i < p->state[state + 1].token; i++) {
            TRY(number(in, &p->token[i].id, "token", vocabulary_count(in->v)));
            TRY(target(in, rule, &p->token[i].target));
        }
    }
    for (uint32_t state = 0, rule = 0; state < p->states; state++) {
        rule += state == p->rule[rule + 1];
        for (uint32_t i = p->state[state].call; i < p->state[state + 1].call; i++) {
            TRY(number(in, &p->call[i].symbol, "symbol", p->symbols));
            TRY(target(in, rule, &p->call[i].target));
        }
    }
    for (uint32_t i = 0; i < p->symbols; i++) {
        const uint32_t *unit = &p->rule[p->symbol[i].rule];
        if (p->symbol[i].counted && p->state[unit[0]].call != p->state[unit[1]].call)
            return fail(ST_FORMAT, "automaton: rule %u is counted and calls others", p->symbol[i].rule);
    }
    return ST_OK;
}

static status read_runs(byte_reader *r, uint32_t *words, uint32_t bits) {
    uint64_t at = 0;
    while (r->left > 0) {
        at += byte_reader_varint(r);
        uint64_t end = at + byte_reader_varint(r) + 1;
        if (r->over || end > bits)
            return fail(ST_FORMAT, "automaton: a mask goes to bit %llu of %u", (unsigned long long)end, bits);
        for (; at < end && at % 32; at++) words[at / 32] |= 1u << at % 32;
        for (; at + 32 <= end; at += 32) words[at / 32] = UINT32_MAX;
        for (; at < end; at++) words[at / 32] |= 1u << at % 32;
    }
    return ST_OK;
}

static status read_masks(reading *in) {
    automaton_parts *p = &in->p;
    uint32_t bits = vocabulary_count(in->v);
    for (uint32_t i = 0; i < p->masks; i++) {
        uint32_t coding, *words = p->mask + (size_t)i * p->words;
        TRY(number(in, &coding, "coding of a mask", 2));
        uint32_t size = byte_reader_varint(&in->r);
        byte_reader data = {byte_reader_take(&in->r, size), size, false};
        if (!data.at) return fail(ST_FORMAT, "automaton: it ends inside its masks");
        if (coding == AUTOMATON_RUNS) {
            TRY(read_runs(&data, words, bits));
            continue;
        }
        for (uint32_t w = 0; w < p->words; w++) words[w] = byte_reader_u32(&data);
        if (data.over || data.left || (bits % 32 && words[p->words - 1] >> bits % 32))
            return fail(ST_FORMAT, "automaton: mask %u has %u bytes for %u tokens", i, size, bits);
    }
    return ST_OK;
}

static status read_rest(reading *in, token_trie *t, vocabulary_token *before) {
    uint32_t token, offset, units, shared = 0;
    TRY(number(in, &token, "token", vocabulary_count(in->v)));
    vocabulary_token whole = vocabulary_token_of(in->v, token);
    TRY(number(in, &offset, "rest of a token", whole.size));
    TRY(number(in, &units, "count of units", TOKEN_BYTES_MAX + 1));
    vocabulary_token rest = {whole.bytes + offset, whole.size - offset};
    while (shared < before->size && shared < rest.size && before->bytes[shared] == rest.bytes[shared])
        shared++;
    if (shared < before->size && (shared == rest.size || rest.bytes[shared] < before->bytes[shared]))
        return fail(ST_FORMAT, "automaton: what is left of token %u is not behind the one before it", token);
    token_trie_add(t, shared, rest.bytes + shared, rest.size - shared, token, units);
    *before = rest;
    return ST_OK;
}

static status read_tables(reading *in) {
    automaton_parts *p = &in->p;
    uint32_t groups = 0;
    for (uint32_t i = 0; i < p->tables; i++) {
        automaton_table *t = &p->table[i];
        vocabulary_token before = {0};
        uint32_t rests;
        t->group = groups;
        TRY(share(in, &groups, "group", p->groups));
        t->groups = groups - t->group;
        for (uint32_t g = t->group; g < groups; g++) {
            TRY(number(in, &p->group[g].units, "count of units", TOKEN_BYTES_MAX + 2));
            TRY(number(in, &p->group[g].mask, "mask", p->masks));
            if (g > t->group && p->group[g].units <= p->group[g - 1].units)
                return fail(ST_FORMAT, "automaton: groups of table %u do not rise", i);
        }
        TRY(number(in, &rests, "rest", EXTRA_MAX));
        for (uint32_t k = 0; k < rests; k++) TRY(read_rest(in, &t->rest, &before));
        token_trie_finish(&t->rest);
    }
    if (groups != p->groups)
        return fail(ST_FORMAT, "automaton: its tables have %u groups of %u", groups, p->groups);
    if (in->r.over || in->r.left) return fail(ST_FORMAT, "automaton: %zu bytes behind its end", in->r.left);
    return ST_OK;
}

static status read_all(reading *in) {
    TRY(read_counts(in));
    TRY(read_rules(in));
    TRY(read_states(in));
    TRY(read_ways(in));
    TRY(read_masks(in));
    return read_tables(in);
}

static void merge_groups(automaton *a) {
    automaton_parts *p = &a->p;
    a->merged = memory_alloc_array((size_t)p->groups * p->words + 1, sizeof *a->merged);
    for (uint32_t i = 0; i < p->tables; i++)
        for (uint32_t g = p->table[i].group; g < p->table[i].group + p->table[i].groups; g++) {
            uint32_t *out = a->merged + (size_t)g * p->words;
            const uint32_t *own = p->mask + (size_t)p->group[g].mask * p->words;
            for (uint32_t w = 0; w < p->words; w++)
                out[w] = own[w] | (g > p->table[i].group ? (out - p->words)[w] : 0);
        }
    free(p->mask);
    p->mask = NULL;
    p->masks = 0;
}

status automaton_read(automaton **out, const uint8_t *bytes, size_t n, const vocabulary *v) {
    reading in = {.r = {bytes, n, false}, .v = v};
    if (n > LIMIT_GRAMMAR_BYTES)
        return fail(ST_FORMAT, "automaton: %zu bytes, at most %d are allowed", n, LIMIT_GRAMMAR_BYTES);
    status st = read_all(&in);
    if (st != ST_OK) {
        automaton_parts_close(&in.p);
        return st;
    }
    *out = automaton_make(&in.p, v);
    merge_groups(*out);
    return ST_OK;
}
