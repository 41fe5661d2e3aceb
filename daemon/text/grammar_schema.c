#include "daemon/text/grammar_schema.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

typedef struct writer {
    value_notation *n;
    grammar *g;
    const schema *s;
    uint32_t *rule;    /* of a node, plus 1; 0: not named yet */
    uint32_t *waiting; /* nodes named and not written */
    uint32_t waiting_count;
    struct shared {
        const char_nfa *strings;
        uint32_t rule;
    } * shared; /* equal patterns have one rule */
    uint32_t shared_count;
} writer;

static uint32_t rule_of(writer *w, uint32_t node) {
    if (node == SCHEMA_ANY) return value_rule_any(w->n);
    if (!w->rule[node]) {
        w->rule[node] = grammar_add_rule(w->g) + 1;
        w->waiting[w->waiting_count++] = node;
    }
    return w->rule[node] - 1;
}

static status write_variant(writer *w, uint32_t rule, uint32_t from, uint32_t to, const schema_variant *v);

static bool is_short(const schema_variant *v) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < v->constant_count; i++)
        bytes += 8 + v->constant[i]->bytes + 64 * (size_t)v->constant[i]->count;
    return bytes <= 128;
}

/* What takes few states stands where it is used; the rest has rules, which may recur. */
static bool is_flat(const schema_node *node) {
    for (uint32_t i = 0; i < node->variant_count; i++) {
        const schema_variant *v = node->variant[i];
        bool bounds = v->number && (v->number->has_low || v->number->has_high || v->number->has_step);
        bool large =
            v->kinds & (SCHEMA_ARRAY | SCHEMA_OBJECT) || v->strings || (v->kinds & SCHEMA_NUMBER && bounds);
        if (v->is_constant ? !is_short(v) : large) return false;
    }
    return node->variant_count <= 4;
}

static status write_node(writer *w, uint32_t rule, uint32_t from, uint32_t to, uint32_t node) {
    const schema_node *n = &w->s->node[node];
    if (node == SCHEMA_ANY || !is_flat(n)) {
        grammar_edge_call(w->g, from, rule_of(w, node), to);
        return ST_OK;
    }
    for (uint32_t i = 0; i < n->variant_count; i++) TRY(write_variant(w, rule, from, to, n->variant[i]));
    return ST_OK;
}

static uint32_t new_state(writer *w, uint32_t rule) { return grammar_add_state(w->g, rule); }

/* The schema of the i-th item; SCHEMA_NONE: there is none. */
static uint32_t item_node(const writer *w, const schema_variant *v, uint32_t i) {
    uint32_t node = i < v->prefix_count ? v->prefix[i] : v->items;
    return schema_node_ends(w->s, node) ? node : SCHEMA_NONE;
}

/* Items that are listed or counted stand one behind the other; the rest is a loop. behind: the state after i items. */
static status write_array(writer *w, uint32_t rule, uint32_t from, uint32_t to, const schema_variant *v) {
    uint32_t open = new_state(w, rule), last = v->most_items, i = 0;
    uint32_t counted = v->most_items != SCHEMA_NONE ? v->most_items : v->least_items;
    if (counted < v->prefix_count && v->most_items == SCHEMA_NONE) counted = v->prefix_count;
    for (uint32_t k = 0; k < counted || k == 0; k++)
        if (item_node(w, v, k) == SCHEMA_NONE) {
            last = k;
            break;
        }
    if (last == SCHEMA_NONE && item_node(w, v, counted) == SCHEMA_NONE) last = counted;
    if (v->least_items > last) return ST_OK;
    value_write_word(w->n, from, open, "[");
    if (v->least_items == 0) value_write_word(w->n, open, to, "]");
    uint32_t close = new_state(w, rule), item = open;
    value_write_word(w->n, value_write_space(w->n, rule, close), to, "]");
    for (; i < counted && i < last; i++) {
        uint32_t behind = new_state(w, rule);
        TRY(write_node(w, rule, value_write_space(w->n, rule, item), behind, item_node(w, v, i)));
        if (i + 1 >= v->least_items) grammar_edge_empty(w->g, behind, close);
        item = new_state(w, rule);
        value_write_word(w->n, behind, item, ",");
    }
    if (last != SCHEMA_NONE) return ST_OK;
    uint32_t behind = new_state(w, rule), again = value_write_space(w->n, rule, item);
    TRY(write_node(w, rule, again, behind, item_node(w, v, counted)));
    grammar_edge_empty(w->g, behind, close);
    uint32_t comma = new_state(w, rule);
    value_write_word(w->n, behind, comma, ",");
    grammar_edge_empty(w->g, value_write_space(w->n, rule, comma), again);
    return ST_OK;
}

