/* What the states of a network can, for leaving out what leads nowhere and going around what may be empty. */
#ifndef DAEMON_TEXT_GRAMMAR_FACTS_H
#define DAEMON_TEXT_GRAMMAR_FACTS_H

#include "daemon/text/grammar_internal.h"

/* How the end of its rule can be reached from a state. */
enum { CAN_WITH_NOTHING = 1, CAN_WITH_SOMETHING = 2 };

uint8_t *grammar_find_facts(const grammar *g); /* [states], free() */
/* Whether the edge is of use as a byte, a token, or a call that matches something. */
bool grammar_edge_lives(const grammar *g, const uint8_t *can, const grammar_edge *e);
/* Whether one may pass it with nothing. */
bool grammar_edge_is_empty(const grammar *g, const uint8_t *can, const grammar_edge *e);

#endif
