#include "daemon/text/call_scan.h"

#include <stdint.h>
#include <string.h>

#include "daemon/text/parsed_call.h"

static bool is_delimiter(char c) { return (uint8_t)c == CALL_DELIMITER; }
static bool is_one_of(char c, const char *set) { return c && strchr(set, c); }

bool call_in_name(char c) { return !call_is_space(c) && !is_delimiter(c) && !is_one_of(c, "{}[]()\"',`"); }

static size_t skip_space(const call_scan *s, size_t at) {
    while (at < s->size && call_is_space(s->text[at])) at++;
    return at;
}

void call_scan_space(call_scan *s) { s->at = skip_space(s, s->at); }

static char innermost(const call_scan *s) { return s->depth > 0 ? s->open[s->depth - 1] : 0; }

size_t call_scan_bare_key(const call_scan *s, size_t at) {
    const char *ends = innermost(s) == ')' ? ":=,{}[]()\"'" : ":,{}[]\"'";
    while (at < s->size && !is_delimiter(s->text[at]) && !is_one_of(s->text[at], ends)) at++;
    return at;
}

size_t call_scan_json_quote(const call_scan *s, size_t at) {
    for (; at < s->size && s->text[at] != '"' && !is_delimiter(s->text[at]); at++)
        if (s->text[at] == '\\' && at + 1 < s->size && !is_delimiter(s->text[at + 1])) at++;
    return at;
}

bool call_scan_is_separator(const call_scan *s, size_t at) {
    return at < s->size && (s->text[at] == ':' || (s->text[at] == '=' && innermost(s) == ')'));
}

bool call_scan_key_ahead(const call_scan *s, size_t at, bool delimited) {
    at = skip_space(s, at);
    if (at == s->size) return false;
    char c = s->text[at];
    size_t end;
    if (c == '"') {
        end = call_scan_json_quote(s, at + 1);
        if (end == s->size || s->text[end] != '"') return false;
        end++;
    } else if (c == '\'' || is_delimiter(c)) {
        if (is_delimiter(c) && !delimited) return false;
        for (end = at + 1; end < s->size && s->text[end] != c && !is_delimiter(s->text[end]);) end++;
        if (end == s->size || s->text[end] != c) return false;
        end++;
    } else {
        end = call_scan_bare_key(s, at);
        if (end == at) return false;
    }
    return call_scan_is_separator(s, skip_space(s, end));
}

/* A key of one word and its separator, with nothing between. */
static bool word_ahead(const call_scan *s, size_t at) {
    size_t begin = at;
    while (at < s->size && (call_in_name(s->text[at]) && !call_scan_is_separator(s, at))) at++;
    return at > begin && call_scan_is_separator(s, at);
}

bool call_scan_goes_on(const call_scan *s, size_t at, bool even) {
    unsigned depth = s->depth;
    at = skip_space(s, at);
    for (; at < s->size && depth > 0 && s->text[at] == s->open[depth - 1]; depth--)
        at = skip_space(s, at + 1);
    if (at == s->size) return depth == 0 || s->closes;
    if (depth == 0) return false;
    if (s->text[at] == ',') {
        if (s->open[depth - 1] == ']') return true;
        at = skip_space(s, at + 1);
        if (at == s->size) return s->closes;
        return s->text[at] == s->open[depth - 1] || call_scan_key_ahead(s, at, even);
    }
    return depth == s->depth && s->open[depth - 1] != ']' && word_ahead(s, at);
}

/* Whether the comma at `at` ends a bare value of an object. */
static bool comma_ends(const call_scan *s, size_t at) {
    size_t next = skip_space(s, at + 1);
    if (next == s->size || s->text[next] == innermost(s)) return true;
    return call_scan_key_ahead(s, next, true);
}

size_t call_scan_bare(const call_scan *s, size_t at) {
    char closer = innermost(s);
    for (; at < s->size; at++) {
        char c = s->text[at];
        if (is_delimiter(c) || is_one_of(c, "{}[]")) break;
        if (c == ',' && (closer == ']' || comma_ends(s, at))) break;
        if (c == ')' && closer == ')' && skip_space(s, at + 1) == s->size) break;
    }
    return at;
}

/* Whether text[begin … size) ends with the `count` innermost closers; then where they begin. */
static bool ends_with(const call_scan *s, size_t begin, unsigned count, size_t *at) {
    *at = s->size;
    for (unsigned i = s->depth - count; i < s->depth; i++) {
        while (*at > begin && call_is_space(s->text[*at - 1])) --*at;
        if (*at == begin || s->text[*at - 1] != s->open[i]) return false;
        --*at;
    }
    return true;
}

size_t call_scan_tail(const call_scan *s, size_t begin) {
    size_t at;
    for (unsigned count = s->depth; count > 0; count--)
        if (ends_with(s, begin, count, &at)) return at;
    return s->size;
}
