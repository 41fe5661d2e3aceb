#include "daemon/text/json_tree.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/utf8.h"

/* Values lie in blocks that double, so that they never move: the tree points into them. */
enum { BLOCK_FIRST = 32, BLOCK_MOST = 1 << 14, FEW_MEMBERS = 8 };

typedef struct block {
    struct block *before;
    uint32_t used, size;
    json_value value[];
} block;

struct json_tree {
    block *block;
    char *pool; /* decoded strings and spellings, each with a NUL: never more than the text and one byte */
    size_t pool_used;
    uint32_t count, first_block;
    const json_value *root;
};

typedef struct reader {
    const char *text;
    size_t at, size;
    json_tree *tree;
    struct {
        json_value *container, *last;
    } open[JSON_TREE_DEPTH_MAX];
    uint32_t depth;
} reader;

static status wrong(const reader *r, const char *what) {
    return fail(ST_FORMAT, "byte %zu: %s%s", r->at, r->at == r->size ? "the text ends, " : "", what);
}

static char peek(reader *r) {
    for (; r->at < r->size; r->at++) {
        char b = r->text[r->at];
        if (b != ' ' && b != '\n' && b != '\r' && b != '\t') return b;
    }
    return 0;
}

static json_value *new_value(json_tree *t) {
    block *b = t->block;
    if (!b || b->used == b->size) {
        uint32_t size = !b ? t->first_block : b->size < BLOCK_MOST ? b->size * 2 : BLOCK_MOST;
        block *grown = memory_alloc(sizeof *grown + size * sizeof grown->value[0]);
        grown->before = b;
        grown->size = size;
        t->block = b = grown;
    }
    t->count++;
    return &b->value[b->used++];
}

/* ---- strings and numbers ---- */

static void keep(json_tree *t, const char *bytes, size_t n) {
    if (n > 0) memcpy(t->pool + t->pool_used, bytes, n);
    t->pool_used += n;
}

static bool hex4(const reader *r, size_t at, uint32_t *out) {
    if (r->size < 4 || at > r->size - 4) return false;
    *out = 0;
    for (size_t i = at; i < at + 4; i++) {
        char d = r->text[i];
        uint32_t digit;
        if (d >= '0' && d <= '9') digit = (uint32_t)(d - '0');
        else if (d >= 'a' && d <= 'f') digit = (uint32_t)(d - 'a') + 10;
        else if (d >= 'A' && d <= 'F') digit = (uint32_t)(d - 'A') + 10;
        else return false;
        *out = *out << 4 | digit;
    }
    return true;
}

/* At the digits of \uXXXX; half of a pair takes its partner too. */
static status read_unicode(reader *r) {
    uint32_t v, low;
    if (!hex4(r, r->at, &v)) return wrong(r, "\\u needs four hexadecimal digits");
    r->at += 4;
    if (v >= 0xDC00 && v <= 0xDFFF) return wrong(r, "half of a surrogate pair");
    if (v >= 0xD800 && v <= 0xDBFF) {
        if (r->size - r->at < 6 || memcmp(r->text + r->at, "\\u", 2) != 0 || !hex4(r, r->at + 2, &low) ||
            low < 0xDC00 || low > 0xDFFF)
            return wrong(r, "half of a surrogate pair");
        r->at += 6;
        v = 0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00);
    }
    char bytes[4];
    keep(r->tree, bytes, utf8_encode(v, bytes));
    return ST_OK;
}

static status read_escape(reader *r) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->size) return wrong(r, "a closing quote is expected");
    char e = r->text[r->at];
    const char *known = e ? strchr(from, e) : NULL;
    if (e != 'u' && !known) return wrong(r, "an unknown escape");
    r->at++;
    if (e == 'u') return read_unicode(r);
    keep(r->tree, &to[known - from], 1);
    return ST_OK;
}

