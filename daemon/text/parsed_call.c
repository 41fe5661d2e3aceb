#include "daemon/text/parsed_call.h"

#include <stdint.h>
#include <string.h>

#include "daemon/text/call_scan.h"
#include "daemon/text/json_cursor.h"
#include "daemon/text/json_tree.h"

typedef struct reader {
    call_scan scan;
    strbuf *out; /* JSON, where a key may still come twice */
    strbuf scratch;
} reader;

static bool read_value(reader *r, bool *is_string);

/* Delimiters inside a string stood for quotation marks. */
static void write_string(reader *r, size_t begin, size_t end) {
    const char *text = r->scan.text;
    if (!memchr(text + begin, CALL_DELIMITER, end - begin)) {
        json_write_string(r->out, text + begin, end - begin);
        return;
    }
    strbuf_clear(&r->scratch);
    strbuf_add(&r->scratch, text + begin, end - begin);
    for (size_t i = 0; i < r->scratch.size; i++)
        if ((uint8_t)r->scratch.data[i] == CALL_DELIMITER) r->scratch.data[i] = '"';
    json_write_string(r->out, r->scratch.data, r->scratch.size);
}

/* A JSON string's characters, escapes decoded. Line breaks and tabs may stand in it as they are. */
static bool write_json_string(reader *r, size_t begin, size_t end) {
    const char *s;
    size_t n;
    strbuf_clear(&r->scratch);
    strbuf_add(&r->scratch, "\"", 1);
    bool escaped = false;
    for (size_t i = begin; i < end; i++) {
        uint8_t c = (uint8_t)r->scan.text[i];
        if (c < 0x20 && escaped) return false;
        if (c < 0x20) strbuf_add_format(&r->scratch, "\\u%04x", c);
        else strbuf_add(&r->scratch, &c, 1);
        escaped = c == '\\' && !escaped;
    }
    strbuf_add(&r->scratch, "\"", 1);
    json_cursor cursor = {.text = r->scratch.data, .size = r->scratch.size};
    bool good = json_cursor_string(&cursor, &s, &n) == ST_OK && cursor.at == r->scratch.size;
    if (good) json_write_string(r->out, s, n);
    json_cursor_close(&cursor);
    return good;
}

/* The string goes on to the end of the call, where closers that are due are not part of it. */
static bool read_unclosed(reader *r, size_t begin) {
    call_scan *s = &r->scan;
    if (!s->closes) return false;
    size_t end = call_scan_tail(s, begin);
    write_string(r, begin, end);
    s->at = end;
    return true;
}

/* A string that begins at `begin`, and whose first delimiter behind its beginning is at `from` or later. It ends at the
 * first one after which the call can go on; an odd number of others before that cannot be told from one left out. */
static bool read_delimited(reader *r, size_t begin, size_t from) {
    call_scan *s = &r->scan;
    bool even = true;
    for (const char *at;
         from < s->size && (at = memchr(s->text + from, CALL_DELIMITER, s->size - from)) != NULL;
         even = !even) {
        size_t end = (size_t)(at - s->text);
        from = end + 1;
        if (!call_scan_goes_on(s, from, even)) continue;
        if (!even) return false;
        write_string(r, begin, end);
        s->at = from;
        return true;
    }
    return even && read_unclosed(r, begin);
}

static void skip_delimiter(call_scan *s) {
    if (s->at < s->size && (uint8_t)s->text[s->at] == CALL_DELIMITER) s->at++;
}

static bool read_json_quoted(reader *r) {
    call_scan *s = &r->scan;
    size_t begin = s->at + 1, end = call_scan_json_quote(s, begin);
    bool closed = end < s->size;
    if (closed && s->text[end] != '"') return false; /* a delimiter */
    if (!closed && !s->closes) return false;
    if (!closed) end = call_scan_tail(s, begin);
    if (!write_json_string(r, begin, end)) return false;
    s->at = end + closed;
    skip_delimiter(s);
    return true;
}

