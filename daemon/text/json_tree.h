/* A JSON text as a tree that keeps what a chat template and a tool call must keep and jansson does not: the order of keys,
 * the spelling of numbers, U+0000 in strings. Request bodies are read through it as well.
 *
 * Memory:  json_tree_read allocates everything; json_tree_close releases. Values point into the tree; strings are decoded
 *          UTF-8 with a NUL behind that does not count.
 * Threads: any; a tree is read-only.
 * Errors:  ST_FORMAT "byte N: …" for what RFC 8259 does not allow, for text that is not UTF-8, for a lone surrogate, for a
 *          nesting deeper than JSON_TREE_DEPTH_MAX, for more than JSON_TREE_VALUES_MAX values. Of a key that comes twice the last
 *          value counts and stands where the first stood, as in Python. *out is then NULL. */
#ifndef DAEMON_TEXT_JSON_TREE_H
#define DAEMON_TEXT_JSON_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

enum { JSON_TREE_DEPTH_MAX = 128, JSON_TREE_VALUES_MAX = 1 << 20 };

typedef enum json_kind {
    JSON_KIND_NULL,
    JSON_KIND_FALSE,
    JSON_KIND_TRUE,
    JSON_KIND_NUMBER,
    JSON_KIND_STRING,
    JSON_KIND_ARRAY,
    JSON_KIND_OBJECT
} json_kind;

typedef struct json_value {
    json_kind kind;
    const char *text; /* a string's characters, a number's spelling; NULL for the others */
    size_t bytes;
    const char *key;  /* as a member of an object; NULL elsewhere */
    size_t key_bytes;
    const struct json_value *first, *next; /* of an array or object: its first child; the next child of the same parent */
    uint32_t count;                        /* children */
} json_value;

typedef struct json_tree json_tree;

STATUS_CHECKED status json_tree_read(json_tree **out, const char *text, size_t bytes);
void json_tree_close(json_tree *t); /* NULL is fine */
const json_value *json_tree_root(const json_tree *t);
uint32_t json_tree_count(const json_tree *t); /* values, the root included */

/* The member of an object by its key; NULL: none, or v is NULL or no object. */
const json_value *json_value_get(const json_value *v, const char *key);
bool json_value_is_string(const json_value *v, const char *text);
/* A number that is written as an integer (no fraction, no exponent) and fits. */
bool json_value_integer(const json_value *v, int64_t *out);
/* Any number; false for other kinds and for what is no finite double. */
bool json_value_number(const json_value *v, double *out);
/* Appends the value as JSON without white space: numbers and key order as they were read, strings escaped as little as JSON
 * allows. */
void json_value_write(const json_value *v, strbuf *out);
/* Appends text as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void json_write_string(strbuf *out, const char *text, size_t bytes);

#endif
