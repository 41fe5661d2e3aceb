/* A regular expression's text as a tree. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "daemon/text/regex_internal.h"

typedef struct parser {
    regex_tree *tree;
    const char *text;
    size_t bytes, at;
    uint32_t depth;
} parser;

void regex_tree_close(regex_tree *t) {
    free(t->node);
    char_nfa_close(&t->sets);
    *t = (regex_tree){0};
}

static uint32_t add_node(parser *p, regex_node n) {
    regex_tree *t = p->tree;
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 64;
        t->node = memory_grow(t->node, t->capacity * sizeof *t->node);
    }
    t->node[t->count] = n;
    return t->count++;
}

static bool looking_at(const parser *p, const char *text) {
    size_t n = strlen(text);
    return p->bytes - p->at >= n && memcmp(p->text + p->at, text, n) == 0;
}

static bool take(parser *p, const char *text) {
    if (!looking_at(p, text)) return false;
    p->at += strlen(text);
    return true;
}

static uint32_t take_char(parser *p) {
    uint32_t c;
    p->at += utf8_decode(p->text + p->at, &c);
    return c;
}

static status refuse(const parser *p, size_t at, const char *what) {
    (void)p;
    return fail(ST_INVALID, "byte %zu: %s", at, what);
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static status take_hex(parser *p, size_t digits, uint32_t *out) {
    size_t begin = p->at;
    *out = 0;
    for (; digits > 0; digits--, p->at++) {
        int value = p->at < p->bytes ? hex_value(p->text[p->at]) : -1;
        if (value < 0) return refuse(p, begin, "hexadecimal digits are missing");
        *out = *out << 4 | (uint32_t)value;
    }
    return ST_OK;
}

/* Behind \u: HHHH, two of them that make one character, or {H…}. */
static status take_unicode(parser *p, uint32_t *out) {
    size_t begin = p->at;
    if (take(p, "{")) {
        *out = 0;
        for (; p->at < p->bytes && hex_value(p->text[p->at]) >= 0 && *out <= CHAR_MAX_VALUE; p->at++)
            *out = *out << 4 | (uint32_t)hex_value(p->text[p->at]);
        if (!take(p, "}") || p->at == begin + 2 || *out > CHAR_MAX_VALUE)
            return refuse(p, begin, "\\u{…} is no character");
    } else {
        TRY(take_hex(p, 4, out));
        if (*out >= 0xD800 && *out < 0xDC00 && take(p, "\\u")) {
            uint32_t low;
            TRY(take_hex(p, 4, &low));
            if (low < 0xDC00 || low > 0xDFFF) return refuse(p, begin, "a surrogate without its other half");
            *out = 0x10000 + ((*out - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    if (*out >= CHAR_SURROGATE_FIRST && *out <= CHAR_SURROGATE_LAST)
        return refuse(p, begin, "a surrogate without its other half");
    return ST_OK;
}

static void add_class(char_set *s, char letter) {
    char_set c = {0};
    switch (letter) {
    case 'd':
    case 'D': char_set_add(&c, '0', '9'); break;
    case 'w':
    case 'W':
        char_set_add(&c, '0', '9');
        char_set_add(&c, 'A', 'Z');
        char_set_add(&c, 'a', 'z');
        char_set_add(&c, '_', '_');
        break;
    default: /* s, S: ECMA's white space and line ends */
        char_set_add(&c, '\t', '\r');
        char_set_add(&c, ' ', ' ');
        char_set_add(&c, 0xA0, 0xA0);
        char_set_add(&c, 0x1680, 0x1680);
        char_set_add(&c, 0x2000, 0x200A);
        char_set_add(&c, 0x2028, 0x2029);
        char_set_add(&c, 0x202F, 0x202F);
        char_set_add(&c, 0x205F, 0x205F);
        char_set_add(&c, 0x3000, 0x3000);
        char_set_add(&c, 0xFEFF, 0xFEFF);
    }
    if (letter == 'D' || letter == 'W' || letter == 'S') char_set_invert(&c);
    char_set_add_set(s, &c);
    char_set_close(&c);
}

static status refuse_escape(const parser *p, size_t begin, uint32_t c) {
    if (c >= '1' && c <= '9') return fail(ST_INVALID, "byte %zu: back-reference \\%c", begin, (char)c);
    if (c == 'k') return refuse(p, begin, "back-reference \\k");
    if (c == 'b' || c == 'B') return fail(ST_INVALID, "byte %zu: word boundary \\%c", begin, (char)c);
    if (c == 'p' || c == 'P') return fail(ST_INVALID, "byte %zu: property class \\%c", begin, (char)c);
    if (c < 0x80) return fail(ST_INVALID, "byte %zu: escape \\%c", begin, (char)c);
    return fail(ST_INVALID, "byte %zu: escape of U+%04X", begin, c);
}

/* Behind a backslash: one character (*is_class false), or a class, which is added to the set. */
static status take_escape(parser *p, bool in_brackets, char_set *s, uint32_t *out, bool *is_class) {
    static const char from[] = "nrtfv", to[] = "\n\r\t\f\v";
    size_t begin = p->at - 1;
    *is_class = false;
    if (p->at >= p->bytes) return refuse(p, begin, "a backslash at the end");
    uint32_t c = take_char(p);
    const char *known = c < 0x80 && c != 0 ? strchr(from, (int)c) : NULL;
    if (known) *out = (uint8_t)to[known - from];
    else if (c < 0x80 && c != 0 && strchr("dDwWsS", (int)c)) add_class(s, (char)c), *is_class = true;
    else if (c == 'x') return take_hex(p, 2, out);
    else if (c == 'u') return take_unicode(p, out);
    else if (c == 'b' && in_brackets) *out = '\b';
    else if (c == '0' && !(p->at < p->bytes && p->text[p->at] >= '0' && p->text[p->at] <= '9')) *out = 0;
    else if (c == 'c' && p->at < p->bytes && ((p->text[p->at] | 32) >= 'a') && ((p->text[p->at] | 32) <= 'z'))
        *out = (uint32_t)p->text[p->at++] & 31;
    else if (c > 0x20 && c < 0x7F && !((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9'))
        *out = c;
    else return refuse_escape(p, begin, c);
    return ST_OK;
}

/* One end of a range, or a class (*is_class), which is added. */
static status take_member(parser *p, char_set *s, uint32_t *out, bool *is_class) {
    *is_class = false;
    if (looking_at(p, "[:")) return refuse(p, p->at, "class [: :]");
    if (take(p, "\\")) return take_escape(p, true, s, out, is_class);
    *out = take_char(p);
    return ST_OK;
}

static status take_brackets(parser *p, char_set *s) {
    size_t begin = p->at - 1;
    bool inverted = take(p, "^"), is_class;
    for (;;) {
        uint32_t low, high;
        if (p->at >= p->bytes) return refuse(p, begin, "[ is not closed");
        if (take(p, "]")) break;
        TRY(take_member(p, s, &low, &is_class));
        if (is_class) continue;
        high = low;
        if (p->at + 1 < p->bytes && p->text[p->at] == '-' && p->text[p->at + 1] != ']') {
            size_t dash = p->at++;
            TRY(take_member(p, s, &high, &is_class));
            if (is_class) return refuse(p, dash, "a range that ends in a class");
            if (high < low) return refuse(p, dash, "a range whose end is before its beginning");
        }
        char_set_add(s, low, high);
    }
    if (inverted) char_set_invert(s);
    return ST_OK;
}

static status take_either(parser *p, uint32_t *out);

static status take_group(parser *p, uint32_t *out) {
    static const struct {
        const char *text, *name;
    } refused[] = {{"?=", "look-ahead (?="},      {"?!", "look-ahead (?!"},   {"?<=", "look-behind (?<="},
                   {"?<!", "look-behind (?<!"},   {"?>", "atomic group (?>"}, {"?#", "comment (?#"},
                   {"?P=", "back-reference (?P="}};
    size_t begin = p->at - 1;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (looking_at(p, refused[i].text)) return refuse(p, begin, refused[i].name);
    if (take(p, "?P<") || take(p, "?<")) {
        const char *end = memchr(p->text + p->at, '>', p->bytes - p->at);
        if (!end) return refuse(p, begin, "a group's name does not end");
        p->at = (size_t)(end - p->text) + 1;
    } else if (!take(p, "?:") && looking_at(p, "?")) return refuse(p, begin, "flags (?…)");
    if (++p->depth > REGEX_DEPTH_MAX)
        return fail(ST_INVALID, "byte %zu: groups nest deeper than %d", begin, REGEX_DEPTH_MAX);
    TRY(take_either(p, out));
    p->depth--;
    if (!take(p, ")")) return refuse(p, begin, "( is not closed");
    return ST_OK;
}

static status take_set(parser *p, uint32_t *out) {
    char_set s = {0};
    status st = ST_OK;
    uint32_t c = 0;
    bool is_class = true;
    if (take(p, "[")) st = take_brackets(p, &s);
    else if (take(p, "\\")) st = take_escape(p, false, &s, &c, &is_class);
    else if (take(p, ".")) {
        char_set_add(&s, '\n', '\n');
        char_set_add(&s, '\r', '\r');
        char_set_add(&s, 0x2028, 0x2029);
        char_set_invert(&s);
    } else {
        c = take_char(p);
        is_class = false;
    }
    if (!is_class) char_set_add(&s, c, c);
    if (st == ST_OK)
        *out = add_node(p, (regex_node){.kind = REGEX_SET, .set = char_nfa_add_set(&p->tree->sets, &s)});
    char_set_close(&s);
    return st;
}

static bool take_number(parser *p, uint32_t *out) {
    size_t begin = p->at;
    *out = 0;
    for (; p->at < p->bytes && p->text[p->at] >= '0' && p->text[p->at] <= '9'; p->at++)
        if (*out <= REGEX_COUNT_MAX) *out = *out * 10 + (uint32_t)(p->text[p->at] - '0');
    return p->at > begin;
}

/* {m}, {m,} or {m,n}; anything else with { in front is text. */
static bool take_counts(parser *p, uint32_t *least, uint32_t *most) {
    size_t begin = p->at;
    if (take(p, "{") && take_number(p, least)) {
        *most = *least;
        if (take(p, ",") && !take_number(p, most)) *most = CHAR_NFA_NONE;
        if (take(p, "}")) return true;
    }
    p->at = begin;
    return false;
}

static status take_repeats(parser *p, uint32_t *node) {
    for (bool first = true;; first = false) {
        uint32_t least = 0, most = CHAR_NFA_NONE;
        size_t begin = p->at;
        if (take(p, "+")) least = 1;
        else if (take(p, "?")) most = 1;
        else if (!take(p, "*") && !take_counts(p, &least, &most)) return ST_OK;
        if (!first) return refuse(p, begin, "nothing to repeat");
        if (least > REGEX_COUNT_MAX || (most != CHAR_NFA_NONE && most > REGEX_COUNT_MAX))
            return fail(ST_INVALID, "byte %zu: a count over %d", begin, REGEX_COUNT_MAX);
        if (most < least) return refuse(p, begin, "{m,n} with n below m");
        if (looking_at(p, "+")) return refuse(p, p->at, "possessive quantifier");
        take(p, "?");
        *node = add_node(p, (regex_node){.kind = REGEX_REPEAT, .left = *node, .least = least, .most = most});
    }
}

static status take_one(parser *p, uint32_t *out) {
    uint32_t ignored;
    if (take(p, "^")) *out = add_node(p, (regex_node){.kind = REGEX_BEGIN});
    else if (take(p, "$")) *out = add_node(p, (regex_node){.kind = REGEX_END});
    else if (looking_at(p, "*") || looking_at(p, "+") || looking_at(p, "?") ||
             take_counts(p, &ignored, &ignored))
        return refuse(p, p->at, "nothing to repeat");
    else if (take(p, "(")) {
        TRY(take_group(p, out));
        return take_repeats(p, out);
    } else {
        TRY(take_set(p, out));
        return take_repeats(p, out);
    }
    return ST_OK;
}

static status take_sequence(parser *p, uint32_t *out) {
    *out = add_node(p, (regex_node){.kind = REGEX_EMPTY});
    for (bool first = true; p->at < p->bytes && p->text[p->at] != '|' && p->text[p->at] != ')';
         first = false) {
        uint32_t one;
        TRY(take_one(p, &one));
        *out = first ? one : add_node(p, (regex_node){.kind = REGEX_BOTH, .left = *out, .right = one});
    }
    return ST_OK;
}

static status take_either(parser *p, uint32_t *out) {
    TRY(take_sequence(p, out));
    while (take(p, "|")) {
        uint32_t other;
        TRY(take_sequence(p, &other));
        *out = add_node(p, (regex_node){.kind = REGEX_EITHER, .left = *out, .right = other});
    }
    return ST_OK;
}

status regex_parse(regex_tree *out, const char *text, size_t bytes) {
    *out = (regex_tree){0};
    parser p = {.tree = out, .text = text, .bytes = bytes};
    if (bytes > REGEX_BYTES_MAX) return fail(ST_INVALID, "%zu bytes, at most %d", bytes, REGEX_BYTES_MAX);
    if (utf8_check(text, bytes) != bytes)
        return fail(ST_INVALID, "byte %zu: not UTF-8", utf8_check(text, bytes));
    status st = take_either(&p, &out->root);
    if (st == ST_OK && p.at < bytes) st = refuse(&p, p.at, ") without (");
    if (st != ST_OK) regex_tree_close(out);
    return st;
}