static bool read_single_quoted(reader *r) {
    call_scan *s = &r->scan;
    size_t begin = s->at + 1;
    for (size_t from = begin; from < s->size;) {
        const char *at = memchr(s->text + from, '\'', s->size - from);
        if (!at) break;
        size_t end = (size_t)(at - s->text);
        s->at = from = end + 1;
        skip_delimiter(s);
        if (!call_scan_goes_on(s, s->at, true)) continue;
        write_string(r, begin, end);
        return true;
    }
    return read_unclosed(r, begin);
}

static bool is_number(const char *p, size_t n) {
    size_t i = 0, begin;
    if (i < n && p[i] == '-') i++;
    begin = i;
    while (i < n && p[i] >= '0' && p[i] <= '9') i++;
    if (i == begin || (p[begin] == '0' && i > begin + 1)) return false;
    if (i < n && p[i] == '.') {
        begin = ++i;
        while (i < n && p[i] >= '0' && p[i] <= '9') i++;
        if (i == begin) return false;
    }
    if (i < n && (p[i] == 'e' || p[i] == 'E')) {
        i++;
        if (i < n && (p[i] == '+' || p[i] == '-')) i++;
        begin = i;
        while (i < n && p[i] >= '0' && p[i] <= '9') i++;
        if (i == begin) return false;
    }
    return i == n;
}

static const char *json_word(const char *p, size_t n) {
    static const char *const words[][2] = {{"true", "true"}, {"false", "false"}, {"null", "null"},
                                           {"True", "true"}, {"False", "false"}, {"None", "null"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i][0]) == n && memcmp(words[i][0], p, n) == 0) return words[i][1];
    return NULL;
}

static bool read_bare(reader *r, bool *is_string) {
    call_scan *s = &r->scan;
    size_t begin = s->at, end = call_scan_bare(s, begin);
    if (end < s->size && (uint8_t)s->text[end] == CALL_DELIMITER) {
        *is_string = true; /* its opening delimiter was left out */
        return read_delimited(r, begin, end);
    }
    s->at = end;
    while (end > begin && call_is_space(s->text[end - 1])) end--;
    if (end == begin) return false;
    const char *text = s->text + begin, *word = json_word(text, end - begin);
    if (word) strbuf_add_string(r->out, word);
    else if (is_number(text, end - begin)) strbuf_add(r->out, text, end - begin);
    else json_write_string(r->out, text, end - begin);
    return true;
}

/* Behind the key its separator is next. */
static bool read_key(reader *r) {
    call_scan *s = &r->scan;
    size_t begin = s->at, end;
    uint8_t c = (uint8_t)s->text[begin];
    if (c == '"') {
        end = call_scan_json_quote(s, begin + 1);
        if (end == s->size || s->text[end] != '"' || !write_json_string(r, begin + 1, end)) return false;
        s->at = end + 1;
    } else if (c == '\'' || c == CALL_DELIMITER) {
        const char *at = memchr(s->text + begin + 1, c, s->size - begin - 1);
        if (!at) return false;
        end = (size_t)(at - s->text);
        if (memchr(s->text + begin + 1, CALL_DELIMITER, end - begin - 1)) return false;
        json_write_string(r->out, s->text + begin + 1, end - begin - 1);
        s->at = end + 1;
    } else {
        s->at = end = call_scan_bare_key(s, begin);
        while (end > begin && call_is_space(s->text[end - 1])) end--;
        if (end == begin) return false;
        json_write_string(r->out, s->text + begin, end - begin);
    }
    call_scan_space(s);
    return true;
}

static bool read_member(reader *r, bool *is_string) {
    call_scan *s = &r->scan;
    if (!read_key(r) || !call_scan_is_separator(s, s->at)) return false;
    s->at++;
    strbuf_add(r->out, ":", 1);
    return read_value(r, is_string);
}

