/* Grammars built by hand, for tests and the benchmark: any JSON object, and a record as a schema would have it. */
#ifndef TESTS_GRAMMAR_EXAMPLES_H
#define TESTS_GRAMMAR_EXAMPLES_H

#include <string.h>

#include "daemon/text/grammar.h"

static inline void example_text(grammar *g, uint32_t from, const char *text, uint32_t to) {
    grammar_edge_text(g, from, text, strlen(text), to);
}

/* At most two blanks or one line's end with up to 16 blanks. */
static inline uint32_t example_space(grammar *g) {
    uint32_t r = grammar_add_rule(g), end = grammar_rule_end(g, r), blank = grammar_add_rule(g);
    uint32_t line = grammar_add_state(g, r), start = grammar_rule_start(g, r);
    grammar_edge_bytes(g, grammar_rule_start(g, blank), ' ', ' ', grammar_rule_end(g, blank));
    grammar_edge_repeat(g, start, blank, 0, 2, end);
    grammar_edge_bytes(g, start, '\n', '\n', line);
    grammar_edge_repeat(g, line, blank, 0, 16, end);
    return r;
}

/* One character inside a string of JSON. */
static inline uint32_t example_character(grammar *g) {
    uint32_t r = grammar_add_rule(g), s = grammar_rule_start(g, r), end = grammar_rule_end(g, r);
    grammar_edge_code_points(g, s, 0x20, 0x21, end);
    grammar_edge_code_points(g, s, 0x23, 0x5B, end);
    grammar_edge_code_points(g, s, 0x5D, 0x10FFFF, end);
    uint32_t escape = grammar_add_state(g, r), hex = grammar_add_state(g, r);
    grammar_edge_bytes(g, s, '\\', '\\', escape);
    for (const char *c = "\"\\/bfnrt"; *c; c++) grammar_edge_bytes(g, escape, (uint8_t)*c, (uint8_t)*c, end);
    grammar_edge_bytes(g, escape, 'u', 'u', hex);
    for (int i = 0; i < 4; i++) {
        uint32_t next = i == 3 ? end : grammar_add_state(g, r);
        grammar_edge_bytes(g, hex, '0', '9', next);
        grammar_edge_bytes(g, hex, 'a', 'f', next);
        grammar_edge_bytes(g, hex, 'A', 'F', next);
        hex = next;
    }
    return r;
}

static inline uint32_t example_string(grammar *g, uint32_t character, uint32_t least, uint32_t most) {
    uint32_t r = grammar_add_rule(g), inside = grammar_add_state(g, r), last = grammar_add_state(g, r);
    grammar_edge_bytes(g, grammar_rule_start(g, r), '"', '"', inside);
    grammar_edge_repeat(g, inside, character, least, most, last);
    grammar_edge_bytes(g, last, '"', '"', grammar_rule_end(g, r));
    return r;
}

static inline uint32_t example_number(grammar *g) {
    uint32_t r = grammar_add_rule(g), s = grammar_rule_start(g, r), end = grammar_rule_end(g, r),
             digit = grammar_add_rule(g);
    uint32_t sign = grammar_add_state(g, r), first = grammar_add_state(g, r), whole = grammar_add_state(g, r);
    uint32_t point = grammar_add_state(g, r);
    grammar_edge_bytes(g, grammar_rule_start(g, digit), '0', '9', grammar_rule_end(g, digit));
    grammar_edge_empty(g, s, sign);
    grammar_edge_bytes(g, s, '-', '-', sign);
    grammar_edge_bytes(g, sign, '0', '0', whole);
    grammar_edge_bytes(g, sign, '1', '9', first);
    grammar_edge_repeat(g, first, digit, 0, 14, whole);
    grammar_edge_empty(g, whole, end);
    grammar_edge_bytes(g, whole, '.', '.', point);
    grammar_edge_repeat(g, point, digit, 1, 6, end);
    return r;
}

