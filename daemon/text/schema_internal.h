/* What the files of the schema reader share. */
#ifndef DAEMON_TEXT_SCHEMA_INTERNAL_H
#define DAEMON_TEXT_SCHEMA_INTERNAL_H

#include "base/strbuf.h"
#include "daemon/text/schema.h"

/* Schemas that hold together, in the order they were met; no two are the same. */
typedef struct schema_set {
    const json_value **item;
    uint32_t count, capacity;
} schema_set;

void schema_set_add(schema_set *s, const json_value *v); /* once */
bool schema_set_has(const schema_set *s, const json_value *v);

typedef struct schema_arena schema_arena;

enum { SCHEMA_WORK_MAX = 1 << 26 };

typedef struct schema_builder {
    json_tree *tree;
    const json_value *root;
    schema_node *node;
    schema_set *meaning; /* [node_count]: the schemas of the node */
    uint32_t node_count, node_capacity, done, way_count, automata_states, wide_states;
    uint64_t work;            /* comparisons so far */
    uint32_t *bucket, *chain; /* nodes by hash of their meaning */
    schema_arena *arena;
    char_nfa **automaton;
    uint32_t automaton_count;
} schema_builder;

void *schema_alloc(schema_builder *b, size_t bytes); /* zeroed, lives as long as the schema */
/* The same as one that is kept, or kept, and released, by the builder; counted against SCHEMA_AUTOMATA_MAX. */
STATUS_CHECKED status schema_keep(schema_builder *b, char_nfa *a, const char_nfa **out);

/* So many comparisons more; ST_INVALID when that are over SCHEMA_WORK_MAX. */
STATUS_CHECKED status schema_work(schema_builder *b, const json_value *at, uint64_t comparisons);
/* ST_INVALID with the pointer of `at`, of its member `keyword` when not NULL, and the sentence. */
status schema_wrong(const schema_builder *b, const json_value *at, const char *keyword, const char *format,
                    ...) __attribute__((format(printf, 4, 5)));
/* The node of a set of schemas; takes the set. SCHEMA_NONE when false is among them. */
STATUS_CHECKED status schema_node_of(schema_builder *b, schema_set *set, uint32_t *out);
/* schema_expand.c: the variants of a node. */
STATUS_CHECKED status schema_expand(schema_builder *b, uint32_t node);
STATUS_CHECKED status schema_resolve(const schema_builder *b, const json_value *at, const json_value *ref,
                                     const json_value **out);
/* schema_variant.c: what the schemas of a set say together; names[] must be there whatever `required` says. */
STATUS_CHECKED status schema_read_variant(schema_builder *b, const schema_set *set, const schema_set *names,
                                          schema_variant **out);
/* schema_keyword.c: whether the keyword may stand there at all. */
STATUS_CHECKED status schema_check_keyword(const schema_builder *b, const json_value *at,
                                           const json_value *keyword);
/* The kinds that `type` allows; SCHEMA_KINDS when there is none. *integer: numbers must be integers. */
STATUS_CHECKED status schema_read_type(const schema_builder *b, const json_value *at, uint32_t *kinds,
                                       bool *integer);
uint32_t schema_implied_kinds(const char *keyword);
/* schema_format.c: the expression of a format; NULL: unknown. */
const char *schema_format_regex(const char *name);
/* A comma-separated list of the names. */
const char *schema_format_names(void);

/* schema_value.c */
bool schema_equal(const json_value *a, const json_value *b);

STATUS_CHECKED status schema_filter_constants(schema *s);
/* Marks the nodes that some finite value fits. */
void schema_mark_ends(schema *s);

#endif
