/* What a place may hold, as ways through its choices: references and allOf are followed, and each combination of options
 * of anyOf and oneOf is a variant. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/schema_internal.h"

enum { CHOICES_MAX = 64, LOOP_MAX = SCHEMA_OPTIONS_MAX };

/* One way through: what is known to hold, what is still to be read, the anyOf and oneOf that are open. */
typedef struct way {
    schema_set seen, todo, choice;
    schema_set names; /* properties that must be there, so that options of oneOf exclude each other */
} way;

static schema_set copy_set(const schema_set *s) {
    schema_set out = {.count = s->count, .capacity = s->count};
    if (s->count == 0) return out;
    out.item = memory_alloc_array(s->count, sizeof *s->item);
    memcpy(out.item, s->item, s->count * sizeof *s->item);
    return out;
}

static way copy_way(const way *w) {
    return (way){copy_set(&w->seen), copy_set(&w->todo), copy_set(&w->choice), copy_set(&w->names)};
}

static void close_way(way *w) {
    free(w->seen.item);
    free(w->todo.item);
    free(w->choice.item);
    free(w->names.item);
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One part of a pointer up to the next slash, with %XX, ~0 and ~1 read; returns what is left. */
static const char *read_part(const char *p, const char *end, strbuf *out) {
    strbuf_clear(out);
    for (; p < end && *p != '/'; p++) {
        char c = *p;
        if (c == '%' && end - p > 2 && hex_value(p[1]) >= 0 && hex_value(p[2]) >= 0) {
            c = (char)(hex_value(p[1]) << 4 | hex_value(p[2]));
            p += 2;
        }
        if (c == '~' && end - p > 1 && (p[1] == '0' || p[1] == '1')) c = *++p == '0' ? '~' : '/';
        strbuf_add(out, &c, 1);
    }
    return p;
}

static const json_value *child_of(const json_value *v, const strbuf *part) {
    uint32_t index = 0;
    if (v->kind == JSON_KIND_ARRAY) {
        for (size_t i = 0; i < part->size; i++) {
            if (part->data[i] < '0' || part->data[i] > '9' || index > 1 << 24) return NULL;
            index = index * 10 + (uint32_t)(part->data[i] - '0');
        }
        if (part->size == 0 || index >= v->count) return NULL;
    }
    for (const json_value *c = v->first; c; c = c->next)
        if (v->kind == JSON_KIND_ARRAY
                ? index-- == 0
                : c->key_bytes == part->size && memcmp(c->key, strbuf_text(part), part->size) == 0)
            return c;
    return NULL;
}

status schema_resolve(const schema_builder *b, const json_value *at, const json_value *ref,
                      const json_value **out) {
    if (ref->kind != JSON_KIND_STRING) return schema_wrong(b, at, "$ref", "is no string");
    int shown = ref->bytes < 128 ? (int)ref->bytes : 128;
    if (ref->bytes == 0 || ref->text[0] != '#' || (ref->bytes > 1 && ref->text[1] != '/'))
        return schema_wrong(b, at, "$ref", "\"%.*s\" is no JSON pointer into this schema (#/…)", shown,
                            ref->text);
    strbuf part = {0};
    const char *p = ref->text + 1, *end = ref->text + ref->bytes;
    *out = b->root;
    while (p < end && *out) {
        p = read_part(p + 1, end, &part);
        *out = child_of(*out, &part);
    }
    strbuf_close(&part);
    if (!*out) return schema_wrong(b, at, "$ref", "\"%.*s\" leads nowhere", shown, ref->text);
    return ST_OK;
}

/* Schemas that must hold of the same value as `at`, or may. */
static status add_same_place(const schema_builder *b, const json_value *at, schema_set *out) {
    static const char *const lists[] = {"allOf", "anyOf", "oneOf"};
    const json_value *ref = json_value_get(at, "$ref"), *target;
    if (ref) {
        TRY(schema_resolve(b, at, ref, &target));
        schema_set_add(out, target);
    }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const json_value *list = json_value_get(at, lists[i]);
        if (list && list->count > SCHEMA_OPTIONS_MAX)
            return schema_wrong(b, at, lists[i], "has %u schemas, at most %d", list->count,
                                SCHEMA_OPTIONS_MAX);
        for (const json_value *v = list ? list->first : NULL; v; v = v->next) schema_set_add(out, v);
    }
    return ST_OK;
}

/* A schema that is met twice on one way is fine, unless it is met again because of itself. */
static status check_loop(const schema_builder *b, const json_value *at) {
    schema_set reached = {0};
    status st = add_same_place(b, at, &reached);
    for (uint32_t i = 0; i < reached.count && st == ST_OK; i++) {
        if (reached.item[i] == at)
            st = schema_wrong(b, at, NULL, "the schema refers to itself without a step into the value");
        else if (reached.count > LOOP_MAX)
            st = schema_wrong(b, at, NULL, "over %d schemas of one place", LOOP_MAX);
        else st = add_same_place(b, reached.item[i], &reached);
    }
    free(reached.item);
    return st;
}

