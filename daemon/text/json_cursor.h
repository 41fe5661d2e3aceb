/* A cursor over JSON text for files too large for a tree: tokenizer.json has 1.8 million values, which
 * jansson reads in 1.3 s into 180 MB. Strings without escapes are handed out where they lie.
 *
 * Memory:  the text is the caller's and outlives the cursor; json_cursor_close releases the scratch buffer.
 * Threads: a cursor belongs to one.
 * Errors:  ST_FORMAT "byte N: …". The cursor then stands anywhere. */
#ifndef DAEMON_TEXT_JSON_CURSOR_H
#define DAEMON_TEXT_JSON_CURSOR_H

#include "base/status.h"
#include "base/strbuf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct json_cursor {
    const char *text; /* valid UTF-8: checked by the caller, once */
    size_t at, size;
    strbuf scratch;
} json_cursor;

void json_cursor_close(json_cursor *c);

/* The next byte that is not white space, not taken; 0 at the end. */
char json_cursor_peek(json_cursor *c);
/* Takes `byte` if it is next. */
bool json_cursor_take(json_cursor *c, char byte);
STATUS_CHECKED status json_cursor_expect(json_cursor *c, char byte);
/* For loops over arrays and objects: *more tells whether another element follows. `first` is true before the
 * first. */
STATUS_CHECKED status json_cursor_next(json_cursor *c, char close, bool first, bool *more);
/* *s is good until the next call that reads a string. */
STATUS_CHECKED status json_cursor_string(json_cursor *c, const char **s, size_t *n);
STATUS_CHECKED status json_cursor_u32(json_cursor *c, uint32_t most, uint32_t *out);
/* Steps over one value and tells where it lies. Checks brackets and strings, not the spelling of numbers. */
STATUS_CHECKED status json_cursor_skip(json_cursor *c, size_t *begin, size_t *end);

#endif