/* At the opening quote. */
static status read_string(reader *r, const char **text, size_t *bytes) {
    json_tree *t = r->tree;
    *text = t->pool + t->pool_used;
    r->at++;
    for (;;) {
        size_t begin = r->at;
        while (r->at < r->size && r->text[r->at] != '"' && r->text[r->at] != '\\' &&
               (uint8_t)r->text[r->at] >= 0x20)
            r->at++;
        keep(t, r->text + begin, r->at - begin);
        if (r->at == r->size) return wrong(r, "a closing quote is expected");
        char b = r->text[r->at];
        if (b != '"' && b != '\\') return wrong(r, "a control character in a string");
        r->at++;
        if (b == '"') break;
        TRY(read_escape(r));
    }
    *bytes = (size_t)(t->pool + t->pool_used - *text);
    t->pool[t->pool_used++] = 0;
    return ST_OK;
}

static size_t take_digits(reader *r) {
    size_t begin = r->at;
    while (r->at < r->size && r->text[r->at] >= '0' && r->text[r->at] <= '9') r->at++;
    return r->at - begin;
}

static bool take(reader *r, char byte) {
    if (r->at == r->size || r->text[r->at] != byte) return false;
    r->at++;
    return true;
}

static status read_number(reader *r, json_value *v) {
    size_t begin = r->at;
    take(r, '-');
    bool zero = r->at < r->size && r->text[r->at] == '0';
    size_t digits = take_digits(r);
    if (digits == 0) return wrong(r, "a digit is expected");
    if (zero && digits > 1) return wrong(r, "a number with a leading zero");
    if (take(r, '.') && take_digits(r) == 0) return wrong(r, "a digit is expected after the point");
    if (take(r, 'e') || take(r, 'E')) {
        if (!take(r, '+')) take(r, '-');
        if (take_digits(r) == 0) return wrong(r, "a digit is expected in the exponent");
    }
    json_tree *t = r->tree;
    v->kind = JSON_KIND_NUMBER;
    v->text = t->pool + t->pool_used;
    v->bytes = r->at - begin;
    keep(t, r->text + begin, v->bytes);
    t->pool[t->pool_used++] = 0;
    return ST_OK;
}

static status read_word(reader *r, json_value *v) {
    static const struct {
        const char *word;
        json_kind kind;
    } words[] = {{"null", JSON_KIND_NULL}, {"false", JSON_KIND_FALSE}, {"true", JSON_KIND_TRUE}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i].word);
        if (r->size - r->at >= n && memcmp(r->text + r->at, words[i].word, n) == 0) {
            v->kind = words[i].kind;
            r->at += n;
            return ST_OK;
        }
    }
    return wrong(r, "a value is expected");
}

/* ---- objects ---- */

static int compare_keys(const json_value *a, const json_value *b) {
    size_t n = a->key_bytes < b->key_bytes ? a->key_bytes : b->key_bytes;
    int c = memcmp(a->key, b->key, n);
    if (c != 0) return c;
    return a->key_bytes < b->key_bytes ? -1 : a->key_bytes > b->key_bytes;
}

typedef struct placed {
    json_value *value;
    uint32_t place;
} placed;

static int compare_placed(const void *a, const void *b) {
    const placed *p = a, *q = b;
    int c = compare_keys(p->value, q->value);
    return c != 0 ? c : p->place < q->place ? -1 : 1;
}

/* The first of equal keys takes the value of the last; the others lose their key, which marks them. */
static bool merge_equal(placed *all, uint32_t count) {
    bool found = false;
    for (uint32_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && compare_keys(all[i].value, all[end].value) == 0;) end++;
        if (end == i + 1) continue;
        json_value *first = all[i].value, *last = all[end - 1].value;
        first->kind = last->kind, first->text = last->text, first->bytes = last->bytes;
        first->first = last->first, first->count = last->count;
        for (uint32_t k = i + 1; k < end; k++) all[k].value->key = NULL;
        found = true;
    }
    return found;
}

/* Sorting and not hashing: no choice of keys makes it slow. */
static void drop_repeated_keys(json_value *object) {
    placed few[FEW_MEMBERS], *all = few;
    if (object->count < 2) return;
    if (object->count > FEW_MEMBERS) all = memory_alloc_array(object->count, sizeof *all);
    uint32_t n = 0;
    /* Members are the reader's own and writable until the tree is handed out. */
    for (json_value *v = (json_value *)object->first; v; v = (json_value *)v->next)
        all[n] = (placed){v, n}, n++;
    qsort(all, n, sizeof *all, compare_placed);
    if (merge_equal(all, n)) {
        for (json_value *v = (json_value *)object->first; v; v = (json_value *)v->next)
            while (v->next && !v->next->key) v->next = v->next->next, object->count--;
    }
    if (all != few) free(all);
}

