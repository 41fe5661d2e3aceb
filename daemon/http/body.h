/* Reading the fields of a request's body. null is absent everywhere, as clients send it for what they do not set.
 *
 * Memory:  what is read points into the tree or the body's arena.
 * Threads: any; a body belongs to one.
 * Errors:  ST_INVALID or ST_UNSUPPORTED with a sentence, and in `param` and `word` what the error's fields shall say. */
#ifndef DAEMON_HTTP_BODY_H
#define DAEMON_HTTP_BODY_H

#include "daemon/http/arena.h"
#include "daemon/text/json_tree.h"

typedef struct body {
    json_tree *tree;
    const json_value *root; /* an object */
    arena memory;
    char param[128];  /* "": none */
    const char *word; /* NULL: none */
} body;

/* The text must be a JSON object. */
STATUS_CHECKED status body_open(body *b, const char *text, size_t bytes);
void body_close(body *b);

/* Refuses with param as the field at fault: word "invalid_value". */
status body_invalid(body *b, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* What is well-formed and not done here: word "unsupported_parameter". */
status body_unsupported(body *b, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* What becomes of a field that has no reader of its own. */
typedef struct body_field {
    const char *name;
    /* NULL: it is read elsewhere. "*": it does not change the answer and is taken whatever it says. Else the values, as
     * JSON without white space and with spaces between them, that ask for nothing; any other is refused. */
    const char *neutral;
    const char *why; /* the end of the refusal: "… is not available: WHY" */
} body_field;

/* Every member of v is one of the fields; a name that is none is refused as unknown. within ("" for the root, "messages[2].")
 * stands before names. */
STATUS_CHECKED status body_check_fields(body *b, const json_value *v, const char *within,
                                        const body_field *fields, size_t count);

/* Members of an object; absent and null leave *out as it is and *has (may be NULL) false. */
const json_value *body_get(const json_value *v, const char *key); /* NULL: absent or null */
STATUS_CHECKED status body_read_u32(body *b, const json_value *v, const char *key, uint32_t least,
                                    uint32_t most, uint32_t *out, int *has);
STATUS_CHECKED status body_read_float(body *b, const json_value *v, const char *key, float *out, int *has);
STATUS_CHECKED status body_read_bool(body *b, const json_value *v, const char *key, bool *out);
/* Any characters. */
STATUS_CHECKED status body_read_text(body *b, const json_value *v, const char *key, const json_value **out);
/* Without U+0000, since it is handed on as a C string. */
STATUS_CHECKED status body_read_string(body *b, const json_value *v, const char *key, const char **out);
/* A JSON value as its text, in the arena. */
char *body_write(body *b, const json_value *v, size_t *bytes);

#endif
