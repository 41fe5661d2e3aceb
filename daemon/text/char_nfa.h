/* Sets of strings as automata over characters: what regular expressions, formats and forbidden names become, before they
 * are written out in the notation of an answer (as they are, or as JSON strings).
 *
 * State 0 is the start; every edge takes one character. Edges of one state may overlap.
 *
 * Memory:  char_nfa_close releases. A zeroed automaton is valid and has no state.
 * Threads: one at a time.
 * Errors:  ST_INVALID with both numbers when an automaton would have more than CHAR_NFA_STATES_MAX states or
 *          CHAR_NFA_EDGES_MAX edges, or an intersection would compare more than CHAR_NFA_WORK_MAX pairs of edges; *out is
 *          then empty. */
#ifndef DAEMON_TEXT_CHAR_NFA_H
#define DAEMON_TEXT_CHAR_NFA_H

#include "base/status.h"
#include "daemon/text/char_set.h"
#include "daemon/text/grammar.h"
#include <stddef.h>

enum {
    CHAR_NFA_STATES_MAX = 1 << 14,
    CHAR_NFA_EDGES_MAX = 1 << 17,
    CHAR_NFA_WORK_MAX = 1 << 22,
    CHAR_NFA_NONE = 0xFFFFFFFF
};

enum { CHAR_NFA_WIDE_MAX = 1024 }; /* wide states of one grammar */

typedef struct char_edge {
    uint32_t set, to;
    uint32_t next; /* of the same state; CHAR_NFA_NONE: last */
} char_edge;

typedef struct char_state {
    uint32_t first_edge;
    bool accepts;
} char_state;

typedef struct char_nfa {
    char_state *state;
    char_edge *edge;
    char_set *set; /* no two are equal */
    uint32_t state_count, edge_count, set_count;
    uint32_t state_capacity, edge_capacity, set_capacity;
    uint32_t *set_next;       /* [set_capacity] the next with the same hash, plus 1 */
    uint32_t set_bucket[256]; /* the first with a hash, plus 1 */
} char_nfa;

/* How a string is written: bytes as they are; inside the quotes of JSON, where a character that JSON wants escaped has
 * its shortest escape and every other stands for itself. */
typedef enum char_writing { CHAR_WRITING_PLAIN, CHAR_WRITING_JSON } char_writing;

void char_nfa_close(char_nfa *a);
/* Adding never fails; whoever adds checks the counts. */
uint32_t char_nfa_add_state(char_nfa *a, bool accepts);
uint32_t char_nfa_add_set(char_nfa *a, const char_set *s); /* copies */
void char_nfa_add_edge(char_nfa *a, uint32_t from, uint32_t set, uint32_t to);
uint32_t char_nfa_add_any(char_nfa *a); /* the set of all characters */
/* States that take more than 64 characters: each costs whoever compiles it a set of tokens, 1 to 15 ms. */
uint32_t char_nfa_wide_states(const char_nfa *a);
bool char_nfa_equal(const char_nfa *a, const char_nfa *b); /* built alike */
/* ST_INVALID when there are more states or edges than the maxima. */
STATUS_CHECKED status char_nfa_check_size(const char_nfa *a);

/* Strings of both. */
STATUS_CHECKED status char_nfa_intersect(char_nfa *out, const char_nfa *a, const char_nfa *b);
/* Strings of least … most characters; most CHAR_NFA_NONE: no bound. */
STATUS_CHECKED status char_nfa_lengths(char_nfa *out, uint32_t least, uint32_t most);
/* Strings of characters of `alphabet` that are none of names[count], and not empty unless may_be_empty. */
typedef struct char_name {
    const char *text; /* valid UTF-8 */
    size_t bytes;
} char_name;
STATUS_CHECKED status char_nfa_none_of(char_nfa *out, const char_set *alphabet, const char_name *names,
                                       size_t count, bool may_be_empty);

/* States from which no string ends are dropped. false: no string at all. */
bool char_nfa_trim(char_nfa *a);
/* Of a trimmed automaton: characters of its shortest and longest strings; CHAR_NFA_NONE: no longest. */
void char_nfa_measure(const char_nfa *a, uint32_t *shortest, uint32_t *longest);
bool char_nfa_accepts(const char_nfa *a, const char *text, size_t bytes); /* text is valid UTF-8 */

/* All its strings, as edges from `from` to `to`. */
void char_nfa_write(const char_nfa *a, grammar *g, uint32_t rule, uint32_t from, uint32_t to,
                    char_writing writing);
/* One character of the set. */
void char_set_write(const char_set *s, grammar *g, uint32_t rule, uint32_t from, uint32_t to,
                    char_writing writing);

#endif
