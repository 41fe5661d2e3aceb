#include "daemon/text/grammar_value.h"

#include <string.h>

#include "base/utf8.h"

enum { UNMADE = 0xFFFFFFFF };

/* What a bare key of Gemma's syntax can hold and be read back. */
static void bare_characters(char_set *s) {
    static const char outside[] = ":,{}[]()\"'`\\";
    char_set_add(s, 0x21, 0x7E);
    char_set_add(s, 0xA1, 0xD7FF);
    for (const char *c = outside; *c; c++) char_set_remove(s, (uint8_t)*c, (uint8_t)*c);
    char_set_remove(s, 0x1680, 0x1680);
    char_set_remove(s, 0x2000, 0x206F);
    char_set_remove(s, 0x3000, 0x3000);
}

static void write_hex(grammar *g, uint32_t from, uint32_t to) {
    grammar_edge_bytes(g, from, '0', '9', to);
    grammar_edge_bytes(g, from, 'a', 'f', to);
    grammar_edge_bytes(g, from, 'A', 'F', to);
}

/* Behind \u: four digits of a character, or of two surrogates that make one. */
static void write_unicode_escape(grammar *g, uint32_t rule, uint32_t from, uint32_t to) {
    uint32_t s[9];
    for (uint32_t i = 0; i < 9; i++) s[i] = grammar_add_state(g, rule);
    grammar_edge_bytes(g, from, '0', '9', s[0]);
    grammar_edge_bytes(g, from, 'a', 'c', s[0]);
    grammar_edge_bytes(g, from, 'A', 'C', s[0]);
    grammar_edge_bytes(g, from, 'e', 'f', s[0]);
    grammar_edge_bytes(g, from, 'E', 'F', s[0]);
    write_hex(g, s[0], s[1]);
    write_hex(g, s[1], s[2]);
    write_hex(g, s[2], to);
    grammar_edge_bytes(g, from, 'd', 'd', s[3]);
    grammar_edge_bytes(g, from, 'D', 'D', s[3]);
    grammar_edge_bytes(g, s[3], '0', '7', s[1]);
    grammar_edge_bytes(g, s[3], '8', '9', s[4]);
    grammar_edge_bytes(g, s[3], 'a', 'b', s[4]);
    grammar_edge_bytes(g, s[3], 'A', 'B', s[4]);
    write_hex(g, s[4], s[5]);
    write_hex(g, s[5], s[6]);
    uint32_t low = grammar_add_state(g, rule);
    grammar_edge_text(g, s[6], "\\u", 2, s[7]);
    grammar_edge_bytes(g, s[7], 'd', 'd', s[8]);
    grammar_edge_bytes(g, s[7], 'D', 'D', s[8]);
    grammar_edge_bytes(g, s[8], 'c', 'f', low);
    grammar_edge_bytes(g, s[8], 'C', 'F', low);
    write_hex(g, low, s[2]);
}

/* One character inside JSON's quotes. */
static uint32_t make_json_character(grammar *g) {
    uint32_t rule = grammar_add_rule(g), from = grammar_rule_start(g, rule), to = grammar_rule_end(g, rule);
    uint32_t escape = grammar_add_state(g, rule), unicode = grammar_add_state(g, rule);
    grammar_edge_code_points(g, from, 0x20, '"' - 1, to);
    grammar_edge_code_points(g, from, '"' + 1, '\\' - 1, to);
    grammar_edge_code_points(g, from, '\\' + 1, CHAR_MAX_VALUE, to);
    grammar_edge_bytes(g, from, '\\', '\\', escape);
    for (const char *c = "\"\\/bfnrt"; *c; c++) grammar_edge_bytes(g, escape, (uint8_t)*c, (uint8_t)*c, to);
    grammar_edge_bytes(g, escape, 'u', 'u', unicode);
    write_unicode_escape(g, rule, unicode, to);
    return rule;
}

static uint32_t make_set_rule(grammar *g, const char_set *s) {
    uint32_t rule = grammar_add_rule(g);
    char_set_write(s, g, rule, grammar_rule_start(g, rule), grammar_rule_end(g, rule), CHAR_WRITING_PLAIN);
    return rule;
}

static void open_common(value_notation *n, grammar *g) {
    char_set digit = {0}, blank = {0};
    char_set_add(&digit, '0', '9');
    char_set_add(&blank, ' ', ' ');
    char_set_add(&blank, '\t', '\t');
    *n = (value_notation){.g = g, .value = UNMADE, .object = UNMADE, .array = UNMADE};
    n->digit = make_set_rule(g, &digit);
    n->blank = make_set_rule(g, &blank);
    char_set_close(&digit);
    char_set_close(&blank);
}

void value_notation_open(value_notation *n, grammar *g) {
    open_common(n, g);
    n->character = n->key_character = make_json_character(g);
}