/* Elements of an array, or members of an object, from behind the opening bracket to behind the closing one. */
static bool read_container(reader *r, char closer) {
    call_scan *s = &r->scan;
    bool first = true, ready = true, is_string = false;
    if (s->depth == JSON_TREE_DEPTH_MAX) return false;
    s->open[s->depth++] = closer;
    strbuf_add(r->out, closer == ']' ? "[" : "{", 1);
    for (;; first = false) {
        call_scan_space(s);
        if (s->at == s->size && !s->closes) return false;
        if (s->at == s->size || s->text[s->at] == closer) break;
        /* A comma may be missing behind a string. */
        if (!ready && (closer == ']' || !is_string || !call_scan_key_ahead(s, s->at, true))) return false;
        if (!first) strbuf_add(r->out, ",", 1);
        if (!(closer == ']' ? read_value(r, &is_string) : read_member(r, &is_string))) return false;
        call_scan_space(s);
        ready = s->at < s->size && s->text[s->at] == ',';
        s->at += ready;
    }
    s->at += s->at < s->size;
    s->depth--;
    strbuf_add(r->out, closer == ']' ? "]" : "}", 1);
    return true;
}

static bool read_value(reader *r, bool *is_string) {
    call_scan *s = &r->scan;
    call_scan_space(s);
    *is_string = false;
    if (s->at == s->size) return false;
    switch ((uint8_t)s->text[s->at]) {
    case '{': s->at++; return read_container(r, '}');
    case '[': s->at++; return read_container(r, ']');
    case CALL_DELIMITER: *is_string = true; return read_delimited(r, s->at + 1, s->at + 1);
    case '"': *is_string = true; return read_json_quoted(r);
    case '\'': *is_string = true; return read_single_quoted(r);
    default: return read_bare(r, is_string);
    }
}

/* call:name and what is made of it: :call:name, :name, name, call: name. Leaves the opening bracket next. */
static bool read_head(call_scan *s, strbuf *name) {
    size_t n = 0;
    call_scan_space(s);
    if (s->at < s->size && s->text[s->at] == ':') s->at++;
    call_scan_space(s);
    if (s->size - s->at > 4 && !memcmp(s->text + s->at, "call", 4)) {
        size_t after = s->at + 4;
        while (after < s->size && call_is_space(s->text[after])) after++;
        if (after < s->size && s->text[after] == ':') s->at = after + 1;
    }
    call_scan_space(s);
    const char *begin = s->text + s->at;
    while (s->at + n < s->size && call_in_name(begin[n])) n++;
    strbuf_add(name, begin, n);
    s->at += n;
    call_scan_space(s);
    return n > 0 && s->at < s->size && (s->text[s->at] == '{' || s->text[s->at] == '(');
}

static bool read_call(reader *r, strbuf *name) {
    call_scan *s = &r->scan;
    if (!read_head(s, name)) return false;
    char closer = s->text[s->at++] == '(' ? ')' : '}';
    if (!read_container(r, closer)) return false;
    call_scan_space(s);
    return s->at == s->size;
}

/* The tree keeps what stood there and of a key that came twice the last value. */
static bool settle_keys(strbuf *json) {
    json_tree *tree;
    if (json_tree_read(&tree, strbuf_text(json), json->size) != ST_OK) return false;
    strbuf_clear(json);
    json_value_write(json_tree_root(tree), json);
    json_tree_close(tree);
    return true;
}

bool parsed_call_read(parsed_call *out, const char *text, size_t n, bool closes) {
    *out = (parsed_call){0};
    reader r = {.scan = {.text = text, .size = n, .closes = closes}, .out = &out->arguments};
    bool good = read_call(&r, &out->name) && settle_keys(&out->arguments);
    strbuf_close(&r.scratch);
    if (!good) parsed_call_close(out);
    return good;
}

void parsed_call_close(parsed_call *c) {
    strbuf_close(&c->name);
    strbuf_close(&c->arguments);
}
