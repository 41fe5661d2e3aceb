#include "daemon/text/python_text.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/utf8.h"
#include "daemon/text/unicode_tables.h"

enum { DIGITS_MAX = 17 }; /* of a double that is read back to the same */

/* ---- white space ---- */

/* str.isspace: bidirectional types WS, B and S, and category Zs. */
static bool is_space(uint32_t c) {
    if (c < 0x80) return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

void python_strip(const char **text, size_t *bytes) {
    uint32_t c;
    while (*bytes > 0) {
        unsigned n = utf8_decode(*text, &c);
        if (!is_space(c)) break;
        *text += n;
        *bytes -= n;
    }
    while (*bytes > 0) {
        size_t at = *bytes - 1;
        while (((uint8_t)(*text)[at] & 0xC0) == 0x80) at--;
        utf8_decode(*text + at, &c);
        if (!is_space(c)) break;
        *bytes = at;
    }
}

/* ---- case ---- */

static uint32_t map(const unicode_range *table, size_t count, uint32_t c) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table[middle].last < c) low = middle + 1;
        else high = middle;
    }
    if (low == count || c < table[low].first || (c - table[low].first) % (uint32_t)table[low].step != 0)
        return c;
    return (uint32_t)((int32_t)c + table[low].delta);
}

static const uint32_t *map_special(const unicode_special *table, size_t count, uint32_t c) {
    for (size_t i = 0; i < count && table[i].code_point <= c; i++)
        if (table[i].code_point == c) return table[i].to;
    return NULL;
}

/* The code points of text.lower(), one after the other. */
typedef struct lowered {
    const char *at, *end;
    const uint32_t *rest; /* of a character that becomes several */
} lowered;

/* -1 at the end. */
static int64_t next_lower(lowered *l) {
    uint32_t c;
    if (l->rest && *l->rest) return *l->rest++;
    l->rest = NULL;
    if (l->at == l->end) return -1;
    l->at += utf8_decode(l->at, &c);
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    const uint32_t *many = map_special(unicode_lower_special, unicode_lower_special_count, c);
    if (!many) return map(unicode_lower, unicode_lower_count, c);
    l->rest = many + 1;
    return many[0];
}

int python_compare_lower(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    lowered la = {a, a + a_bytes, NULL}, lb = {b, b + b_bytes, NULL};
    for (;;) {
        int64_t ca = next_lower(&la), cb = next_lower(&lb);
        if (ca != cb) return ca < cb ? -1 : 1;
        if (ca < 0) return 0;
    }
}

static void write_code_point(strbuf *out, uint32_t c) {
    char bytes[4];
    strbuf_add(out, bytes, utf8_encode(c, bytes));
}

void python_write_upper(strbuf *out, const char *text, size_t bytes) {
    for (unsigned n; bytes > 0; text += n, bytes -= n) {
        uint32_t c;
        n = utf8_decode(text, &c);
        const uint32_t *many =
            c < 0x80 ? NULL : map_special(unicode_upper_special, unicode_upper_special_count, c);
        if (!many) write_code_point(out, map(unicode_upper, unicode_upper_count, c));
        for (int i = 0; many && i < 3 && many[i]; i++) write_code_point(out, many[i]);
    }
}

/* ---- repr ---- */

static bool is_printable(uint32_t c) {
    size_t low = 0, high = unicode_printable_count; /* edges up to c */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (unicode_printable[middle] <= c) low = middle + 1;
        else high = middle;
    }
    return low % 2 == 1;
}

static void write_escaped(strbuf *out, uint32_t c) {
    if (c == '\n') strbuf_add(out, "\\n", 2);
    else if (c == '\r') strbuf_add(out, "\\r", 2);
    else if (c == '\t') strbuf_add(out, "\\t", 2);
    else if (c <= 0xFF) strbuf_add_format(out, "\\x%02x", c);
    else if (c <= 0xFFFF) strbuf_add_format(out, "\\u%04x", c);
    else strbuf_add_format(out, "\\U%08x", c);
}

void python_write_repr(strbuf *out, const char *text, size_t bytes) {
    char quote = bytes > 0 && memchr(text, '\'', bytes) && !memchr(text, '"', bytes) ? '"' : '\'';
    strbuf_add(out, &quote, 1);
    for (unsigned n; bytes > 0; text += n, bytes -= n) {
        uint32_t c;
        n = utf8_decode(text, &c);
        if (c == '\\' || c == (uint8_t)quote) strbuf_add(out, (char[]){'\\', (char)c}, 2);
        else if (is_printable(c)) strbuf_add(out, text, n);
        else write_escaped(out, c);
    }
    strbuf_add(out, &quote, 1);
}

/* ---- numbers ---- */

static bool is_integer(const json_value *v) {
    return memchr(v->text, '.', v->bytes) == NULL && memchr(v->text, 'e', v->bytes) == NULL &&
           memchr(v->text, 'E', v->bytes) == NULL;
}

