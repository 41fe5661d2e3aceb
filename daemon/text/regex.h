/* Regular expressions, a part of what ECMA 262 and RE2 have in common, as automata over characters.
 *
 * Literals and . (no line end: \n \r U+2028 U+2029) · [a-z] [^a-z] with escapes · \d \D \w \W \s \S as ECMA has them (\d and
 * \w are ASCII) · \n \r \t \f \v \0 \xHH \uHHHH \u{H…} \cX and \ before punctuation · groups ( ), (?: ), (?<name> ),
 * (?P<name> ) · | · * + ? {m} {m,} {m,n}, lazy ones too, which match the same strings · ^ and $ at the ends of the text.
 * Refused by name: back-references, look-ahead and look-behind, \b \B, \p \P, flags, possessive quantifiers, [:classes:].
 *
 * Memory:  *out is released with char_nfa_close.
 * Threads: any.
 * Errors:  ST_INVALID "byte N: …"; "… states, at most …" for what is too large. *out is then empty. */
#ifndef DAEMON_TEXT_REGEX_H
#define DAEMON_TEXT_REGEX_H

#include "daemon/text/char_nfa.h"

enum { REGEX_BYTES_MAX = 1 << 14, REGEX_DEPTH_MAX = 128, REGEX_COUNT_MAX = 1 << 14 };

typedef enum regex_where {
    REGEX_WHOLE, /* the string matches from its beginning to its end */
    REGEX_SEARCH /* some part of it matches, as JSON Schema's pattern asks */
} regex_where;

/* text need not end in NUL. The automaton is trimmed; without a state when no string matches. */
STATUS_CHECKED status regex_read(char_nfa *out, const char *text, size_t bytes, regex_where where);

#endif
