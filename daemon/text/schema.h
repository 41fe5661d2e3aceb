/* A JSON Schema as a network of what values may be, exactly or not at all: a keyword that is not supported is refused by name
 * with its JSON pointer. docs/structured.md has the list.
 *
 * A node is what one place of a document may hold: any of its variants. References, allOf and choices are resolved: a node
 * stands for a set of schemas that hold together. Where properties (prefixItems) are listed and additionalProperties (items)
 * is absent, nothing else is written; a schema without type whose keywords concern some types means those types.
 *
 * Memory:  schema_open allocates everything; schema_close releases.
 * Threads: any; read-only after open. A hostile schema is bounded by the maxima below.
 * Errors:  ST_INVALID "/pointer/to/keyword: …"; *out is then NULL. A schema that no document fits is refused too. */
#ifndef DAEMON_TEXT_SCHEMA_H
#define DAEMON_TEXT_SCHEMA_H

#include "daemon/text/char_nfa.h"
#include "daemon/text/grammar_number.h"
#include "daemon/text/json_tree.h"

enum {
    SCHEMA_BYTES_MAX = 1 << 20,
    SCHEMA_NODES_MAX = 1 << 13,
    SCHEMA_VARIANTS_MAX = 1 << 14,
    SCHEMA_MEMBERS_MAX = 1 << 12,  /* of one object */
    SCHEMA_ITEMS_MAX = 1 << 12,    /* minItems, maxItems, prefixItems */
    SCHEMA_OPTIONS_MAX = 1 << 12,  /* of one anyOf, allOf */
    SCHEMA_ONE_OF_MAX = 1 << 8,    /* each is held against each */
    SCHEMA_AUTOMATA_MAX = 1 << 19, /* states of all patterns and lengths together */
    SCHEMA_NONE = 0xFFFFFFFF,      /* no bound; a node that no value fits */
    SCHEMA_ANY = 0                 /* the node that every value fits */
};

enum {
    SCHEMA_NULL = 1,
    SCHEMA_FALSE = 2,
    SCHEMA_TRUE = 4,
    SCHEMA_NUMBER = 8,
    SCHEMA_STRING = 16,
    SCHEMA_ARRAY = 32,
    SCHEMA_OBJECT = 64,
    SCHEMA_KINDS = 127
};

typedef struct schema_member {
    const char *name;
    size_t bytes;
    uint32_t node;
    bool required;
} schema_member;

typedef struct schema_variant {
    uint32_t kinds;
    const number_bounds *number;        /* NULL: any */
    const char_nfa *strings;            /* NULL: any of the lengths below */
    uint32_t least_length, most_length; /* characters; held by `strings` where that is given */
    uint32_t least_items, most_items;
    const uint32_t *prefix;       /* [prefix_count] nodes */
    uint32_t prefix_count, items; /* items: of what follows the prefix */
    bool items_by_default;        /* `items` is ours, not the schema's */
    const schema_member *member;  /* in the order they are written */
    uint32_t member_count, additional;
    bool additional_by_default;
    bool is_constant; /* one of these, and nothing else */
    const json_value **constant;
    uint32_t constant_count;
} schema_variant;

typedef struct schema_node {
    schema_variant **variant;
    uint32_t variant_count;
    bool ends; /* some finite value fits */
} schema_node;

typedef struct schema {
    const schema_node *node;
    uint32_t node_count, root; /* root may be SCHEMA_ANY */
    void *owned;
} schema;

STATUS_CHECKED status schema_open(schema **out, const char *text, size_t bytes);
void schema_close(schema *s);                          /* NULL is fine */
uint32_t schema_kind_of(const json_value *v);          /* SCHEMA_NULL, … */
bool schema_node_ends(const schema *s, uint32_t node); /* SCHEMA_NONE and SCHEMA_ANY too */

#endif