/* The next decimal above in size with as many digits; text is "d.ddde±xx". */
static bool round_up(char *text) {
    char *e = strchr(text, 'e');
    for (char *p = e - 1; p >= text; p--) {
        if (*p == '.') continue;
        if (*p != '9') {
            ++*p;
            return true;
        }
        *p = '0';
    }
    return false; /* 9.99: what is above has fewer digits and was tried before */
}

/* The fewest digits that are read back to d > 0, as "d.ddde±xx", maybe with zeros behind them. The nearest decimal of a length
 * is the one to try; just above a power of two neighbours are twice as far as below, so that there the next one up may do as
 * well. A decimal of DBL_DIG digits survives its way through a normal double: fewer digits are these with zeros behind, and
 * need no tries of their own, of which a long list of numbers would take seconds. */
static void find_shortest(double d, char text[32]) {
    int exponent;
    bool power_of_two = frexp(d, &exponent) == 0.5;
    for (int digits = d >= DBL_MIN ? DBL_DIG : 1; digits <= DIGITS_MAX; digits++) {
        snprintf(text, 32, "%.*e", digits - 1, d);
        if (strtod(text, NULL) == d) return;
        if (power_of_two && round_up(text) && strtod(text, NULL) == d) return;
    }
    INVARIANT(false); /* 17 digits tell any two doubles apart */
}

static void write_float(strbuf *out, double d) {
    char text[32], digits[DIGITS_MAX + 1];
    int n = 0;
    if (signbit(d)) strbuf_add(out, "-", 1);
    d = fabs(d);
    if (isinf(d)) strbuf_add(out, "inf", 3);
    if (d == 0) strbuf_add(out, "0.0", 3);
    if (isinf(d) || d == 0) return;
    find_shortest(d, text);
    char *e = strchr(text, 'e');
    for (char *p = text; p < e; p++)
        if (*p != '.') digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0') n--;
    int exponent = (int)strtol(e + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        strbuf_add(out, digits, 1);
        if (n > 1) strbuf_add(out, ".", 1);
        strbuf_add(out, digits + 1, (size_t)(n - 1));
        strbuf_add_format(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        strbuf_add(out, "0.0000", (size_t)(1 - exponent));
        strbuf_add(out, digits, (size_t)n);
    } else {
        int whole = exponent + 1 < n ? exponent + 1 : n;
        strbuf_add(out, digits, (size_t)whole);
        for (int i = n; i < exponent + 1; i++) strbuf_add(out, "0", 1);
        strbuf_add(out, ".", 1);
        if (whole < n) strbuf_add(out, digits + whole, (size_t)(n - whole));
        else strbuf_add(out, "0", 1);
    }
}

static void write_number(strbuf *out, const json_value *v) {
    if (!is_integer(v)) write_float(out, strtod(v->text, NULL));
    else if (v->bytes == 2 && memcmp(v->text, "-0", 2) == 0) strbuf_add(out, "0", 1);
    else strbuf_add(out, v->text, v->bytes);
}

/* ---- values ---- */

static void write_value_repr(strbuf *out, const json_value *v) {
    switch (v->kind) {
    case JSON_KIND_NULL: strbuf_add_string(out, "None"); return;
    case JSON_KIND_FALSE: strbuf_add_string(out, "False"); return;
    case JSON_KIND_TRUE: strbuf_add_string(out, "True"); return;
    case JSON_KIND_NUMBER: write_number(out, v); return;
    case JSON_KIND_STRING: python_write_repr(out, v->text, v->bytes); return;
    case JSON_KIND_ARRAY:
    case JSON_KIND_OBJECT: break;
    }
    bool object = v->kind == JSON_KIND_OBJECT;
    strbuf_add(out, object ? "{" : "[", 1);
    for (const json_value *c = v->first; c; c = c->next) {
        if (c != v->first) strbuf_add(out, ", ", 2);
        if (object) {
            python_write_repr(out, c->key, c->key_bytes);
            strbuf_add(out, ": ", 2);
        }
        write_value_repr(out, c); /* as deep as a tree may be */
    }
    strbuf_add(out, object ? "}" : "]", 1);
}

void python_write_str(strbuf *out, const json_value *v) {
    if (!v) return;
    if (v->kind == JSON_KIND_STRING) strbuf_add(out, v->text, v->bytes);
    else write_value_repr(out, v);
}

bool python_truth(const json_value *v) {
    if (!v) return false;
    switch (v->kind) {
    case JSON_KIND_NULL:
    case JSON_KIND_FALSE: return false;
    case JSON_KIND_TRUE: return true;
    case JSON_KIND_NUMBER: return strtod(v->text, NULL) != 0;
    case JSON_KIND_STRING: return v->bytes > 0;
    case JSON_KIND_ARRAY:
    case JSON_KIND_OBJECT: return v->count > 0;
    }
    return false;
}
