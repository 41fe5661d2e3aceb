/* What schemas that hold together say of each kind of value: the narrowest of their bounds, all of their patterns, for each
 * property and item the schemas that hold there together. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/regex.h"
#include "daemon/text/schema_internal.h"

/* A variant that is being made of set->item[]. */
typedef struct reading {
    schema_builder *b;
    const schema_set *set;
    schema_variant *v;
    number_bounds number;
    bool has_number, has_any_type;
    char_nfa strings; /* without a state: any */
    bool has_strings;
    uint32_t spoken_of; /* kinds that some keyword concerns */
} reading;

static status read_count(reading *r, const json_value *s, const char *keyword, uint32_t *out, bool *given) {
    const json_value *v = json_value_get(s, keyword);
    decimal d;
    *given = v != NULL;
    if (!v) return ST_OK;
    if (v->kind != JSON_KIND_NUMBER || !decimal_read(&d, v->text, v->bytes) || !decimal_u32(&d, out) ||
        *out == SCHEMA_NONE)
        return schema_wrong(r->b, s, keyword, "is no count");
    return ST_OK;
}

/* Narrows least … most by two keywords. */
static status read_range(reading *r, const json_value *s, const char *low, const char *high, uint32_t *least,
                         uint32_t *most) {
    uint32_t value;
    bool given;
    TRY(read_count(r, s, low, &value, &given));
    if (given && value > *least) *least = value;
    TRY(read_count(r, s, high, &value, &given));
    if (given && value < *most) *most = value;
    return ST_OK;
}

static status read_decimal(reading *r, const json_value *s, const char *keyword, decimal *out, bool *given) {
    const json_value *v = json_value_get(s, keyword);
    *given = v != NULL;
    if (!v) return ST_OK;
    r->has_number = true;
    if (v->kind != JSON_KIND_NUMBER) return schema_wrong(r->b, s, keyword, "is no number");
    if (!decimal_read(out, v->text, v->bytes))
        return schema_wrong(r->b, s, keyword, "has over %d digits", DECIMAL_DIGITS_MAX);
    return ST_OK;
}

static void narrow_low(number_bounds *n, const decimal *d, bool open) {
    int order = n->has_low ? decimal_compare(d, &n->low) : 1;
    if (order < 0) return;
    n->low_open = open || (order == 0 && n->low_open);
    n->has_low = true;
    n->low = *d;
}

static void narrow_high(number_bounds *n, const decimal *d, bool open) {
    int order = n->has_high ? decimal_compare(d, &n->high) : -1;
    if (order > 0) return;
    n->high_open = open || (order == 0 && n->high_open);
    n->has_high = true;
    n->high = *d;
}

static status read_number(reading *r, const json_value *s) {
    decimal d;
    bool given;
    number_bounds *n = &r->number;
    TRY(read_decimal(r, s, "minimum", &d, &given));
    if (given) narrow_low(n, &d, false);
    TRY(read_decimal(r, s, "exclusiveMinimum", &d, &given));
    if (given) narrow_low(n, &d, true);
    TRY(read_decimal(r, s, "maximum", &d, &given));
    if (given) narrow_high(n, &d, false);
    TRY(read_decimal(r, s, "exclusiveMaximum", &d, &given));
    if (given) narrow_high(n, &d, true);
    TRY(read_decimal(r, s, "multipleOf", &d, &given));
    if (!given) return ST_OK;
    if (d.negative || d.count == 0) return schema_wrong(r->b, s, "multipleOf", "is not above 0");
    if (n->has_step && decimal_compare(&n->step, &d) != 0)
        return schema_wrong(r->b, s, "multipleOf", "a second one for the same value is not supported");
    n->has_step = true;
    n->step = d;
    return ST_OK;
}

