#include "daemon/text/json_cursor.h"

#include <string.h>

#include "base/utf8.h"

enum { DEPTH_MAX = 64 };

void json_cursor_close(json_cursor *c) { strbuf_close(&c->scratch); }

static status wrong(json_cursor *c, const char *what) { return fail(ST_FORMAT, "byte %zu: %s", c->at, what); }

char json_cursor_peek(json_cursor *c) {
    while (c->at < c->size) {
        char b = c->text[c->at];
        if (b != ' ' && b != '\n' && b != '\r' && b != '\t') return b;
        c->at++;
    }
    return 0;
}

bool json_cursor_take(json_cursor *c, char byte) {
    if (json_cursor_peek(c) != byte || c->at == c->size) return false;
    c->at++;
    return true;
}

status json_cursor_expect(json_cursor *c, char byte) {
    if (json_cursor_take(c, byte)) return ST_OK;
    return fail(ST_FORMAT, "byte %zu: %s, '%c' is expected", c->at,
                c->at == c->size ? "the text ends" : "another character", byte);
}

status json_cursor_next(json_cursor *c, char close, bool first, bool *more) {
    *more = !json_cursor_take(c, close);
    if (*more && !first) return json_cursor_expect(c, ',');
    return ST_OK;
}

static bool hex4(const char *p, uint32_t *out) {
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char d = p[i];
        uint32_t digit;
        if (d >= '0' && d <= '9') digit = (uint32_t)(d - '0');
        else if (d >= 'a' && d <= 'f') digit = (uint32_t)(d - 'a') + 10;
        else if (d >= 'A' && d <= 'F') digit = (uint32_t)(d - 'A') + 10;
        else return false;
        v = v << 4 | digit;
    }
    *out = v;
    return true;
}

/* At the digits of \uXXXX; a surrogate takes its partner too. */
static status unicode_escape(json_cursor *c) {
    uint32_t v, low;
    if (c->size - c->at < 4 || !hex4(c->text + c->at, &v))
        return wrong(c, "\\u needs four hexadecimal digits");
    c->at += 4;
    if (v >= 0xDC00 && v <= 0xDFFF) return wrong(c, "half of a surrogate pair");
    if (v >= 0xD800 && v <= 0xDBFF) {
        if (c->size - c->at < 6 || memcmp(c->text + c->at, "\\u", 2) != 0 ||
            !hex4(c->text + c->at + 2, &low) || low < 0xDC00 || low > 0xDFFF)
            return wrong(c, "half of a surrogate pair");
        c->at += 6;
        v = 0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00);
    }
    char bytes[4];
    strbuf_add(&c->scratch, bytes, utf8_encode(v, bytes));
    return ST_OK;
}

static status escape(json_cursor *c) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (c->at == c->size) return wrong(c, "the text ends in a string");
    char e = c->text[c->at];
    if (e == 'u') {
        c->at++;
        return unicode_escape(c);
    }
    const char *known = e ? strchr(from, e) : NULL;
    if (!known) return wrong(c, "an unknown escape");
    c->at++;
    strbuf_add(&c->scratch, &to[known - from], 1);
    return ST_OK;
}

/* Steps over the plain part of a string: up to the quote, a backslash, or what may not stand there. */
static void skip_plain(json_cursor *c) {
    const uint8_t *p = (const uint8_t *)c->text;
    size_t i = c->at;
    while (i < c->size && p[i] != '"' && p[i] != '\\' && p[i] >= 0x20) i++;
    c->at = i;
}

status json_cursor_string(json_cursor *c, const char **s, size_t *n) {
    TRY(json_cursor_expect(c, '"'));
    size_t begin = c->at;
    skip_plain(c);
    if (c->at < c->size && c->text[c->at] == '"') {
        *s = c->text + begin;
        *n = c->at++ - begin;
        return ST_OK;
    }
    strbuf_clear(&c->scratch);
    for (;;) {
        strbuf_add(&c->scratch, c->text + begin, c->at - begin);
        if (c->at == c->size) return wrong(c, "the text ends in a string");
        char b = c->text[c->at];
        if (b != '"' && b != '\\') return wrong(c, "a control character in a string");
        c->at++;
        if (b == '"') break;
        TRY(escape(c));
        begin = c->at;
        skip_plain(c);
    }
    *s = strbuf_text(&c->scratch);
    *n = c->scratch.size;
    return ST_OK;
}

status json_cursor_u32(json_cursor *c, uint32_t most, uint32_t *out) {
    char b = json_cursor_peek(c);
    if (b < '0' || b > '9') return wrong(c, "a whole number is expected");
    uint64_t v = 0;
    size_t begin = c->at;
    while (c->at < c->size && c->text[c->at] >= '0' && c->text[c->at] <= '9') {
        if (v <= most) v = v * 10 + (uint64_t)(c->text[c->at] - '0');
        c->at++;
    }
    if (c->text[begin] == '0' && c->at > begin + 1) return wrong(c, "a number with a leading zero");
    if (c->at < c->size && strchr(".eE", c->text[c->at]) && c->text[c->at])
        return wrong(c, "a whole number is expected");
    if (v > most)
        return fail(ST_FORMAT, "byte %zu: the number %.*s is above %u", begin,
                    c->at - begin > 20 ? 20 : (int)(c->at - begin), c->text + begin, most);
    *out = (uint32_t)v;
    return ST_OK;
}

static status skip_string(json_cursor *c) {
    for (c->at++; c->at < c->size; c->at++) {
        skip_plain(c);
        if (c->at == c->size) break;
        char b = c->text[c->at];
        if (b == '"') {
            c->at++;
            return ST_OK;
        }
        if (b != '\\') return wrong(c, "a control character in a string");
        if (++c->at == c->size) break;
    }
    return wrong(c, "the text ends in a string");
}

status json_cursor_skip(json_cursor *c, size_t *begin, size_t *end) {
    char open[DEPTH_MAX];
    int depth = 0;
    char b = json_cursor_peek(c);
    *begin = c->at;
    if (b == 0 || strchr(",:]}", b)) return wrong(c, "a value is expected");
    do {
        b = json_cursor_peek(c);
        if (b == 0) return wrong(c, c->at == c->size ? "the text ends in a value" : "a NUL byte");
        if (b == '"') {
            TRY(skip_string(c));
        } else if (b == '{' || b == '[') {
            if (depth == DEPTH_MAX) return fail(ST_FORMAT, "byte %zu: deeper than %d", c->at, DEPTH_MAX);
            open[depth++] = b == '{' ? '}' : ']';
            c->at++;
        } else if (b == '}' || b == ']') {
            if (depth == 0 || open[depth - 1] != b) return wrong(c, "a bracket that was not opened");
            depth--;
            c->at++;
        } else if (b == ',' || b == ':') {
            if (depth == 0) return wrong(c, "a value is expected");
            c->at++;
        } else {
            while (c->at < c->size && c->text[c->at] && !strchr(" \n\r\t,:]}[{\"", c->text[c->at])) c->at++;
        }
    } while (depth > 0);
    *end = c->at;
    return ST_OK;
}
