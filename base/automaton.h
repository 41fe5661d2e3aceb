/* An automaton over token ids: what a grammar was compiled to, and following it. Rules of states with one way for each byte
 * or special token, which call each other; a position is a set of places, each with the calls it stands in, kept as a graph
 * that shares what is common. Where the rules alone decide, sets of tokens are in the automaton (tables); the rest is found
 * by walking the vocabulary.
 *
 * Memory:  an automaton is counted: automaton_read gives one reference, automaton_keep another, automaton_drop takes one
 *          back. A cursor keeps its automaton; the vocabulary must outlive both.
 * Threads: one at a time for an automaton with all its cursors: they share scratch.
 * Errors:  automaton_read: ST_FORMAT, or ST_MISMATCH when it was made for another vocabulary. A cursor that would stand in
 *          more than LIMIT_GRAMMAR_PLACES places or LIMIT_GRAMMAR_DEPTH calls fails with ST_UNSUPPORTED, and is as it was. */
#ifndef BASE_AUTOMATON_H
#define BASE_AUTOMATON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/vocabulary.h"

typedef struct automaton automaton;

STATUS_CHECKED status automaton_read(automaton **out, const uint8_t *bytes, size_t n, const vocabulary *v);
automaton *automaton_keep(automaton *a);
void automaton_drop(automaton *a); /* NULL is fine */

typedef struct automaton_cursor automaton_cursor;

/* At the beginning of an answer. */
automaton_cursor *automaton_cursor_open(automaton *a);
void automaton_cursor_close(automaton_cursor *c); /* NULL is fine */

/* Goes on by a token. ST_INVALID: the grammar does not allow it here. */
STATUS_CHECKED status automaton_take_token(automaton_cursor *c, uint32_t id);
/* Goes on by one byte, as if a token had it; for tests. */
STATUS_CHECKED status automaton_take_byte(automaton_cursor *c, uint8_t byte);
/* words[(tokens of the vocabulary + 31) / 32]: bit id % 32 of word id / 32 is set when that token is allowed next. Not after
 * an end token was taken. ST_INTERNAL: none is, which a whole automaton rules out. */
STATUS_CHECKED status automaton_mask(automaton_cursor *c, uint32_t *words);
bool automaton_complete(const automaton_cursor *c); /* an end token may come */
bool automaton_ended(const automaton_cursor *c);    /* one came */

#endif