void value_notation_open_gemma(value_notation *n, grammar *g, uint32_t delimiter) {
    char_set any = {0}, bare = {0};
    open_common(n, g);
    char_set_invert(&any);
    bare_characters(&bare);
    n->gemma = true;
    n->delimiter = delimiter;
    n->character = make_set_rule(g, &any);
    n->key_character = make_set_rule(g, &bare);
    char_set_close(&any);
    char_set_close(&bare);
}

uint32_t value_write_space(value_notation *n, uint32_t rule, uint32_t from) {
    if (n->gemma) return from;
    uint32_t line = grammar_add_state(n->g, rule), to = grammar_add_state(n->g, rule);
    grammar_edge_empty(n->g, from, to);
    grammar_edge_bytes(n->g, from, ' ', ' ', to);
    grammar_edge_bytes(n->g, from, '\n', '\n', line);
    grammar_edge_repeat(n->g, line, n->blank, 0, VALUE_INDENT_MAX, to);
    return to;
}

void value_write_word(value_notation *n, uint32_t from, uint32_t to, const char *word) {
    grammar_edge_text(n->g, from, word, strlen(word), to);
}

static void write_colon(value_notation *n, uint32_t rule, uint32_t from, uint32_t to) {
    if (n->gemma) {
        grammar_edge_bytes(n->g, from, ':', ':', to);
        return;
    }
    uint32_t behind = grammar_add_state(n->g, rule);
    grammar_edge_bytes(n->g, from, ':', ':', behind);
    grammar_edge_bytes(n->g, behind, ' ', ' ', to);
    grammar_edge_empty(n->g, behind, to);
}

static void write_quote(value_notation *n, uint32_t from, uint32_t to) {
    if (n->gemma) grammar_edge_token(n->g, from, n->delimiter, to);
    else grammar_edge_bytes(n->g, from, '"', '"', to);
}

void value_write_string(value_notation *n, uint32_t rule, uint32_t from, uint32_t to, uint32_t least,
                        uint32_t most) {
    uint32_t inside = grammar_add_state(n->g, rule), behind = grammar_add_state(n->g, rule);
    write_quote(n, from, inside);
    if (most == 0) grammar_edge_empty(n->g, inside, behind);
    else grammar_edge_repeat(n->g, inside, n->character, least, most, behind);
    write_quote(n, behind, to);
}

void value_write_strings(value_notation *n, uint32_t rule, uint32_t from, uint32_t to,
                         const char_nfa *strings) {
    uint32_t inside = grammar_add_state(n->g, rule), behind = grammar_add_state(n->g, rule);
    write_quote(n, from, inside);
    char_nfa_write(strings, n->g, rule, inside, behind, n->gemma ? CHAR_WRITING_PLAIN : CHAR_WRITING_JSON);
    write_quote(n, behind, to);
}

static void write_exact_string(value_notation *n, uint32_t rule, uint32_t from, uint32_t to, const char *text,
                               size_t bytes) {
    uint32_t inside = grammar_add_state(n->g, rule), behind = grammar_add_state(n->g, rule);
    write_quote(n, from, inside);
    if (n->gemma) {
        grammar_edge_text(n->g, inside, text, bytes, behind);
    } else {
        strbuf quoted = {0};
        json_write_string(&quoted, text, bytes);
        grammar_edge_text(n->g, inside, quoted.data + 1, quoted.size - 2, behind);
        strbuf_close(&quoted);
    }
    write_quote(n, behind, to);
}

/* Spaces inside can be read back, at the ends they cannot. */
static bool is_bare(const char *name, size_t bytes) {
    char_set bare = {0};
    bool good = bytes > 0 && name[0] != ' ' && name[bytes - 1] != ' ';
    uint32_t c;
    bare_characters(&bare);
    char_set_add(&bare, ' ', ' ');
    for (size_t i = 0; i < bytes && good; good = char_set_has(&bare, c)) i += utf8_decode(name + i, &c);
    char_set_close(&bare);
    return good;
}

void value_write_key(value_notation *n, uint32_t rule, uint32_t from, uint32_t to, const char *name,
                     size_t bytes) {
    uint32_t behind = grammar_add_state(n->g, rule);
    if (n->gemma && is_bare(name, bytes)) grammar_edge_text(n->g, from, name, bytes, behind);
    else write_exact_string(n, rule, from, behind, name, bytes);
    write_colon(n, rule, behind, to);
}

