/* Which keywords there are, and what becomes of them. */
#include <string.h>

#include "daemon/text/schema_internal.h"

typedef enum treatment { READ, IGNORED, REFUSED } treatment;

static const struct keyword {
    const char *name;
    treatment treatment;
    uint32_t kinds; /* it speaks of these only */
    const char *why;
} table[] = {
    {"type", READ, 0, NULL},
    {"enum", READ, 0, NULL},
    {"const", READ, 0, NULL},
    {"anyOf", READ, 0, NULL},
    {"oneOf", READ, 0, NULL},
    {"allOf", READ, 0, NULL},
    {"$ref", READ, 0, NULL},
    {"properties", READ, SCHEMA_OBJECT, NULL},
    {"required", READ, SCHEMA_OBJECT, NULL},
    {"additionalProperties", READ, SCHEMA_OBJECT, NULL},
    {"items", READ, SCHEMA_ARRAY, NULL},
    {"prefixItems", READ, SCHEMA_ARRAY, NULL},
    {"additionalItems", READ, SCHEMA_ARRAY, NULL},
    {"minItems", READ, SCHEMA_ARRAY, NULL},
    {"maxItems", READ, SCHEMA_ARRAY, NULL},
    {"minLength", READ, SCHEMA_STRING, NULL},
    {"maxLength", READ, SCHEMA_STRING, NULL},
    {"pattern", READ, SCHEMA_STRING, NULL},
    {"format", READ, SCHEMA_STRING, NULL},
    {"minimum", READ, SCHEMA_NUMBER, NULL},
    {"maximum", READ, SCHEMA_NUMBER, NULL},
    {"exclusiveMinimum", READ, SCHEMA_NUMBER, NULL},
    {"exclusiveMaximum", READ, SCHEMA_NUMBER, NULL},
    {"multipleOf", READ, SCHEMA_NUMBER, NULL},
    {"title", IGNORED, 0, NULL},
    {"description", IGNORED, 0, NULL},
    {"default", IGNORED, 0, NULL},
    {"examples", IGNORED, 0, NULL},
    {"example", IGNORED, 0, NULL},
    {"deprecated", IGNORED, 0, NULL},
    {"readOnly", IGNORED, 0, NULL},
    {"writeOnly", IGNORED, 0, NULL},
    {"$comment", IGNORED, 0, NULL},
    {"$schema", IGNORED, 0, NULL},
    {"$defs", IGNORED, 0, NULL},
    {"definitions", IGNORED, 0, NULL},
    {"$anchor", IGNORED, 0, NULL},
    {"$dynamicAnchor", IGNORED, 0, NULL},
    {"discriminator", IGNORED, 0, NULL},
    {"contentEncoding", IGNORED, 0, NULL},
    {"contentMediaType", IGNORED, 0, NULL},
    {"contentSchema", IGNORED, 0, NULL},
    {"not", REFUSED, 0, "is not supported"},
    {"if", REFUSED, 0, "is not supported"},
    {"then", REFUSED, 0, "is not supported"},
    {"else", REFUSED, 0, "is not supported"},
    {"patternProperties", REFUSED, 0, "is not supported"},
    {"propertyNames", REFUSED, 0, "is not supported"},
    {"minProperties", REFUSED, 0, "is not supported: name what is required"},
    {"maxProperties", REFUSED, 0, "is not supported"},
    {"uniqueItems", REFUSED, 0, "is not supported"},
    {"contains", REFUSED, 0, "is not supported"},
    {"minContains", REFUSED, 0, "is not supported"},
    {"maxContains", REFUSED, 0, "is not supported"},
    {"unevaluatedItems", REFUSED, 0, "is not supported"},
    {"unevaluatedProperties", REFUSED, 0, "is not supported: say additionalProperties"},
    {"dependencies", REFUSED, 0, "is not supported"},
    {"dependentRequired", REFUSED, 0, "is not supported"},
    {"dependentSchemas", REFUSED, 0, "is not supported"},
    {"$dynamicRef", REFUSED, 0, "is not supported: use $ref"},
    {"$recursiveRef", REFUSED, 0, "is not supported: use $ref"},
    {"$recursiveAnchor", REFUSED, 0, "is not supported"},
    {"$vocabulary", REFUSED, 0, "is not supported"},
    {"nullable", REFUSED, 0, "is not JSON Schema: add \"null\" to type"},
};

