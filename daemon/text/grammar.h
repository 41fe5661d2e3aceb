/* What an answer may look like, as a recursive network: rules of states, with edges over bytes, special tokens and calls of
 * other rules. Whoever knows a notation (JSON Schema, a regular expression, a list of choices, Gemma's tool calls) builds
 * one; grammar_compile makes of it the automaton over token ids that an engine follows.
 *
 * The language is over a sequence of tokens: a token that is not special stands for its bytes (tokenizer_bytes), a special
 * one only for itself (grammar_edge_token). What follows an accepting end of rule 0 is an end token and nothing else.
 * Counted repetition (grammar_repeat) is native, so that maxLength 10000 costs no 10,000 states.
 *
 * Memory:  grammar_open allocates; grammar_close releases.
 * Threads: one at a time; compile on a worker thread.
 * Errors:  a network of more than GRAMMAR_STATES_MAX states, GRAMMAR_RULES_MAX rules or GRAMMAR_EDGES_MAX edges is told by
 *          grammar_compile as ST_INVALID with both numbers; builder calls never fail (they stop adding). */
#ifndef DAEMON_TEXT_GRAMMAR_H
#define DAEMON_TEXT_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "daemon/text/tokenizer.h"
#include "proto/limits.h"

enum { GRAMMAR_STATES_MAX = LIMIT_GRAMMAR_STATES, GRAMMAR_RULES_MAX = 1 << 14, GRAMMAR_EDGES_MAX = 1 << 20 };
#define GRAMMAR_UNBOUNDED UINT32_MAX

typedef struct grammar grammar;

grammar *grammar_open(void);
void grammar_close(grammar *g); /* NULL is fine */

/* Rule 0 is the answer and is there from the start; every rule has a start and an end state of its own. */
uint32_t grammar_add_rule(grammar *g);
uint32_t grammar_rule_start(const grammar *g, uint32_t rule);
uint32_t grammar_rule_end(const grammar *g, uint32_t rule);
/* A state of a rule. Edges stay inside one rule. */
uint32_t grammar_add_state(grammar *g, uint32_t rule);

void grammar_edge_empty(grammar *g, uint32_t from, uint32_t to);
void grammar_edge_bytes(grammar *g, uint32_t from, uint8_t low, uint8_t high,
                        uint32_t to); /* one byte, ends included */
void grammar_edge_token(grammar *g, uint32_t from, uint32_t special_id, uint32_t to);
/* The callee's whole language, then `to`. Recursion is allowed; left recursion (a rule that can reach itself before a byte
 * or token) is refused by grammar_compile. */
void grammar_edge_call(grammar *g, uint32_t from, uint32_t callee, uint32_t to);
/* least … most times the language of `unit`, then `to`. The unit is a rule that calls nothing and repeats nothing, matches
 * no empty string, and no string of it is a prefix of another (one character of a string is such); most may be
 * GRAMMAR_UNBOUNDED. */
void grammar_edge_repeat(grammar *g, uint32_t from, uint32_t unit, uint32_t least, uint32_t most,
                         uint32_t to);

/* Conveniences made of the above. */
void grammar_edge_text(grammar *g, uint32_t from, const char *text, size_t bytes, uint32_t to);
/* One code point of low … high as UTF-8; surrogates are left out. */
void grammar_edge_code_points(grammar *g, uint32_t from, uint32_t low, uint32_t high, uint32_t to);
/* Any text: a loop over every byte (what free answers and thoughts are made of). */
void grammar_loop_any(grammar *g, uint32_t state);

/* The automaton as it goes to an engine (free()), beside tokenizer_vocabulary(t): what the leader follows and takes its
 * masks from. `ends` are the ids that may follow a complete answer. Deterministic: same input, same bytes.
 * ST_INVALID also for a rule that recurs on its left, a unit that cannot be counted, a grammar that matches nothing, and
 * one whose automaton grows beyond GRAMMAR_STATES_MAX states, LIMIT_GRAMMAR_MASKS sets of tokens or LIMIT_GRAMMAR_BYTES, or takes
 * more than about a second of one processor; with both numbers.
 * Time: some 30 ms for a string of any length; states that take many tokens and differ in what follows late cost 1 ms each. A
 * class repeated {20,400} has 70 of them when it is written out in states, one as grammar_edge_repeat. */
STATUS_CHECKED status grammar_compile(const grammar *g, const tokenizer *t, const uint32_t *ends,
                                      uint32_t end_count, uint8_t **bytes, size_t *size);

#endif
