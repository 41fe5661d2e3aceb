// link: daemon_core
/* A regular expression and, behind a 0 byte, a text: the automaton and the search for it agree that what matches as a whole
 * is found. */
#include "base/invariant.h"
#include "base/utf8.h"
#include "daemon/text/regex.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t n = end ? (size_t)(end - data) : size;
    const char *text = end ? (const char *)end + 1 : "";
    size_t bytes = end ? size - n - 1 : 0;
    char_nfa whole, search;
    status st = regex_read(&whole, (const char *)data, n, REGEX_WHOLE);
    if (st != ST_OK) {
        INVARIANT(st == ST_INVALID && status_text()[0] && whole.state_count == 0);
        return 0;
    }
    INVARIANT(whole.state_count <= CHAR_NFA_STATES_MAX && whole.edge_count <= CHAR_NFA_EDGES_MAX);
    if (regex_read(&search, (const char *)data, n, REGEX_SEARCH) == ST_OK) {
        if (utf8_check(text, bytes) == bytes && char_nfa_accepts(&whole, text, bytes))
            INVARIANT(char_nfa_accepts(&search, text, bytes));
        char_nfa_close(&search);
    }
    grammar *g = grammar_open();
    char_nfa_write(&whole, g, 0, grammar_rule_start(g, 0), grammar_rule_end(g, 0), CHAR_WRITING_JSON);
    grammar_close(g);
    char_nfa_close(&whole);
    return 0;
}