/* Follows $ref for a look at one schema; NULL: to nowhere, or too far. */
static const json_value *look(const schema_builder *b, const json_value *v) {
    for (uint32_t i = 0; i < 32 && v; i++) {
        const json_value *ref = json_value_get(v, "$ref");
        if (!ref) return v;
        if (schema_resolve(b, v, ref, &v) != ST_OK) return NULL;
    }
    return NULL;
}

/* The kinds that a schema surely keeps to. */
static uint32_t sure_kinds(const schema_builder *b, const json_value *v) {
    uint32_t kinds = SCHEMA_KINDS;
    bool integer;
    v = look(b, v);
    if (!v) return SCHEMA_KINDS;
    if (v->kind == JSON_KIND_FALSE) return 0;
    if (v->kind != JSON_KIND_OBJECT || schema_read_type(b, v, &kinds, &integer) != ST_OK) return SCHEMA_KINDS;
    const json_value *one = json_value_get(v, "const"), *list = json_value_get(v, "enum");
    if (one) return kinds & schema_kind_of(one);
    uint32_t listed = list ? 0 : SCHEMA_KINDS;
    for (const json_value *c = list ? list->first : NULL; c; c = c->next) listed |= schema_kind_of(c);
    return kinds & listed;
}

/* The values that a schema lists; NULL: it lists none. */
static const json_value *listed(const schema_builder *b, const json_value *v, bool *one) {
    v = look(b, v);
    const json_value *c = json_value_get(v, "const"), *list = json_value_get(v, "enum");
    *one = c != NULL;
    return c ? c : list && list->kind == JSON_KIND_ARRAY ? list->first : NULL;
}

static bool exclude(schema_builder *b, const json_value *x, const json_value *y) {
    bool one_x, one_y;
    const json_value *first_x = listed(b, x, &one_x), *first_y = listed(b, y, &one_y);
    if (!first_x || !first_y) return false;
    for (const json_value *i = first_x; i; i = one_x ? NULL : i->next)
        for (const json_value *j = first_y; j; j = one_y ? NULL : j->next, b->work++)
            if (schema_equal(i, j) || b->work > SCHEMA_WORK_MAX) return false;
    return true;
}

static bool is_required(const json_value *v, const json_value *property) {
    const json_value *list = json_value_get(v, "required");
    for (const json_value *r = list ? list->first : NULL; r; r = r->next)
        if (r->kind == JSON_KIND_STRING && r->bytes == property->key_bytes &&
            memcmp(r->text, property->key, r->bytes) == 0)
            return true;
    return false;
}

/* The property that tells two objects apart: its values in x exclude those in y. NULL: none. One that both require is
 * preferred. */
static const json_value *telling(schema_builder *b, const json_value *x, const json_value *y) {
    const json_value *best = NULL;
    x = look(b, x);
    y = look(b, y);
    if (sure_kinds(b, x) != SCHEMA_OBJECT || sure_kinds(b, y) != SCHEMA_OBJECT) return NULL;
    const json_value *of_x = json_value_get(x, "properties"), *of_y = json_value_get(y, "properties");
    if (!of_x || of_x->kind != JSON_KIND_OBJECT || !of_y || of_y->kind != JSON_KIND_OBJECT) return NULL;
    for (const json_value *p = of_x->first; p; p = p->next) {
        if (strlen(p->key) != p->key_bytes) continue;
        const json_value *q = json_value_get(of_y, p->key);
        b->work += of_y->count;
        if (!q || !exclude(b, p, q)) continue;
        if (is_required(x, p) && is_required(y, p)) return p;
        if (!best) best = p;
    }
    return best;
}

/* Options of oneOf must exclude each other, or "exactly one" would not be "any": by their kinds, by the values they list, or
 * by a property whose values differ, which then must be there. */
static status add_telling_names(schema_builder *b, const json_value *at, const json_value *list,
                                const json_value *option, uint32_t index, schema_set *names) {
    uint32_t i = 0;
    for (const json_value *other = list->first; other; other = other->next, i++) {
        if (other == option || (sure_kinds(b, option) & sure_kinds(b, other)) == 0 ||
            exclude(b, option, other))
            continue;
        const json_value *p = i < index ? telling(b, other, option) : telling(b, option, other);
        TRY(schema_work(b, at, 16));
        if (!p) return schema_wrong(b, at, "oneOf", "options %u and %u may both hold: use anyOf", index, i);
        schema_set_add(names, p);
    }
    return ST_OK;
}

