/* What the vocabulary's tokens do from a state of a rule that is not counted, as far as the rule alone decides.
 *
 * A walk keeps what the one before it found: below a node of the trie whatever begins at a state that no rest of a token can
 * tell from the state of last time stays as it is. States that differ in few tokens, such as those along a text with an end
 * or among many names, cost what they differ in.
 *
 * Threads: one at a time. */
#ifndef DAEMON_TEXT_GRAMMAR_WALK_H
#define DAEMON_TEXT_GRAMMAR_WALK_H

#include "daemon/text/grammar_internal.h"

/* Nodes looked at for one grammar, a step of several rules at once being several: about a second. */
enum { GRAMMAR_WORK_MAX = 40 << 20 };
/* States are told apart by so many bytes that follow, or a few more; the last: by any token. */
enum { WALK_LEVELS = 17 };

typedef struct grammar_walk {
    automaton *a;
    const token_trie *trie;
    uint32_t root[256]; /* node of each first byte; AUTOMATON_NONE */
    uint8_t *level;     /* [nodes]: by how many bytes its longest token is longer */
    uint32_t rounds;    /* bytes of the longest token */
    uint64_t *class
        [WALK_LEVELS]; /* [class_cap] of the rule's states: equal where so many bytes tell no difference */
    uint32_t class_cap, first; /* first: the rule's first state */
    uint64_t
        *at; /* [nodes]: the class of the state there, 0: none; below CALLS and none it is of no meaning */
    uint32_t *taken; /* the tokens that stay in the rule or end with it */
    uint64_t *ends;  /* [nodes] bits: the rule may end there */
    uint64_t work;
    bool over; /* too many places at once */
} grammar_walk;

void grammar_walk_open(grammar_walk *w, automaton *a);
void grammar_walk_close(grammar_walk *w);
/* Before the states of a rule. */
void grammar_walk_begin(grammar_walk *w, uint32_t rule);
/* Equal for states, also of two rules, that no token can tell apart. */
uint64_t grammar_walk_class(const grammar_walk *w, uint32_t state);
/* Equal for states of the rule that so many bytes cannot tell apart. */
uint64_t grammar_walk_class_within(const grammar_walk *w, uint32_t state, uint32_t bytes);
uint64_t grammar_walk_mixed(uint64_t hash, uint64_t more);
/* Whether a walk sees more than `nodes` nodes. */
bool grammar_walk_is_wide(grammar_walk *w, uint32_t symbol, uint32_t state, uint32_t nodes);
/* Fills taken and ends; symbol: one that calls the state's rule. Stops early, with something missing, when `over` is set or
 * `work` passes GRAMMAR_WORK_MAX. */
void grammar_walk_from(grammar_walk *w, uint32_t symbol, uint32_t state);

#endif
