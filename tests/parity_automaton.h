/* An automaton made by hand, for tests without the coordinator's compiler: token i stands for the bytes i / 256, i % 256, but
 * the last one, which is the end token and stands for none. Tokens are even and odd ones in turn, odd ones only with a low
 * byte of 1 or 3; the answer may end before an even one. */
#ifndef TESTS_PARITY_AUTOMATON_H
#define TESTS_PARITY_AUTOMATON_H

#include <stdlib.h>

#include "base/automaton_parts.h"
#include "base/invariant.h"
#include "base/memory.h"

static inline bool parity_allows(uint32_t position, uint32_t id, uint32_t vocab) {
    if (id == vocab - 1) return position % 2 == 0;
    return position % 2 == 0 ? id % 2 == 0 : id % 256 == 1 || id % 256 == 3;
}

static inline vocabulary *parity_vocabulary(uint32_t vocab) {
    uint8_t(*text)[2] = memory_alloc_array(vocab, sizeof *text);
    vocabulary_token *list = memory_alloc_array(vocab, sizeof *list);
    for (uint32_t i = 0; i + 1 < vocab; i++) {
        text[i][0] = (uint8_t)(i / 256);
        text[i][1] = (uint8_t)i;
        list[i] = (vocabulary_token){text[i], 2};
    }
    vocabulary *v = NULL;
    status st = vocabulary_make(&v, list, vocab);
    INVARIANT(st == ST_OK);
    free(list);
    free(text);
    return v;
}

/* out holds the automaton's bytes; strbuf_close. */
static inline void parity_automaton(const vocabulary *v, strbuf *out) {
    uint32_t rule[2] = {0, 4}, end = vocabulary_count(v) - 1;
    automaton_symbol symbol = {0, 1, 1, false};
    automaton_range ranges[132] = {{1, 0, 255}};
    automaton_state state[5] = {{0, 0, 0, AUTOMATON_NONE, true},
                                {1, 0, 0, AUTOMATON_NONE, false},
                                {129, 0, 0, AUTOMATON_NONE, false},
                                {130, 0, 0, AUTOMATON_NONE, false},
                                {132, 0, 0, AUTOMATON_NONE, false}};
    for (uint32_t i = 0; i < 128; i++)
        ranges[1 + i] = (automaton_range){2, (uint8_t)(2 * i), (uint8_t)(2 * i)};
    ranges[129] = (automaton_range){3, 0, 255};
    ranges[130] = (automaton_range){0, 1, 1};
    ranges[131] = (automaton_range){0, 3, 3};
    automaton_parts p = {.rule = rule,
                         .symbol = &symbol,
                         .state = state,
                         .range = ranges,
                         .end = &end,
                         .rules = 1,
                         .symbols = 1,
                         .states = 4,
                         .ranges = 132,
                         .ends = 1};
    automaton_write(&p, v, out);
}

#endif