static const struct keyword *find(const char *name) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return &table[i];
    return NULL;
}

uint32_t schema_implied_kinds(const char *keyword) {
    const struct keyword *k = find(keyword);
    return k ? k->kinds : 0;
}

/* Refused keywords with a value that asks for nothing. */
static bool asks_nothing(const json_value *k) {
    int64_t n;
    if (strcmp(k->key, "uniqueItems") == 0 || strcmp(k->key, "nullable") == 0)
        return k->kind == JSON_KIND_FALSE;
    if (strncmp(k->key, "unevaluated", 11) == 0) return k->kind == JSON_KIND_TRUE;
    if (strcmp(k->key, "minProperties") == 0) return json_value_integer(k, &n) && n == 0;
    if (strcmp(k->key, "not") == 0) return k->kind == JSON_KIND_FALSE;
    if (strcmp(k->key, "patternProperties") == 0 || strncmp(k->key, "depende", 7) == 0)
        return k->kind == JSON_KIND_OBJECT && k->count == 0;
    return false;
}

status schema_check_keyword(const schema_builder *b, const json_value *at, const json_value *keyword) {
    if (strlen(keyword->key) != keyword->key_bytes)
        return schema_wrong(b, at, NULL, "a keyword with U+0000 in it");
    const struct keyword *k = find(keyword->key);
    if (k && (k->treatment != REFUSED || asks_nothing(keyword))) return ST_OK;
    if (k) return schema_wrong(b, at, k->name, "%s", k->why);
    if (strncmp(keyword->key, "x-", 2) == 0) return ST_OK;
    /* The base of references: only the document's own changes none. */
    if ((strcmp(keyword->key, "$id") == 0 || strcmp(keyword->key, "id") == 0) && at == b->root) return ST_OK;
    return schema_wrong(b, at, keyword->key, "is not a supported keyword");
}

static uint32_t kinds_of_name(const json_value *name, bool *integer, bool *number) {
    static const struct {
        const char *name;
        uint32_t kinds;
    } types[] = {{"null", SCHEMA_NULL},      {"boolean", SCHEMA_FALSE | SCHEMA_TRUE},
                 {"integer", SCHEMA_NUMBER}, {"number", SCHEMA_NUMBER},
                 {"string", SCHEMA_STRING},  {"array", SCHEMA_ARRAY},
                 {"object", SCHEMA_OBJECT}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (!json_value_is_string(name, types[i].name)) continue;
        if (i == 2) *integer = true;
        if (i == 3) *number = true;
        return types[i].kinds;
    }
    return 0;
}

status schema_read_type(const schema_builder *b, const json_value *at, uint32_t *kinds, bool *integer) {
    const json_value *type = json_value_get(at, "type");
    bool any_integer = false, any_number = false;
    *kinds = type ? 0 : SCHEMA_KINDS;
    *integer = false;
    if (!type) return ST_OK;
    const json_value *first = type->kind == JSON_KIND_ARRAY ? type->first : type;
    for (const json_value *v = first; v; v = type->kind == JSON_KIND_ARRAY ? v->next : NULL) {
        uint32_t one = kinds_of_name(v, &any_integer, &any_number);
        if (one == 0) {
            bool is_text = v->kind == JSON_KIND_STRING && v->bytes < 100;
            return schema_wrong(b, at, "type", "%s%s%s is no type", is_text ? "\"" : "",
                                is_text ? v->text : "a value", is_text ? "\"" : "");
        }
        *kinds |= one;
    }
    *integer = any_integer && !any_number;
    return ST_OK;
}
