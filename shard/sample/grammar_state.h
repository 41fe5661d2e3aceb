/* Grammars in the leader: the automata of live requests, shared by those that sent the same, and where each request stands
 * in its own.
 *
 * Memory:  a book owns the vocabulary and automata, a few of them beyond their last request; states must be closed before
 *          their book. A state holds one set of allowed tokens.
 * Threads: engine thread of the leader.
 * Errors:  ST_FORMAT and ST_MISMATCH for bytes that are no automaton for this vocabulary, ST_INVALID for a token that the
 *          grammar does not allow, ST_UNSUPPORTED for a place that is too ambiguous to be followed. */
#ifndef SHARD_SAMPLE_GRAMMAR_STATE_H
#define SHARD_SAMPLE_GRAMMAR_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct grammar_book grammar_book;
typedef struct grammar_state grammar_state;

grammar_book *grammar_book_open(uint32_t vocab); /* of the model; a tokenizer may know fewer */
void grammar_book_close(grammar_book *b);        /* NULL is fine */
/* What tokens stand for (base/vocabulary.h), before the first state. The same may come again, another may not. */
STATUS_CHECKED status grammar_book_take_vocabulary(grammar_book *b, const uint8_t *bytes, size_t n);

/* The grammar of the states that are opened from here on, until the next one; the book keeps it. Bytes that are refused leave
 * none: opening then fails. */
STATUS_CHECKED status grammar_book_take_grammar(grammar_book *b, const uint8_t *bytes, size_t n);

/* emitted[count]: tokens of the answer that are there already; the grammar goes on behind them. */
STATUS_CHECKED status grammar_state_open(grammar_state **out, grammar_book *b, const uint32_t *emitted,
                                         uint32_t count);
void grammar_state_close(grammar_state *g); /* NULL is fine */
/* Goes on by a drawn token. */
STATUS_CHECKED status grammar_state_take(grammar_state *g, uint32_t token);
/* An end token has come: nothing may follow. */
bool grammar_state_ended(const grammar_state *g);
/* The tokens that may come next: [(vocab + 31) / 32] words, bit id % 32 of word id / 32; never none; valid until the next
 * take. Not after the end. */
const uint32_t *grammar_state_allowed(const grammar_state *g);

#endif