/* Any value; *object is the rule of objects. */
static inline uint32_t example_value(grammar *g, uint32_t *object) {
    uint32_t space = example_space(g), character = example_character(g);
    uint32_t string = example_string(g, character, 0, GRAMMAR_UNBOUNDED), number = example_number(g);
    uint32_t value = grammar_add_rule(g), array = grammar_add_rule(g), pair = grammar_add_rule(g);
    *object = grammar_add_rule(g);
    uint32_t from = grammar_rule_start(g, value), to = grammar_rule_end(g, value);
    const uint32_t kinds[] = {string, number, array, *object};
    for (int i = 0; i < 4; i++) grammar_edge_call(g, from, kinds[i], to);
    example_text(g, from, "true", to);
    example_text(g, from, "false", to);
    example_text(g, from, "null", to);
    uint32_t a = grammar_add_state(g, pair), b = grammar_add_state(g, pair), c = grammar_add_state(g, pair);
    grammar_edge_call(g, grammar_rule_start(g, pair), string, a);
    grammar_edge_call(g, a, space, b);
    example_text(g, b, ":", c);
    uint32_t d = grammar_add_state(g, pair);
    grammar_edge_call(g, c, space, d);
    grammar_edge_call(g, d, value, grammar_rule_end(g, pair));
    const uint32_t list[2][2] = {{array, value}, {*object, pair}};
    for (int i = 0; i < 2; i++) {
        uint32_t r = list[i][0], open = grammar_add_state(g, r), item = grammar_add_state(g, r);
        uint32_t behind = grammar_add_state(g, r), comma = grammar_add_state(g, r),
                 close = grammar_add_state(g, r);
        example_text(g, grammar_rule_start(g, r), i ? "{" : "[", open);
        grammar_edge_call(g, open, space, item);
        grammar_edge_empty(g, item, close);
        grammar_edge_call(g, item, list[i][1], behind);
        grammar_edge_call(g, behind, space, close);
        example_text(g, close, i ? "}" : "]", grammar_rule_end(g, r));
        uint32_t next = grammar_add_state(g, r);
        grammar_edge_call(g, behind, space, comma);
        example_text(g, comma, ",", next);
        uint32_t again = grammar_add_state(g, r);
        grammar_edge_call(g, next, space, again);
        grammar_edge_call(g, again, list[i][1], behind);
    }
    return value;
}

static inline grammar *example_json_object(void) {
    grammar *g = grammar_open();
    uint32_t object;
    example_value(g, &object);
    grammar_edge_call(g, grammar_rule_start(g, 0), object, grammar_rule_end(g, 0));
    return g;
}

/* {"name": string of 1 … 40, "age": number, "tags": [strings of at most 12], "kind": one of three, "parent": null or such} */
static inline grammar *example_record(void) {
    grammar *g = grammar_open();
    uint32_t character = example_character(g), number = example_number(g);
    uint32_t name = example_string(g, character, 1, 40), tag = example_string(g, character, 0, 12);
    uint32_t r = grammar_add_rule(g), at = grammar_rule_start(g, r);
    uint32_t s[12];
    for (int i = 0; i < 12; i++) s[i] = grammar_add_state(g, r);
    example_text(g, at, "{\"name\": ", s[0]);
    grammar_edge_call(g, s[0], name, s[1]);
    example_text(g, s[1], ", \"age\": ", s[2]);
    grammar_edge_call(g, s[2], number, s[3]);
    example_text(g, s[3], ", \"tags\": [", s[4]);
    grammar_edge_empty(g, s[4], s[6]);
    grammar_edge_call(g, s[4], tag, s[5]);
    grammar_edge_empty(g, s[5], s[6]);
    uint32_t comma = grammar_add_state(g, r);
    example_text(g, s[5], ", ", comma);
    grammar_edge_call(g, comma, tag, s[5]);
    example_text(g, s[6], "], \"kind\": \"", s[7]);
    example_text(g, s[7], "person", s[8]);
    example_text(g, s[7], "place", s[8]);
    example_text(g, s[7], "plant", s[8]);
    example_text(g, s[8], "\", \"parent\": ", s[9]);
    example_text(g, s[9], "null", s[10]);
    grammar_edge_call(g, s[9], r, s[10]);
    example_text(g, s[10], "}", grammar_rule_end(g, r));
    grammar_edge_call(g, grammar_rule_start(g, 0), r, grammar_rule_end(g, 0));
    return g;
}

#endif
