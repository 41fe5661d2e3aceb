/* Values that stand in a schema (enum, const) against the rest of it, and which places can hold a value at all. */
#include <string.h>

#include "daemon/text/schema_internal.h"

uint32_t schema_kind_of(const json_value *v) {
    switch (v->kind) {
    case JSON_KIND_NULL: return SCHEMA_NULL;
    case JSON_KIND_FALSE: return SCHEMA_FALSE;
    case JSON_KIND_TRUE: return SCHEMA_TRUE;
    case JSON_KIND_NUMBER: return SCHEMA_NUMBER;
    case JSON_KIND_STRING: return SCHEMA_STRING;
    case JSON_KIND_ARRAY: return SCHEMA_ARRAY;
    default: return SCHEMA_OBJECT;
    }
}

static const json_value *member_of(const json_value *object, const char *name, size_t bytes) {
    for (const json_value *v = object->first; v; v = v->next)
        if (v->key_bytes == bytes && memcmp(v->key, name, bytes) == 0) return v;
    return NULL;
}

static bool equal_numbers(const json_value *a, const json_value *b) {
    decimal x, y;
    if (a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0) return true;
    return decimal_read(&x, a->text, a->bytes) && decimal_read(&y, b->text, b->bytes) &&
           decimal_compare(&x, &y) == 0;
}

bool schema_equal(const json_value *a, const json_value *b) {
    if (a->kind != b->kind || a->count != b->count) return false;
    if (a->kind == JSON_KIND_NUMBER) return equal_numbers(a, b);
    if (a->kind == JSON_KIND_STRING) return a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0;
    const json_value *other = b->first;
    for (const json_value *v = a->first; v; v = v->next) {
        if (a->kind == JSON_KIND_OBJECT) other = member_of(b, v->key, v->key_bytes);
        if (!other || !schema_equal(v, other)) return false;
        other = other->next;
    }
    return true;
}

typedef struct judge {
    const schema *schema;
    uint64_t work;
} judge;

static bool admits(judge *j, uint32_t node, const json_value *value);

static bool admits_string(const schema_variant *v, const json_value *value) {
    uint32_t characters = 0;
    if (v->strings) return char_nfa_accepts(v->strings, value->text, value->bytes);
    for (size_t i = 0; i < value->bytes; i++) characters += ((uint8_t)value->text[i] & 0xC0) != 0x80;
    return characters >= v->least_length && characters <= v->most_length;
}

static bool admits_array(judge *j, const schema_variant *v, const json_value *value) {
    uint32_t i = 0;
    if (value->count < v->least_items || value->count > v->most_items) return false;
    for (const json_value *e = value->first; e; e = e->next, i++) {
        if (i >= v->prefix_count && v->items_by_default) return true;
        if (!admits(j, i < v->prefix_count ? v->prefix[i] : v->items, e)) return false;
    }
    return true;
}

static bool admits_object(judge *j, const schema_variant *v, const json_value *value) {
    for (uint32_t i = 0; i < v->member_count; i++)
        if (v->member[i].required && !member_of(value, v->member[i].name, v->member[i].bytes)) return false;
    for (const json_value *e = value->first; e; e = e->next) {
        uint32_t i = 0;
        while (i < v->member_count &&
               (v->member[i].bytes != e->key_bytes || memcmp(v->member[i].name, e->key, e->key_bytes) != 0))
            i++;
        if (i == v->member_count && v->additional_by_default) continue;
        if (!admits(j, i < v->member_count ? v->member[i].node : v->additional, e)) return false;
    }
    j->work += (uint64_t)v->member_count * (value->count + 1) / 8;
    return true;
}

/* Whether the variant, its constants aside, admits the value. */
static bool variant_admits(judge *j, const schema_variant *v, const json_value *value) {
    decimal d;
    if (++j->work > SCHEMA_WORK_MAX || !(v->kinds & schema_kind_of(value))) return false;
    switch (value->kind) {
    case JSON_KIND_NUMBER:
        return !v->number || (decimal_read(&d, value->text, value->bytes) && number_within(v->number, &d));
    case JSON_KIND_STRING: return admits_string(v, value);
    case JSON_KIND_ARRAY: return admits_array(j, v, value);
    case JSON_KIND_OBJECT: return admits_object(j, v, value);
    default: return true;
    }
}

static bool is_listed(judge *j, const schema_variant *v, const json_value *value) {
    j->work += v->constant_count;
    for (uint32_t i = 0; i < v->constant_count; i++)
        if (schema_equal(v->constant[i], value)) return true;
    return !v->is_constant;
}

static bool admits(judge *j, uint32_t node, const json_value *value) {
    if (node == SCHEMA_NONE) return false;
    if (node == SCHEMA_ANY) return true;
    const schema_node *n = &j->schema->node[node];
    for (uint32_t i = 0; i < n->variant_count; i++)
        if (is_listed(j, n->variant[i], value) && variant_admits(j, n->variant[i], value)) return true;
    return false;
}

/* A place that is filtered admits the same values as before: constants that go are those that it did not admit. */
status schema_filter_constants(schema *s) {
    judge j = {.schema = s};
    for (uint32_t n = 0; n < s->node_count; n++)
        for (uint32_t i = 0; i < s->node[n].variant_count; i++) {
            schema_variant *v = s->node[n].variant[i];
            uint32_t kept = 0;
            for (uint32_t k = 0; k < v->constant_count; k++)
                if (variant_admits(&j, v, v->constant[k])) v->constant[kept++] = v->constant[k];
            v->constant_count = kept;
            if (j.work > SCHEMA_WORK_MAX)
                return fail(ST_INVALID, "/: enum and const take over %d comparisons", SCHEMA_WORK_MAX);
        }
    return ST_OK;
}

static bool array_ends(const schema *s, const schema_variant *v) {
    if (v->least_items > v->most_items) return false;
    for (uint32_t i = 0; i < v->least_items; i++) {
        bool listed = i < v->prefix_count;
        if (!schema_node_ends(s, listed ? v->prefix[i] : v->items)) return false;
        if (!listed) break;
    }
    return true;
}

static bool object_ends(const schema *s, const schema_variant *v) {
    for (uint32_t i = 0; i < v->member_count; i++)
        if (v->member[i].required && !schema_node_ends(s, v->member[i].node)) return false;
    return true;
}

static bool variant_ends(const schema *s, const schema_variant *v) {
    if (v->is_constant) return v->constant_count > 0;
    if (v->kinds & (SCHEMA_NULL | SCHEMA_FALSE | SCHEMA_TRUE | SCHEMA_NUMBER | SCHEMA_STRING)) return true;
    return (v->kinds & SCHEMA_ARRAY && array_ends(s, v)) || (v->kinds & SCHEMA_OBJECT && object_ends(s, v));
}

void schema_mark_ends(schema *s) {
    schema_node *node = (schema_node *)s->node;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t n = s->node_count; n-- > 0;)
            for (uint32_t i = 0; i < node[n].variant_count && !node[n].ends; i++)
                more |= node[n].ends = variant_ends(s, node[n].variant[i]);
    }
}