/* Takes the automaton. */
static status narrow_strings(reading *r, const json_value *s, const char *keyword, char_nfa *a) {
    status st = ST_OK;
    if (!r->has_strings) {
        r->strings = *a;
        r->has_strings = true;
        return ST_OK;
    }
    char_nfa both;
    uint64_t pairs = (uint64_t)r->strings.edge_count * a->edge_count;
    st = schema_work(r->b, s, pairs < CHAR_NFA_WORK_MAX ? pairs : CHAR_NFA_WORK_MAX);
    if (st == ST_OK) st = char_nfa_intersect(&both, &r->strings, a);
    char_nfa_close(a);
    if (r->b->work > SCHEMA_WORK_MAX) return st;
    if (st != ST_OK)
        return schema_wrong(r->b, s, keyword, "together with what else holds of the string: %s",
                            status_text());
    char_nfa_close(&r->strings);
    r->strings = both;
    char_nfa_trim(&r->strings);
    return ST_OK;
}

static status read_expression(reading *r, const json_value *s, const char *keyword, const char *text,
                              size_t bytes, regex_where where) {
    char_nfa a;
    char sentence[STATUS_TEXT_MAX];
    if (regex_read(&a, text, bytes, where) == ST_OK) {
        r->b->automata_states += a.state_count;
        return narrow_strings(r, s, keyword, &a);
    }
    memcpy(sentence, status_text(), sizeof sentence);
    return schema_wrong(r->b, s, keyword, "%.400s", sentence);
}

/* OpenAPI's formats of numbers: bounds of what holds them. */
static bool read_number_format(reading *r, const json_value *format) {
    static const struct {
        const char *name, *low, *high;
    } formats[] = {{"int32", "-2147483648", "2147483647"},
                   {"int64", "-9223372036854775808", "9223372036854775807"},
                   {"uint32", "0", "4294967295"},
                   {"float", NULL, NULL},
                   {"double", NULL, NULL}};
    decimal d;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (!json_value_is_string(format, formats[i].name)) continue;
        if (!formats[i].low) return true;
        r->has_number = true;
        if (decimal_read(&d, formats[i].low, strlen(formats[i].low))) narrow_low(&r->number, &d, false);
        if (decimal_read(&d, formats[i].high, strlen(formats[i].high))) narrow_high(&r->number, &d, false);
        return true;
    }
    return false;
}

static status read_string(reading *r, const json_value *s) {
    const json_value *pattern = json_value_get(s, "pattern"), *format = json_value_get(s, "format");
    TRY(read_range(r, s, "minLength", "maxLength", &r->v->least_length, &r->v->most_length));
    if (pattern) {
        if (pattern->kind != JSON_KIND_STRING) return schema_wrong(r->b, s, "pattern", "is no string");
        TRY(read_expression(r, s, "pattern", pattern->text, pattern->bytes, REGEX_SEARCH));
    }
    if (!format || read_number_format(r, format)) return ST_OK;
    const char *regex = format->kind == JSON_KIND_STRING ? schema_format_regex(format->text) : NULL;
    if (!regex)
        return schema_wrong(r->b, s, "format", "\"%.64s\" is not supported; there are %s",
                            format->kind == JSON_KIND_STRING ? format->text : "", schema_format_names());
    return read_expression(r, s, "format", regex, strlen(regex), REGEX_WHOLE);
}