static status read_one(schema_builder *b, way *w, const json_value *s) {
    if (s->kind != JSON_KIND_OBJECT) return schema_wrong(b, s, NULL, "a schema is an object, true or false");
    if (schema_set_has(&w->seen, s)) return check_loop(b, s);
    schema_set_add(&w->seen, s);
    for (const json_value *k = s->first; k; k = k->next) {
        TRY(schema_check_keyword(b, s, k));
        if (strcmp(k->key, "$ref") == 0) {
            const json_value *target;
            TRY(schema_resolve(b, s, k, &target));
            if (schema_set_has(&w->todo, target) || target == s) TRY(check_loop(b, target));
            schema_set_add(&w->todo, target);
        }
        bool all = strcmp(k->key, "allOf") == 0,
             choice = strcmp(k->key, "anyOf") == 0 || strcmp(k->key, "oneOf") == 0;
        if (!all && !choice) continue;
        if (k->kind != JSON_KIND_ARRAY || k->count == 0)
            return schema_wrong(b, s, k->key, "is no list of one schema or more");
        uint32_t most = strcmp(k->key, "oneOf") == 0 ? SCHEMA_ONE_OF_MAX : SCHEMA_OPTIONS_MAX;
        if (k->count > most) return schema_wrong(b, s, k->key, "has %u schemas, at most %u", k->count, most);
        TRY(schema_work(b, s, (uint64_t)k->count * (w->todo.count + k->count)));
        for (const json_value *v = all ? k->first : NULL; v; v = v->next) schema_set_add(&w->todo, v);
        if (choice) schema_set_add(&w->choice, k);
    }
    return ST_OK;
}

/* *holds false: false is among them, so that nothing fits. */
static status read_all(schema_builder *b, way *w, bool *holds) {
    *holds = true;
    for (uint32_t i = 0; i < w->todo.count; i++) {
        const json_value *s = w->todo.item[i];
        if (s->kind == JSON_KIND_FALSE) *holds = false;
        else if (s->kind != JSON_KIND_TRUE) TRY(read_one(b, w, s));
    }
    w->todo.count = 0;
    return ST_OK;
}

static status add_variant(schema_builder *b, uint32_t node, const way *w) {
    schema_variant *v;
    TRY(schema_read_variant(b, &w->seen, &w->names, &v));
    if (v->kinds == 0 && !v->is_constant) return ST_OK;
    schema_node *n = &b->node[node];
    if ((n->variant_count & (n->variant_count - 1)) == 0) {
        size_t room = n->variant_count ? 2 * n->variant_count : 1;
        schema_variant **more = schema_alloc(b, room * sizeof *more);
        if (n->variant_count > 0) memcpy(more, n->variant, n->variant_count * sizeof *more);
        n->variant = more;
    }
    n->variant[n->variant_count++] = v;
    return ST_OK;
}

/* The schema whose member the list is: needed for its pointer alone. */
static const json_value *owner_of(const way *w, const json_value *list) {
    for (uint32_t i = 0; i < w->seen.count; i++)
        for (const json_value *k = w->seen.item[i]->first; k; k = k->next)
            if (k == list) return w->seen.item[i];
    return w->seen.item[0];
}

static status expand_way(schema_builder *b, uint32_t node, way *w, uint32_t depth) {
    bool holds;
    if (++b->way_count > SCHEMA_VARIANTS_MAX)
        return schema_wrong(b, b->meaning[node].item[0], NULL, "the choices have over %d combinations",
                            SCHEMA_VARIANTS_MAX);
    TRY(read_all(b, w, &holds));
    if (!holds) return ST_OK;
    if (w->choice.count == 0) return add_variant(b, node, w);
    const json_value *list = w->choice.item[--w->choice.count];
    const json_value *owner = owner_of(w, list);
    if (depth == CHOICES_MAX)
        return schema_wrong(b, owner, NULL, "over %d choices in one place", CHOICES_MAX);
    uint32_t index = 0;
    for (const json_value *option = list->first; option; option = option->next, index++) {
        way next = copy_way(w);
        status st = ST_OK;
        schema_set_add(&next.todo, option);
        if (strcmp(list->key, "oneOf") == 0)
            st = add_telling_names(b, owner, list, option, index, &next.names);
        if (st == ST_OK) st = expand_way(b, node, &next, depth + 1);
        close_way(&next);
        if (st != ST_OK) return st;
    }
    return ST_OK;
}

status schema_expand(schema_builder *b, uint32_t node) {
    way w = {.todo = copy_set(&b->meaning[node])};
    status st = expand_way(b, node, &w, 0);
    close_way(&w);
    return st;
}