static status read_key(reader *r, const char **key, size_t *bytes) {
    if (peek(r) != '"') return wrong(r, "a key in quotes is expected");
    TRY(read_string(r, key, bytes));
    if (peek(r) != ':') return wrong(r, "':' is expected");
    r->at++;
    return ST_OK;
}

/* ---- the whole ---- */

static status open_container(reader *r, json_value *v, json_kind kind) {
    if (r->depth == JSON_TREE_DEPTH_MAX)
        return fail(ST_FORMAT, "byte %zu: nested deeper than %d", r->at, JSON_TREE_DEPTH_MAX);
    v->kind = kind;
    r->open[r->depth].container = v;
    r->open[r->depth++].last = NULL;
    r->at++;
    return ST_OK;
}

/* One value, or the opening bracket of one, as the next child of the innermost open container. */
static status read_value(reader *r, const char *key, size_t key_bytes) {
    char b = peek(r);
    if (r->tree->count == JSON_TREE_VALUES_MAX)
        return fail(ST_FORMAT, "byte %zu: more than %d values", r->at, JSON_TREE_VALUES_MAX);
    json_value *v = new_value(r->tree);
    v->key = key, v->key_bytes = key_bytes;
    if (r->depth == 0) {
        r->tree->root = v;
    } else {
        json_value *parent = r->open[r->depth - 1].container, *last = r->open[r->depth - 1].last;
        if (last) last->next = v;
        else parent->first = v;
        r->open[r->depth - 1].last = v;
        parent->count++;
    }
    if (b == '{') return open_container(r, v, JSON_KIND_OBJECT);
    if (b == '[') return open_container(r, v, JSON_KIND_ARRAY);
    if (b == '"') {
        v->kind = JSON_KIND_STRING;
        return read_string(r, &v->text, &v->bytes);
    }
    if (b == '-' || (b >= '0' && b <= '9')) return read_number(r, v);
    return read_word(r, v);
}

/* Closes what ends here; *more: another child follows in what is open then. */
static status after_value(reader *r, bool *more) {
    *more = false;
    while (r->depth > 0) {
        json_value *c = r->open[r->depth - 1].container;
        bool object = c->kind == JSON_KIND_OBJECT;
        char b = peek(r);
        if (b == (object ? '}' : ']')) {
            r->at++;
            r->depth--;
            if (object) drop_repeated_keys(c);
            continue;
        }
        *more = true;
        if (!r->open[r->depth - 1].last) return ST_OK;
        if (b != ',') return wrong(r, object ? "',' or '}' is expected" : "',' or ']' is expected");
        r->at++;
        return ST_OK;
    }
    return ST_OK;
}

static status read_all(reader *r) {
    size_t valid = utf8_check(r->text, r->size);
    if (valid < r->size) return fail(ST_FORMAT, "byte %zu: not UTF-8", valid);
    bool more = true;
    const char *key = NULL;
    size_t key_bytes = 0;
    while (more) {
        if (r->depth > 0 && r->open[r->depth - 1].container->kind == JSON_KIND_OBJECT)
            TRY(read_key(r, &key, &key_bytes));
        else key = NULL, key_bytes = 0;
        TRY(read_value(r, key, key_bytes));
        TRY(after_value(r, &more));
    }
    peek(r);
    return r->at == r->size ? ST_OK : wrong(r, "more text after the value");
}

status json_tree_read(json_tree **out, const char *text, size_t bytes) {
    json_tree *t = memory_alloc(sizeof *t);
    t->pool = memory_grow(NULL, bytes + 1);
    t->first_block =
        bytes / 2 < BLOCK_FIRST ? (uint32_t)bytes / 2 + 1 : BLOCK_FIRST; /* "{}" is a frequent text */
    reader r = {.text = text, .size = bytes, .tree = t};
    *out = NULL;
    status st = read_all(&r);
    INVARIANT(t->pool_used <= bytes + 1);
    if (st == ST_OK) *out = t;
    else json_tree_close(t);
    return st;
}

