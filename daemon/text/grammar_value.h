/* Values in a notation: JSON, or the arguments of Gemma's tool calls. What one notation allows more than the other is told
 * here and nowhere else.
 *
 * JSON: one space, or a new line with at most VALUE_INDENT_MAX spaces and tabs, may stand behind { [ and , and before } and ],
 * one space behind a colon, so that white space ends. In strings any character, raw or escaped (also as \uXXXX, pairs of
 * surrogates for one character), none of them a control character.
 * Gemma: no white space; strings stand between two delimiter tokens and hold any text, without escapes; keys are bare, or
 * between delimiters where they could not be read back.
 *
 * Threads: one at a time. Edges go from `from` to `to`, states of `rule`. */
#ifndef DAEMON_TEXT_GRAMMAR_VALUE_H
#define DAEMON_TEXT_GRAMMAR_VALUE_H

#include "daemon/text/char_nfa.h"
#include "daemon/text/grammar_number.h"
#include "daemon/text/json_tree.h"

enum { VALUE_INDENT_MAX = 20 };

typedef struct value_notation {
    grammar *g;
    bool gemma;
    uint32_t delimiter;                              /* token, Gemma's */
    uint32_t character, key_character, digit, blank; /* rules of one of it */
    uint32_t value, object, array;                   /* rules of any; UINT32_MAX: not made yet */
} value_notation;

/* Makes the rules of small units; the others when they are asked for. */
void value_notation_open(value_notation *n, grammar *g); /* JSON */
void value_notation_open_gemma(value_notation *n, grammar *g, uint32_t delimiter);

uint32_t value_rule_any(value_notation *n);    /* the rule of any value */
uint32_t value_rule_object(value_notation *n); /* … of any object */
void value_write_word(value_notation *n, uint32_t from, uint32_t to, const char *word); /* null, true, { … */
void value_write_string(value_notation *n, uint32_t rule, uint32_t from, uint32_t to, uint32_t least,
                        uint32_t most);
void value_write_strings(value_notation *n, uint32_t rule, uint32_t from, uint32_t to,
                         const char_nfa *strings);
void value_write_constant(value_notation *n, uint32_t rule, uint32_t from, uint32_t to, const json_value *v);
/* A key with its colon. */
void value_write_key(value_notation *n, uint32_t rule, uint32_t from, uint32_t to, const char *name,
                     size_t bytes);
/* Any key but these. */
STATUS_CHECKED status value_write_other_key(value_notation *n, uint32_t rule, uint32_t from, uint32_t to,
                                            const char_name *names, size_t count);
/* White space that may stand there; returns the state behind it, which is `from` where there is none. */
uint32_t value_write_space(value_notation *n, uint32_t rule, uint32_t from);

#endif