/* Members that no schema names, any number of them. none: before any member, UINT32_MAX when one is required; some: behind
 * one. */
static status write_others(writer *w, uint32_t rule, uint32_t none, uint32_t some, uint32_t close,
                           const schema_variant *v) {
    char_name *names = memory_alloc_array(v->member_count + 1, sizeof *names);
    uint32_t key = new_state(w, rule), value = new_state(w, rule), comma = new_state(w, rule),
             behind = new_state(w, rule);
    for (uint32_t i = 0; i < v->member_count; i++)
        names[i] = (char_name){v->member[i].name, v->member[i].bytes};
    status st = value_write_other_key(w->n, rule, key, value, names, v->member_count);
    free(names);
    if (st != ST_OK) return fail_within(st, "the names of an object");
    if (none != SCHEMA_NONE) grammar_edge_empty(w->g, value_write_space(w->n, rule, none), key);
    if (some != SCHEMA_NONE) value_write_word(w->n, some, comma, ",");
    value_write_word(w->n, behind, comma, ",");
    grammar_edge_empty(w->g, value_write_space(w->n, rule, comma), key);
    TRY(write_node(w, rule, value, behind, v->additional));
    grammar_edge_empty(w->g, behind, close);
    return ST_OK;
}

/* none and some are the states before the i-th member when no member, or some, were written; UINT32_MAX: cannot be. */
static status write_object(writer *w, uint32_t rule, uint32_t from, uint32_t to, const schema_variant *v) {
    uint32_t none = new_state(w, rule), some = SCHEMA_NONE, close = new_state(w, rule);
    for (uint32_t i = 0; i < v->member_count; i++)
        if (v->member[i].required && !schema_node_ends(w->s, v->member[i].node)) return ST_OK;
    value_write_word(w->n, from, none, "{");
    for (uint32_t i = 0; i < v->member_count; i++) {
        const schema_member *m = &v->member[i];
        if (!schema_node_ends(w->s, m->node)) continue;
        uint32_t key = new_state(w, rule), value = new_state(w, rule), behind = new_state(w, rule);
        if (none != SCHEMA_NONE) grammar_edge_empty(w->g, value_write_space(w->n, rule, none), key);
        if (some != SCHEMA_NONE) {
            uint32_t comma = new_state(w, rule);
            value_write_word(w->n, some, comma, ",");
            grammar_edge_empty(w->g, value_write_space(w->n, rule, comma), key);
        }
        value_write_key(w->n, rule, key, value, m->name, m->bytes);
        TRY(write_node(w, rule, value, behind, m->node));
        if (m->required) none = SCHEMA_NONE;
        else if (some != SCHEMA_NONE) grammar_edge_empty(w->g, some, behind);
        some = behind;
    }
    if (schema_node_ends(w->s, v->additional)) TRY(write_others(w, rule, none, some, close, v));
    if (none != SCHEMA_NONE) value_write_word(w->n, none, to, "}");
    if (some != SCHEMA_NONE) grammar_edge_empty(w->g, some, close);
    value_write_word(w->n, value_write_space(w->n, rule, close), to, "}");
    return ST_OK;
}

static uint32_t rule_of_strings(writer *w, const char_nfa *strings) {
    for (uint32_t i = 0; i < w->shared_count; i++)
        if (w->shared[i].strings == strings) return w->shared[i].rule;
    uint32_t rule = grammar_add_rule(w->g);
    w->shared = memory_grow(w->shared, (w->shared_count + 1) * sizeof *w->shared);
    w->shared[w->shared_count++] = (struct shared){strings, rule};
    value_write_strings(w->n, rule, grammar_rule_start(w->g, rule), grammar_rule_end(w->g, rule), strings);
    return rule;
}