/* The strings of the patterns that have the lengths; *any: there are some. */
static status finish_strings(reading *r, bool *any) {
    schema_variant *v = r->v;
    const json_value *at = r->set->item[0];
    uint32_t shortest, longest;
    *any = v->least_length <= v->most_length;
    if (!r->has_strings || !*any) return ST_OK;
    *any = char_nfa_trim(&r->strings);
    if (!*any) return ST_OK;
    char_nfa_measure(&r->strings, &shortest, &longest);
    uint32_t least = shortest < v->least_length ? v->least_length : 0;
    uint32_t most = longest > v->most_length ? v->most_length : SCHEMA_NONE;
    if (least > 0 || most != SCHEMA_NONE) {
        char_nfa lengths;
        if (char_nfa_lengths(&lengths, least, most) != ST_OK)
            return schema_wrong(r->b, at, NULL, "minLength or maxLength beside pattern or format: %s",
                                status_text());
        TRY(narrow_strings(r, at, most != SCHEMA_NONE ? "maxLength" : "minLength", &lengths));
        *any = r->strings.state_count > 0;
    }
    v->least_length = 0;
    v->most_length = SCHEMA_NONE;
    if (!*any || schema_keep(r->b, &r->strings, &v->strings) == ST_OK) return ST_OK;
    char sentence[STATUS_TEXT_MAX];
    memcpy(sentence, status_text(), sizeof sentence);
    return schema_wrong(r->b, at, NULL, "%.400s", sentence);
}

/* Schemas of the items from the i-th on; of exactly the i-th where the schema lists that one. NULL: it says nothing. */
static const json_value *item_schema(const json_value *s, uint32_t i, bool *listed) {
    const json_value *prefix = json_value_get(s, "prefixItems"), *rest = json_value_get(s, "items");
    if (!prefix && rest && rest->kind == JSON_KIND_ARRAY) {
        prefix = rest;
        rest = json_value_get(s, "additionalItems");
    }
    *listed = prefix && i < prefix->count;
    if (!*listed) return rest;
    const json_value *v = prefix->first;
    while (i-- > 0) v = v->next;
    return v;
}

static status read_items_at(reading *r, uint32_t i, uint32_t *node, bool *said) {
    schema_set set = {0};
    *said = false;
    for (uint32_t k = 0; k < r->set->count; k++) {
        bool listed;
        const json_value *v = item_schema(r->set->item[k], i, &listed);
        if (v) schema_set_add(&set, v);
        *said |= v != NULL;
    }
    return schema_node_of(r->b, &set, node);
}

static status read_array(reading *r) {
    schema_variant *v = r->v;
    uint32_t longest = 0;
    bool said;
    for (uint32_t k = 0; k < r->set->count; k++) {
        const json_value *s = r->set->item[k], *prefix = json_value_get(s, "prefixItems"),
                         *rest = json_value_get(s, "items");
        TRY(read_range(r, s, "minItems", "maxItems", &v->least_items, &v->most_items));
        if (!prefix && rest && rest->kind == JSON_KIND_ARRAY) prefix = rest;
        if (!prefix) continue;
        if (prefix->kind != JSON_KIND_ARRAY) return schema_wrong(r->b, s, "prefixItems", "is no list");
        if (prefix->count > longest) longest = prefix->count;
    }
    if (longest > SCHEMA_ITEMS_MAX || v->least_items > SCHEMA_ITEMS_MAX ||
        (v->most_items != SCHEMA_NONE && v->most_items > SCHEMA_ITEMS_MAX))
        return schema_wrong(r->b, r->set->item[0], NULL,
                            "arrays of %u to %u items, %u of them listed; at most %d can be counted",
                            v->least_items, v->most_items, longest, SCHEMA_ITEMS_MAX);
    TRY(schema_work(r->b, r->set->item[0], (uint64_t)longest * longest * r->set->count / 4));
    uint32_t *nodes = schema_alloc(r->b, (longest + 1) * sizeof *nodes);
    for (uint32_t i = 0; i < longest; i++) TRY(read_items_at(r, i, &nodes[i], &said));
    TRY(read_items_at(r, longest, &v->items, &said));
    v->prefix = nodes;
    v->prefix_count = longest;
    if (!said && longest > 0 && v->least_items <= longest) {
        v->items = SCHEMA_NONE;
        v->items_by_default = true;
    }
    return ST_OK;
}

static uint32_t find_member(const schema_member *m, uint32_t count, const char *name, size_t bytes) {
    for (uint32_t i = 0; i < count; i++)
        if (m[i].bytes == bytes && memcmp(m[i].name, name, bytes) == 0) return i;
    return count;
}

