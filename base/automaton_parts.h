/* The inside of an automaton, for what makes, reads and follows one; nobody else includes this.
 *
 * A place is (state, frame, count). A frame is a call that was begun at one position of the text; all who make the same call
 * there share it, and its links say to which state, in which frame, it returns. A counted symbol is a call of a unit so many
 * times in a row; count is how many of them are complete. */
#ifndef BASE_AUTOMATON_PARTS_H
#define BASE_AUTOMATON_PARTS_H

#include "base/automaton.h"
#include "base/strbuf.h"

#define AUTOMATON_NONE UINT32_MAX
#define AUTOMATON_UNBOUNDED UINT32_MAX

typedef struct automaton_range {
    uint32_t target;
    uint8_t low, high; /* ends included; the ranges of a state rise and do not overlap */
} automaton_range;
typedef struct automaton_token {
    uint32_t id, target; /* ids of a state rise */
} automaton_token;
typedef struct automaton_call {
    uint32_t symbol, target;
} automaton_call;

typedef struct automaton_state {
    uint32_t range, token, call; /* its first ones; the next state's are behind its last */
    uint32_t table;              /* AUTOMATON_NONE: none; states that take the same tokens share one */
    bool accept;
} automaton_state;

typedef struct automaton_symbol {
    uint32_t rule, least, most;
    bool counted; /* else least and most are 1 */
} automaton_symbol;

/* Tokens that are allowed if no more than `units` units of the text are touched by them: the ones of the groups before too. */
typedef struct automaton_group {
    uint32_t units, mask;
} automaton_group;

/* Tokens whose first byte leaves the state: those that stay in its rule or end with it, by groups (one group of 0 units where
 * nothing is counted), and in `rest` what is left of those that go on behind the rule's end, after so many complete units. */
typedef struct automaton_table {
    uint32_t group, groups;
    token_trie rest;
} automaton_table;

/* A set of tokens as it is written: AUTOMATON_RUNS: varint gap, varint length - 1 …; AUTOMATON_BITS: the words. */
typedef enum automaton_coding { AUTOMATON_RUNS, AUTOMATON_BITS } automaton_coding;

typedef struct automaton_parts {
    uint32_t *rule;           /* [rules + 1]: its first state, which is its start */
    automaton_symbol *symbol; /* symbol 0 is the answer: rule 0 */
    automaton_state *state;   /* [states + 1] */
    automaton_range *range;
    automaton_token *token;
    automaton_call *call;
    automaton_table *table;
    automaton_group *group;
    uint32_t *mask; /* [masks, words] */
    uint32_t *end;  /* tokens that may follow a complete answer */
    uint32_t rules, symbols, states, ranges, tokens, calls, tables, groups, masks, ends, words;
    uint32_t rule_cap, symbol_cap, state_cap, range_cap, token_cap, call_cap, table_cap, group_cap, mask_cap;
} automaton_parts;

void automaton_parts_close(automaton_parts *p);
/* What automaton_read takes. */
void automaton_write(const automaton_parts *p, const vocabulary *v, strbuf *out);
/* Takes the parts over; groups' masks are their own here, not those with the groups before. */
automaton *automaton_make(automaton_parts *p, const vocabulary *v);

/* ---- following ---- */

typedef struct automaton_place {
    uint32_t state, frame, count;
    uint32_t previous; /* with the same state in the same level, + 1; 0: none */
} automaton_place;
typedef struct automaton_frame {
    uint32_t symbol, link; /* link + 1; 0: none */
} automaton_frame;
typedef struct automaton_link {
    uint32_t target, frame, next; /* target: a state, or one of those below */
} automaton_link;
#define AUTOMATON_TO_END UINT32_MAX           /* the answer is complete */
#define AUTOMATON_TO_OUTSIDE (UINT32_MAX - 1) /* a rule is looked at without its callers */

typedef struct automaton_level {
    uint32_t place, frame, link; /* its first ones */
    bool complete, outside;
} automaton_level;

struct automaton {
    automaton_parts p;
    const vocabulary *v;
    uint32_t references;
    uint32_t *place_of; /* [states]: the latest place with it; */
    uint32_t *frame_of; /* [symbols]: the latest frame; both are looked at before they are believed */
    uint32_t *merged;   /* [groups, words]: a group's mask with those of the groups before */
    bool *pure_end;     /* [states]: accepts, and nothing leads on */
};

/* Level 0 is where the cursor stands; a walk adds one for each byte. */
struct automaton_cursor {
    automaton *a;
    automaton_place *place;
    automaton_frame *frame;
    automaton_link *link;
    uint32_t places, frames, links, place_cap, frame_cap, link_cap, kept_frames;
    automaton_level level[TOKEN_BYTES_MAX + 3];
    uint32_t levels;
    bool over, ended;
};

/* Stands at one state of a rule that is looked at without its callers. */
automaton_cursor *automaton_cursor_at(automaton *a, uint32_t symbol, uint32_t state);
/* A level behind the last one, by a byte. False: nothing and nobody takes it (the level is there all the same, empty). */
bool automaton_push(automaton_cursor *c, uint8_t byte);
/* A level behind the last one, where the frame of a place of level 0 has ended. */
bool automaton_push_end(automaton_cursor *c, uint32_t frame);
/* A level where the last one's places have just been reached: what they call begins, and what ends there ends. */
bool automaton_push_here(automaton_cursor *c);
/* A level with those places of level 0 whose states have no table. */
bool automaton_push_narrow(automaton_cursor *c);
void automaton_pop_to(automaton_cursor *c, uint32_t levels);
/* The target of a byte; AUTOMATON_NONE: none. */
uint32_t automaton_next(const automaton_parts *p, uint32_t state, uint8_t byte);

#endif