status value_write_other_key(value_notation *n, uint32_t rule, uint32_t from, uint32_t to,
                             const char_name *names, size_t count) {
    uint32_t behind = grammar_add_state(n->g, rule);
    if (count == 0) {
        if (n->gemma) grammar_edge_repeat(n->g, from, n->key_character, 1, GRAMMAR_UNBOUNDED, behind);
        else value_write_string(n, rule, from, behind, 0, GRAMMAR_UNBOUNDED);
        write_colon(n, rule, behind, to);
        return ST_OK;
    }
    char_set alphabet = {0};
    char_nfa others;
    if (n->gemma) bare_characters(&alphabet);
    else char_set_invert(&alphabet);
    status st = char_nfa_none_of(&others, &alphabet, names, count, !n->gemma);
    char_set_close(&alphabet);
    if (st != ST_OK) return st;
    /* A rule of its own: beside the names it would be made again for each set of names that may still come. */
    uint32_t other = grammar_add_rule(n->g);
    uint32_t start = grammar_rule_start(n->g, other), end = grammar_rule_end(n->g, other);
    if (n->gemma) char_nfa_write(&others, n->g, other, start, end, CHAR_WRITING_PLAIN);
    else value_write_strings(n, other, start, end, &others);
    grammar_edge_call(n->g, from, other, behind);
    char_nfa_close(&others);
    write_colon(n, rule, behind, to);
    return ST_OK;
}

static void write_constant_children(value_notation *n, uint32_t rule, uint32_t from, uint32_t to,
                                    const json_value *v) {
    bool object = v->kind == JSON_KIND_OBJECT;
    uint32_t at = grammar_add_state(n->g, rule);
    value_write_word(n, from, at, object ? "{" : "[");
    for (const json_value *c = v->first; c; c = c->next) {
        at = value_write_space(n, rule, at);
        if (object) {
            uint32_t value = grammar_add_state(n->g, rule);
            value_write_key(n, rule, at, value, c->key, c->key_bytes);
            at = value;
        }
        uint32_t behind = grammar_add_state(n->g, rule);
        value_write_constant(n, rule, at, behind, c);
        at = behind;
        if (!c->next) break;
        uint32_t comma = grammar_add_state(n->g, rule);
        value_write_word(n, at, comma, ",");
        at = comma;
    }
    if (v->first) at = value_write_space(n, rule, at);
    value_write_word(n, at, to, object ? "}" : "]");
}

void value_write_constant(value_notation *n, uint32_t rule, uint32_t from, uint32_t to, const json_value *v) {
    switch (v->kind) {
    case JSON_KIND_NULL: value_write_word(n, from, to, "null"); break;
    case JSON_KIND_FALSE: value_write_word(n, from, to, "false"); break;
    case JSON_KIND_TRUE: value_write_word(n, from, to, "true"); break;
    case JSON_KIND_NUMBER: grammar_edge_text(n->g, from, v->text, v->bytes, to); break;
    case JSON_KIND_STRING: write_exact_string(n, rule, from, to, v->text, v->bytes); break;
    default: write_constant_children(n, rule, from, to, v);
    }
}

/* { … } or [ … ] of any values. */
static uint32_t make_container(value_notation *n, bool object) {
    uint32_t rule = grammar_add_rule(n->g), end = grammar_rule_end(n->g, rule);
    if (object) n->object = rule;
    else n->array = rule;
    uint32_t any = value_rule_any(n), open = grammar_add_state(n->g, rule),
             key = grammar_add_state(n->g, rule);
    uint32_t value = object ? grammar_add_state(n->g, rule) : key, behind = grammar_add_state(n->g, rule);
    uint32_t comma = grammar_add_state(n->g, rule);
    value_write_word(n, grammar_rule_start(n->g, rule), open, object ? "{" : "[");
    value_write_word(n, open, end, object ? "}" : "]");
    grammar_edge_empty(n->g, value_write_space(n, rule, open), key);
    /* Without names to leave out there is nothing that can fail. */
    if (object && value_write_other_key(n, rule, key, value, NULL, 0) != ST_OK) return rule;
    grammar_edge_call(n->g, value, any, behind);
    value_write_word(n, behind, comma, ",");
    grammar_edge_empty(n->g, value_write_space(n, rule, comma), key);
    value_write_word(n, value_write_space(n, rule, behind), end, object ? "}" : "]");
    return rule;
}

uint32_t value_rule_any(value_notation *n) {
    static const number_bounds free_number = {0};
    if (n->value != UNMADE) return n->value;
    uint32_t rule = n->value = grammar_add_rule(n->g);
    uint32_t from = grammar_rule_start(n->g, rule), to = grammar_rule_end(n->g, rule);
    if (n->object == UNMADE) make_container(n, true);
    if (n->array == UNMADE) make_container(n, false);
    value_write_word(n, from, to, "null");
    value_write_word(n, from, to, "true");
    value_write_word(n, from, to, "false");
    grammar_write_number(n->g, rule, from, to, &free_number, n->digit);
    value_write_string(n, rule, from, to, 0, GRAMMAR_UNBOUNDED);
    grammar_edge_call(n->g, from, n->object, to);
    grammar_edge_call(n->g, from, n->array, to);
    return rule;
}

uint32_t value_rule_object(value_notation *n) {
    value_rule_any(n);
    return n->object;
}