static status add_member(reading *r, const json_value *s, schema_member *m, uint32_t *count, const char *name,
                         size_t bytes, bool required) {
    uint32_t i = find_member(m, *count, name, bytes);
    if (i == SCHEMA_MEMBERS_MAX)
        return schema_wrong(r->b, s, NULL, "an object with over %d properties", SCHEMA_MEMBERS_MAX);
    TRY(schema_work(r->b, s, i / 8 + 1));
    if (i == *count) m[(*count)++] = (schema_member){.name = name, .bytes = bytes};
    m[i].required |= required;
    return ST_OK;
}

/* All names: properties in their order, then what else is required. */
static status read_names(reading *r, const schema_set *names, schema_member *m, uint32_t *count,
                         bool *has_properties) {
    for (uint32_t k = 0; k < r->set->count; k++) {
        const json_value *s = r->set->item[k], *list = json_value_get(s, "properties");
        if (list && list->kind != JSON_KIND_OBJECT)
            return schema_wrong(r->b, s, "properties", "is no object");
        *has_properties |= list != NULL;
        for (const json_value *p = list ? list->first : NULL; p; p = p->next)
            TRY(add_member(r, s, m, count, p->key, p->key_bytes, false));
    }
    for (uint32_t k = 0; k < r->set->count; k++) {
        const json_value *s = r->set->item[k], *list = json_value_get(s, "required");
        if (list && list->kind != JSON_KIND_ARRAY) return schema_wrong(r->b, s, "required", "is no list");
        for (const json_value *p = list ? list->first : NULL; p; p = p->next) {
            if (p->kind != JSON_KIND_STRING)
                return schema_wrong(r->b, s, "required", "holds what is no string");
            TRY(add_member(r, s, m, count, p->text, p->bytes, true));
        }
    }
    for (uint32_t i = 0; i < names->count; i++)
        TRY(add_member(r, r->set->item[0], m, count, names->item[i]->key, names->item[i]->key_bytes, true));
    return ST_OK;
}

static const json_value *property(const json_value *s, const schema_member *m) {
    const json_value *list = json_value_get(s, "properties");
    for (const json_value *p = list ? list->first : NULL; p; p = p->next)
        if (p->key_bytes == m->bytes && memcmp(p->key, m->name, m->bytes) == 0) return p;
    return json_value_get(s, "additionalProperties");
}

static status read_object(reading *r, const schema_set *names) {
    schema_variant *v = r->v;
    schema_member *m = memory_alloc_array(SCHEMA_MEMBERS_MAX + 1, sizeof *m);
    uint32_t count = 0;
    bool has_properties = false, said = false;
    schema_set set = {0};
    status st;
    TRY_OR_FAIL(read_names(r, names, m, &count, &has_properties));
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < r->set->count; k++) {
            const json_value *p = property(r->set->item[k], &m[i]);
            if (p) schema_set_add(&set, p);
            TRY_OR_FAIL(schema_work(r->b, r->set->item[k], i / 8 + 1));
        }
        TRY_OR_FAIL(schema_node_of(r->b, &set, &m[i].node));
    }
    for (uint32_t k = 0; k < r->set->count; k++) {
        const json_value *p = json_value_get(r->set->item[k], "additionalProperties");
        if (p) schema_set_add(&set, p);
        said |= p != NULL;
    }
    TRY_OR_FAIL(schema_node_of(r->b, &set, &v->additional));
    if (!said && has_properties) {
        v->additional = SCHEMA_NONE;
        v->additional_by_default = true;
    }
    schema_member *kept = schema_alloc(r->b, (count + 1) * sizeof *kept);
    memcpy(kept, m, count * sizeof *kept);
    v->member = kept;
    v->member_count = count;
fail:
    free(set.item);
    free(m);
    return st;
}

