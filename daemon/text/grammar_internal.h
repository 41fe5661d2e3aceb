/* Inside of the grammar builder and compiler: the network as it was built. */
#ifndef DAEMON_TEXT_GRAMMAR_INTERNAL_H
#define DAEMON_TEXT_GRAMMAR_INTERNAL_H

#include "base/automaton_parts.h"
#include "daemon/text/grammar.h"

typedef enum grammar_edge_kind {
    GRAMMAR_EMPTY,
    GRAMMAR_BYTES,  /* a: low, b: high */
    GRAMMAR_TOKEN,  /* a: id */
    GRAMMAR_CALL,   /* a: rule */
    GRAMMAR_REPEAT, /* a: unit, b: least, c: most */
} grammar_edge_kind;

typedef struct grammar_edge {
    uint32_t kind, from, to, a, b, c;
} grammar_edge;

typedef struct grammar_rule {
    uint32_t start, end;
} grammar_rule;

struct grammar {
    grammar_rule *rule;
    uint32_t *rule_of; /* [states] */
    grammar_edge *edge;
    uint32_t rules, states, edges, rule_cap, state_cap, edge_cap;
    uint64_t wanted_rules, wanted_states, wanted_edges; /* more than there are once a bound was met */
};

/* The rules without empty edges, one way for each byte, token and call: rules, symbols, states, ranges, tokens and calls of
 * parts that are empty yet. States from which the end of their rule cannot be reached are left out. */
STATUS_CHECKED status grammar_determinise(const grammar *g, uint32_t token_count, automaton_parts *out);
/* A state whose walk through the vocabulary sees no more nodes than this gets no table: that is some 30 us for the leader. */
enum { GRAMMAR_NARROW_NODES = 1024 };
/* Tables for the states that are not narrow. */
STATUS_CHECKED status grammar_add_tables(automaton *a, uint32_t narrow_nodes);
/* grammar_compile with what a test wants to choose. */
STATUS_CHECKED status grammar_compile_for(const grammar *g, const vocabulary *v, const uint32_t *ends,
                                          uint32_t end_count, uint32_t narrow_nodes, uint8_t **bytes,
                                          size_t *size);

#endif