void json_tree_close(json_tree *t) {
    if (!t) return;
    for (block *b = t->block, *before; b; b = before) {
        before = b->before;
        free(b);
    }
    free(t->pool);
    free(t);
}

const json_value *json_tree_root(const json_tree *t) { return t->root; }

uint32_t json_tree_count(const json_tree *t) { return t->count; }

/* ---- values ---- */

const json_value *json_value_get(const json_value *v, const char *key) {
    if (!v || v->kind != JSON_KIND_OBJECT) return NULL;
    size_t n = strlen(key);
    for (v = v->first; v; v = v->next)
        if (v->key_bytes == n && memcmp(v->key, key, n) == 0) return v;
    return NULL;
}

bool json_value_is_string(const json_value *v, const char *text) {
    return v && v->kind == JSON_KIND_STRING && v->bytes == strlen(text) &&
           memcmp(v->text, text, v->bytes) == 0;
}

bool json_value_integer(const json_value *v, int64_t *out) {
    if (!v || v->kind != JSON_KIND_NUMBER) return false;
    const char *p = v->text;
    bool negative = *p == '-';
    uint64_t sum = 0, most = negative ? (uint64_t)INT64_MAX + 1 : INT64_MAX;
    for (p += negative; *p; p++) {
        if (*p < '0' || *p > '9') return false;
        uint64_t digit = (uint64_t)(*p - '0');
        if (sum > (most - digit) / 10) return false;
        sum = sum * 10 + digit;
    }
    *out = negative ? (int64_t)(0 - sum) : (int64_t)sum;
    return true;
}

bool json_value_number(const json_value *v, double *out) {
    if (!v || v->kind != JSON_KIND_NUMBER) return false;
    double d = strtod(v->text, NULL);
    if (!isfinite(d)) return false;
    *out = d;
    return true;
}

/* ---- writing ---- */

static void write_control(strbuf *out, uint8_t c) {
    static const char shorts[] = "\b\f\n\r\t", letters[] = "bfnrt";
    const char *known = c ? strchr(shorts, c) : NULL;
    if (known) strbuf_add(out, (char[]){'\\', letters[known - shorts]}, 2);
    else strbuf_add_format(out, "\\u%04x", c);
}

void json_write_string(strbuf *out, const char *text, size_t bytes) {
    strbuf_add(out, "\"", 1);
    for (size_t at = 0; at < bytes;) {
        size_t begin = at, valid = at + utf8_check(text + at, bytes - at);
        for (; at < valid; at++) {
            uint8_t c = (uint8_t)text[at];
            if (c >= 0x20 && c != '"' && c != '\\') continue;
            strbuf_add(out, text + begin, at - begin);
            if (c < 0x20) write_control(out, c);
            else strbuf_add(out, (char[]){'\\', (char)c}, 2);
            begin = at + 1;
        }
        strbuf_add(out, text + begin, at - begin);
        if (at == bytes) break;
        strbuf_add_string(out, "\xEF\xBF\xBD");
        at++;
    }
    strbuf_add(out, "\"", 1);
}

void json_value_write(const json_value *v, strbuf *out) {
    switch (v->kind) {
    case JSON_KIND_NULL: strbuf_add(out, "null", 4); return;
    case JSON_KIND_FALSE: strbuf_add(out, "false", 5); return;
    case JSON_KIND_TRUE: strbuf_add(out, "true", 4); return;
    case JSON_KIND_NUMBER: strbuf_add(out, v->text, v->bytes); return;
    case JSON_KIND_STRING: json_write_string(out, v->text, v->bytes); return;
    case JSON_KIND_ARRAY:
    case JSON_KIND_OBJECT: break;
    }
    /* As deep as a tree may be. */
    strbuf_add(out, v->kind == JSON_KIND_OBJECT ? "{" : "[", 1);
    for (const json_value *c = v->first; c; c = c->next) {
        if (c != v->first) strbuf_add(out, ",", 1);
        if (v->kind == JSON_KIND_OBJECT) {
            json_write_string(out, c->key, c->key_bytes);
            strbuf_add(out, ":", 1);
        }
        json_value_write(c, out);
    }
    strbuf_add(out, v->kind == JSON_KIND_OBJECT ? "}" : "]", 1);
}
