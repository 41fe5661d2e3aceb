/* Looking ahead in the text of a tool call: where a bare word ends, and whether the call can go on behind a string.
 *
 * Threads: any; a scan belongs to one call.
 * Cost:    no look goes past the second delimiter or quotation mark ahead of it, nor past a comma, so that all looks of a
 *          call together are O(its bytes). */
#ifndef DAEMON_TEXT_CALL_SCAN_H
#define DAEMON_TEXT_CALL_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/text/json_tree.h"

typedef struct call_scan {
    const char *text; /* [size] */
    size_t size, at;
    bool closes; /* the text's end closes what is open */
    char open
        [JSON_TREE_DEPTH_MAX]; /* [depth]: the closers that are due, outermost first; ')' closes the arguments only */
    unsigned depth;
} call_scan;

static inline bool call_is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
/* Whether c may be part of a tool's name. */
bool call_in_name(char c);
/* Moves s->at over white space. */
void call_scan_space(call_scan *s);
/* Where the bare key that begins at `at` ends: at what cannot be part of one. */
size_t call_scan_bare_key(const call_scan *s, size_t at);
/* Where the bare value that begins at `at` ends: at a comma, a bracket, a delimiter or the end. */
size_t call_scan_bare(const call_scan *s, size_t at);
/* From behind an opening '"' to the closing one, to a delimiter before it, or to the end. */
size_t call_scan_json_quote(const call_scan *s, size_t at);
/* ':', or '=' as well directly in round brackets. */
bool call_scan_is_separator(const call_scan *s, size_t at);
/* Whether a key and its separator come next. delimited: the key may stand between delimiters. */
bool call_scan_key_ahead(const call_scan *s, size_t at, bool delimited);
/* Whether the call can go on at `at`, right behind a string. even: there was an even number of delimiters inside it. */
bool call_scan_goes_on(const call_scan *s, size_t at, bool even);
/* Where a string from `begin` to the end of the text ends, when closers that are due are not part of it. */
size_t call_scan_tail(const call_scan *s, size_t begin);

#endif