static status write_variant(writer *w, uint32_t rule, uint32_t from, uint32_t to, const schema_variant *v) {
    static const number_bounds free_number = {0};
    if (v->is_constant) {
        for (uint32_t i = 0; i < v->constant_count; i++)
            value_write_constant(w->n, rule, from, to, v->constant[i]);
        return ST_OK;
    }
    if (v->kinds & SCHEMA_NULL) value_write_word(w->n, from, to, "null");
    if (v->kinds & SCHEMA_FALSE) value_write_word(w->n, from, to, "false");
    if (v->kinds & SCHEMA_TRUE) value_write_word(w->n, from, to, "true");
    if (v->kinds & SCHEMA_NUMBER)
        grammar_write_number(w->g, rule, from, to, v->number ? v->number : &free_number, w->n->digit);
    if (v->kinds & SCHEMA_STRING && v->strings)
        grammar_edge_call(w->g, from, rule_of_strings(w, v->strings), to);
    else if (v->kinds & SCHEMA_STRING)
        value_write_string(w->n, rule, from, to, v->least_length, v->most_length);
    if (v->kinds & SCHEMA_ARRAY) TRY(write_array(w, rule, from, to, v));
    if (v->kinds & SCHEMA_OBJECT) TRY(write_object(w, rule, from, to, v));
    return ST_OK;
}

static status write_rule(writer *w, uint32_t node) {
    const schema_node *n = &w->s->node[node];
    uint32_t rule = w->rule[node] - 1;
    for (uint32_t i = 0; i < n->variant_count; i++)
        TRY(write_variant(w, rule, grammar_rule_start(w->g, rule), grammar_rule_end(w->g, rule),
                          n->variant[i]));
    return ST_OK;
}

/* The outermost place, of some kinds only, beside the rule that references to it have. *any: something is left. */
static status write_root(writer *w, uint32_t kinds, uint32_t *rule, bool *any) {
    const schema_node *n = &w->s->node[w->s->root];
    *rule = grammar_add_rule(w->g);
    uint32_t from = grammar_rule_start(w->g, *rule), to = grammar_rule_end(w->g, *rule);
    *any = false;
    for (uint32_t i = 0; i < n->variant_count; i++) {
        schema_variant some = *n->variant[i];
        some.kinds &= kinds;
        if (!some.is_constant && some.kinds == 0) continue;
        if (!some.is_constant) {
            *any = true;
            TRY(write_variant(w, *rule, from, to, &some));
        }
        for (uint32_t k = 0; some.is_constant && k < some.constant_count; k++) {
            if (!(schema_kind_of(some.constant[k]) & kinds)) continue;
            *any = true;
            value_write_constant(w->n, *rule, from, to, some.constant[k]);
        }
    }
    return ST_OK;
}

status grammar_write_schema(value_notation *n, const schema *s, uint32_t kinds, uint32_t *rule) {
    writer w = {.n = n, .g = n->g, .s = s};
    w.rule = memory_alloc_array(s->node_count, sizeof *w.rule);
    w.waiting = memory_alloc_array(s->node_count, sizeof *w.waiting);
    status st = ST_OK;
    bool any = true;
    if (kinds == SCHEMA_KINDS) {
        *rule = rule_of(&w, s->root);
    } else if (s->root == SCHEMA_ANY) {
        INVARIANT(kinds == SCHEMA_OBJECT);
        *rule = value_rule_object(n);
    } else st = write_root(&w, kinds, rule, &any);
    if (st == ST_OK && !any) st = fail(ST_INVALID, "/: no object fits the schema");
    while (w.waiting_count > 0 && st == ST_OK) st = write_rule(&w, w.waiting[--w.waiting_count]);
    free(w.rule);
    free(w.shared);
    free(w.waiting);
    return st;
}
