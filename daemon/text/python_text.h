/* What Python's str, repr and json.loads make of text and values: chat templates were written for it, and models were trained
 * on what it prints.
 *
 * Memory:  nothing is kept; appended text is the strbuf's.
 * Threads: any. */
#ifndef DAEMON_TEXT_PYTHON_TEXT_H
#define DAEMON_TEXT_PYTHON_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/strbuf.h"
#include "daemon/text/json_tree.h"

/* str.strip(): moves both ends of a valid UTF-8 text inwards, over Unicode white space. */
void python_strip(const char **text, size_t *bytes);
/* Order of a.lower() and b.lower() by code points: < 0, 0, > 0. A Σ at the end of a word counts as σ. */
int python_compare_lower(const char *a, size_t a_bytes, const char *b, size_t b_bytes);
/* Appends text.upper(). */
void python_write_upper(strbuf *out, const char *text, size_t bytes);

/* Appends str(json.loads(v)): a string as it is; numbers by Python's rules (1e16 is 1e+16, 1.0 stays 1.0, an integer keeps
 * all its digits); arrays and objects as repr has them. NULL, an undefined name: nothing. */
void python_write_str(strbuf *out, const json_value *v);
/* bool(json.loads(v)); NULL: false. */
bool python_truth(const json_value *v);
/* Appends repr(text). */
void python_write_repr(strbuf *out, const char *text, size_t bytes);

#endif
