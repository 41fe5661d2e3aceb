#include "daemon/http/body.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

status body_open(body *b, const char *text, size_t bytes) {
    *b = (body){0};
    if (json_tree_read(&b->tree, text, bytes) != ST_OK) {
        b->word = "invalid_json";
        return fail_within(ST_INVALID, "the body is not JSON");
    }
    b->root = json_tree_root(b->tree);
    if (b->root->kind == JSON_KIND_OBJECT) return ST_OK;
    body_close(b);
    b->word = "invalid_json";
    return fail(ST_INVALID, "the body is not a JSON object");
}

void body_close(body *b) {
    json_tree_close(b->tree);
    arena_close(&b->memory);
    b->tree = NULL;
    b->root = NULL;
}

/* param may be b->param itself. */
static void blame(body *b, const char *param, const char *word) {
    char copy[sizeof b->param];
    snprintf(copy, sizeof copy, "%s", param);
    memcpy(b->param, copy, sizeof copy);
    b->word = word;
}

status body_invalid(body *b, const char *param, const char *format, ...) {
    char text[STATUS_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    blame(b, param, "invalid_value");
    return fail(ST_INVALID, "%s: %s", param, text);
}

status body_unsupported(body *b, const char *param, const char *format, ...) {
    char text[STATUS_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    blame(b, param, "unsupported_parameter");
    return fail(ST_UNSUPPORTED, "%s: %s", param, text);
}

/* ---- which fields there are ---- */

static bool is_neutral(body *b, const json_value *v, const char *neutral) {
    if (!strcmp(neutral, "*")) return true;
    if (v->bytes > 64) return false;
    size_t n;
    const char *text = body_write(b, v, &n);
    for (const char *p = neutral; *p; p += strspn(p, " ")) {
        size_t word = strcspn(p, " ");
        if (word == n && !memcmp(p, text, n)) return true;
        p += word;
    }
    return false;
}

static status check_field(body *b, const json_value *v, const char *within, const body_field *fields,
                          size_t count) {
    char name[96];
    snprintf(name, sizeof name, "%s%.64s", within, v->key);
    for (size_t i = 0; i < count; i++) {
        const body_field *f = &fields[i];
        if (strcmp(f->name, v->key) != 0 || strlen(f->name) != v->key_bytes) continue;
        if (!f->neutral || v->kind == JSON_KIND_NULL || is_neutral(b, v, f->neutral)) return ST_OK;
        return body_unsupported(b, name, "%s", f->why ? f->why : "not available in this version");
    }
    if (v->kind == JSON_KIND_NULL) return ST_OK;
    blame(b, name, "unknown_parameter");
    return fail(ST_INVALID, "%s is no field that is known here", name);
}

status body_check_fields(body *b, const json_value *v, const char *within, const body_field *fields,
                         size_t count) {
    for (const json_value *m = v->first; m; m = m->next) TRY(check_field(b, m, within, fields, count));
    return ST_OK;
}

/* ---- values ---- */

const json_value *body_get(const json_value *v, const char *key) {
    const json_value *m = json_value_get(v, key);
    return m && m->kind != JSON_KIND_NULL ? m : NULL;
}

static const char *shown(const json_value *v) {
    static const char *const kinds[] = {"null",     "false",    "true",     "a number",
                                        "a string", "an array", "an object"};
    return v->kind == JSON_KIND_NUMBER && v->bytes < 40 ? v->text : kinds[v->kind];
}

/* 3.0 is an integer to Python's and JavaScript's clients. */
static bool whole_number(const json_value *v, int64_t *out) {
    double d;
    if (json_value_integer(v, out)) return true;
    if (!json_value_number(v, &d) || d < -9e15 || d > 9e15 || d != (double)(int64_t)d) return false;
    *out = (int64_t)d;
    return true;
}

status body_read_u32(body *b, const json_value *v, const char *key, uint32_t least, uint32_t most,
                     uint32_t *out, int *has) {
    const json_value *m = body_get(v, key);
    int64_t value;
    if (has) *has = false;
    if (!m) return ST_OK;
    if (!whole_number(m, &value) || value < least || value > most)
        return body_invalid(b, key, "it is %s, and must be an integer of %u to %u", shown(m), least, most);
    *out = (uint32_t)value;
    if (has) *has = true;
    return ST_OK;
}

status body_read_float(body *b, const json_value *v, const char *key, float *out, int *has) {
    const json_value *m = body_get(v, key);
    double value;
    if (has) *has = false;
    if (!m) return ST_OK;
    if (!json_value_number(m, &value))
        return body_invalid(b, key, "it is %s, and must be a number", shown(m));
    *out = (float)value;
    if (has) *has = true;
    return ST_OK;
}

status body_read_bool(body *b, const json_value *v, const char *key, bool *out) {
    const json_value *m = body_get(v, key);
    if (!m) return ST_OK;
    if (m->kind != JSON_KIND_TRUE && m->kind != JSON_KIND_FALSE)
        return body_invalid(b, key, "it is %s, and must be true or false", shown(m));
    *out = m->kind == JSON_KIND_TRUE;
    return ST_OK;
}

status body_read_text(body *b, const json_value *v, const char *key, const json_value **out) {
    const json_value *m = body_get(v, key);
    if (!m) return ST_OK;
    if (m->kind != JSON_KIND_STRING) return body_invalid(b, key, "it is %s, and must be a string", shown(m));
    *out = m;
    return ST_OK;
}

status body_read_string(body *b, const json_value *v, const char *key, const char **out) {
    const json_value *m = NULL;
    TRY(body_read_text(b, v, key, &m));
    if (!m) return ST_OK;
    if (strlen(m->text) != m->bytes)
        return body_invalid(b, key, "it has U+0000 in it, which is not allowed here");
    *out = m->text;
    return ST_OK;
}

char *body_write(body *b, const json_value *v, size_t *bytes) {
    strbuf text = {0};
    json_value_write(v, &text);
    *bytes = text.size;
    char *copy = arena_copy(&b->memory, strbuf_text(&text), text.size);
    strbuf_close(&text);
    return copy;
}