/* Values that every enum and const lists, as the first lists them. */
static status read_constants(reading *r, const json_value *s, const json_value *first, bool one) {
    schema_variant *v = r->v;
    uint32_t n = 0;
    if (v->is_constant) {
        for (uint32_t i = 0; i < v->constant_count; i++) {
            bool found = false;
            for (const json_value *c = first; c && !found; c = one ? NULL : c->next) {
                found = schema_equal(v->constant[i], c);
                TRY(schema_work(r->b, s, 1));
            }
            if (found) v->constant[n++] = v->constant[i];
        }
        v->constant_count = n;
        return ST_OK;
    }
    for (const json_value *c = first; c; c = one ? NULL : c->next) n++;
    TRY(schema_work(r->b, s, 4ull * n));
    v->is_constant = true;
    v->constant = schema_alloc(r->b, (n + 1) * sizeof *v->constant);
    for (const json_value *c = first; c; c = one ? NULL : c->next) v->constant[v->constant_count++] = c;
    return ST_OK;
}

static status read_schema(reading *r, const json_value *s) {
    uint32_t kinds;
    bool integer;
    const json_value *list = json_value_get(s, "enum"), *one = json_value_get(s, "const");
    TRY(schema_read_type(r->b, s, &kinds, &integer));
    r->v->kinds &= kinds;
    r->number.integer |= integer;
    r->has_number |= integer;
    r->has_any_type |= list || one || json_value_get(s, "type");
    if (list && list->kind != JSON_KIND_ARRAY) return schema_wrong(r->b, s, "enum", "is no list");
    if (list) TRY(read_constants(r, s, list->first, false));
    if (one) TRY(read_constants(r, s, one, true));
    for (const json_value *k = s->first; k; k = k->next) {
        /* A format of numbers alone says nothing of strings. */
        bool numeric = strcmp(k->key, "format") == 0 && read_number_format(r, k);
        r->spoken_of |= numeric ? SCHEMA_NUMBER : schema_implied_kinds(k->key);
    }
    TRY(read_number(r, s));
    return read_string(r, s);
}

static status read_kinds(reading *r, const schema_set *names) {
    schema_variant *v = r->v;
    bool any;
    for (uint32_t i = 0; i < r->set->count; i++) TRY(read_schema(r, r->set->item[i]));
    if (!r->has_any_type && r->spoken_of) v->kinds &= r->spoken_of;
    if (v->kinds & SCHEMA_NUMBER && r->has_number) {
        uint32_t states;
        if (number_check(&r->number, &any, &states) != ST_OK) {
            char sentence[STATUS_TEXT_MAX];
            memcpy(sentence, status_text(), sizeof sentence);
            return schema_wrong(r->b, r->set->item[0], NULL, "%.400s", sentence);
        }
        TRY(schema_work(r->b, r->set->item[0], 64ull * states));
        number_bounds *kept = schema_alloc(r->b, sizeof *kept);
        *kept = r->number;
        v->number = kept;
        if (!any) v->kinds &= ~(uint32_t)SCHEMA_NUMBER;
    }
    if (v->kinds & SCHEMA_STRING) {
        TRY(finish_strings(r, &any));
        if (!any) v->kinds &= ~(uint32_t)SCHEMA_STRING;
    }
    if (v->kinds & SCHEMA_ARRAY) TRY(read_array(r));
    if (v->kinds & SCHEMA_OBJECT) TRY(read_object(r, names));
    return ST_OK;
}

status schema_read_variant(schema_builder *b, const schema_set *set, const schema_set *names,
                           schema_variant **out) {
    *out = schema_alloc(b, sizeof **out);
    **out = (schema_variant){.kinds = SCHEMA_KINDS, .most_length = SCHEMA_NONE, .most_items = SCHEMA_NONE};
    reading r = {.b = b, .set = set, .v = *out};
    status st = set->count > 0 ? read_kinds(&r, names) : ST_OK;
    char_nfa_close(&r.strings);
    return st;
}
