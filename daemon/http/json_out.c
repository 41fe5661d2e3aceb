#include "daemon/http/json_out.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/text/json_tree.h"

/* Whatever stands before a first element, in JSON or in front of it. */
static bool begins(char last) {
    return last == '{' || last == '[' || last == ':' || last == ' ' || last == '\n';
}

void out_key(strbuf *out, const char *key) {
    if (out->size > 0 && !begins(out->data[out->size - 1])) strbuf_add(out, ",", 1);
    if (!key) return;
    json_write_string(out, key, strlen(key));
    strbuf_add(out, ":", 1);
}

void out_object(strbuf *out, const char *key) {
    out_key(out, key);
    strbuf_add(out, "{", 1);
}

void out_array(strbuf *out, const char *key) {
    out_key(out, key);
    strbuf_add(out, "[", 1);
}

void out_end_object(strbuf *out) { strbuf_add(out, "}", 1); }
void out_end_array(strbuf *out) { strbuf_add(out, "]", 1); }

void out_text(strbuf *out, const char *key, const void *text, size_t bytes) {
    out_key(out, key);
    json_write_string(out, bytes ? text : "", bytes);
}

void out_string(strbuf *out, const char *key, const char *text) {
    if (text) out_text(out, key, text, strlen(text));
    else out_null(out, key);
}

void out_number(strbuf *out, const char *key, uint64_t value) {
    out_key(out, key);
    strbuf_add_format(out, "%llu", (unsigned long long)value);
}

void out_float(strbuf *out, const char *key, float value) {
    char text[32];
    out_key(out, key);
    if (!(value > -9999.0F)) value = -9999.0F; /* NaN too */
    if (isinf(value)) value = 9999.0F;
    snprintf(text, sizeof text, "%.9g", (double)value);
    strbuf_add_string(out, text);
    /* Clients with types of their own read "0" as an integer. */
    if (!strpbrk(text, ".e")) strbuf_add_string(out, ".0");
}

void out_bool(strbuf *out, const char *key, bool value) {
    out_key(out, key);
    strbuf_add_string(out, value ? "true" : "false");
}

void out_null(strbuf *out, const char *key) {
    out_key(out, key);
    strbuf_add_string(out, "null");
}

void out_raw(strbuf *out, const char *key, const char *json, size_t bytes) {
    out_key(out, key);
    strbuf_add(out, json, bytes);
}
