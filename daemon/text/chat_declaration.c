/* Declarations of tools: a JSON Schema as the templates write it. What a schema says in other ways than the template asks
 * for is handled as Jinja does: a missing value is empty and false, one of another kind has no members. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "daemon/text/chat_writer.h"
#include "daemon/text/python_text.h"

static const json_value *get(const json_value *v, const char *key) { return json_value_get(v, key); }

static void quoted_str(chat_writer *w, const json_value *v) {
    chat_mark(w, "<|\"|>");
    chat_plain_str(w, v);
    chat_mark(w, "<|\"|>");
}

static void quoted_upper(chat_writer *w, const json_value *v) {
    chat_mark(w, "<|\"|>");
    chat_plain_upper(w, v);
    chat_mark(w, "<|\"|>");
}

/* Between the parts of a declaration. */
static void separate(chat_writer *w, bool *later) {
    if (*later) chat_mark(w, ",");
    *later = true;
}

static status not_iterable(const char *key) {
    return fail(ST_INVALID, "\"%s\" is no list, and the chat template cannot write it", key);
}

/* Each element of what Python can iterate over: a list's items, an object's keys, a string's characters. */
static status write_each(chat_writer *w, const char *key, const json_value *v, bool upper) {
    bool later = false;
    if (v->kind == JSON_KIND_STRING) {
        for (const char *p = v->text, *end = p + v->bytes; p < end;) {
            uint32_t c;
            unsigned n = utf8_decode(p, &c);
            separate(w, &later);
            chat_mark(w, "<|\"|>");
            chat_plain(w, p, n);
            chat_mark(w, "<|\"|>");
            p += n;
        }
        return ST_OK;
    }
    if (v->kind != JSON_KIND_ARRAY && v->kind != JSON_KIND_OBJECT) return not_iterable(key);
    for (const json_value *c = v->first; c; c = c->next) {
        json_value name = {.kind = JSON_KIND_STRING, .text = c->key, .bytes = c->key_bytes};
        const json_value *item = v->kind == JSON_KIND_OBJECT ? &name : c;
        separate(w, &later);
        if (upper) quoted_upper(w, item);
        else quoted_str(w, item);
    }
    return ST_OK;
}

static status write_required(chat_writer *w, const json_value *v) {
    chat_mark(w, "required:[");
    TRY(write_each(w, "required", v, false));
    chat_mark(w, "]");
    return ST_OK;
}

static status write_properties(chat_writer *w, const json_value *v, bool filter);

static status write_items_type(chat_writer *w, const json_value *v) {
    chat_mark(w, "type:");
    if (v->kind == JSON_KIND_STRING) {
        quoted_upper(w, v);
        return ST_OK;
    }
    chat_mark(w, "[");
    if (python_truth(v)) TRY(write_each(w, "type", v, true));
    chat_mark(w, "]");
    return ST_OK;
}

/* One key of a list's "items". */
static status write_items_member(chat_writer *w, const json_value *v) {
    if (v->key_bytes == 10 && !memcmp(v->key, "properties", 10)) {
        chat_mark(w, "properties:{");
        if (v->kind == JSON_KIND_OBJECT) TRY(write_properties(w, v, false));
        chat_mark(w, "}");
        return ST_OK;
    }
    if (v->key_bytes == 8 && !memcmp(v->key, "required", 8)) return write_required(w, v);
    if (v->key_bytes == 4 && !memcmp(v->key, "type", 4)) return write_items_type(w, v);
    chat_plain(w, v->key, v->key_bytes);
    chat_mark(w, ":");
    chat_write_value(w, v, true);
    return ST_OK;
}

static status write_items(chat_writer *w, const json_value *items) {
    const json_value **member = chat_sorted(items);
    status st = ST_OK;
    bool later = false;
    chat_mark(w, "items:{");
    for (uint32_t i = 0; i < items->count && st == ST_OK; i++) {
        if (member[i]->kind == JSON_KIND_NULL) continue;
        separate(w, &later);
        st = write_items_member(w, member[i]);
    }
    chat_mark(w, "}");
    free(member);
    return st;
}

static status write_object(chat_writer *w, const json_value *v, bool *later) {
    const json_value *properties = get(v, "properties"), *required = get(v, "required");
    bool described = properties && properties->kind == JSON_KIND_OBJECT;
    separate(w, later);
    chat_mark(w, "properties:{");
    TRY(write_properties(w, described ? properties : v, !described));
    chat_mark(w, "}");
    if (!python_truth(required)) return ST_OK;
    separate(w, later);
    return write_required(w, required);
}

/* What is said of one property, up to the closing brace. */
static status write_property(chat_writer *w, const json_value *v) {
    const json_value *description = get(v, "description"), *type = get(v, "type"), *choices = get(v, "enum"),
                     *items = get(v, "items");
    bool later = false;
    if (python_truth(description)) {
        chat_mark(w, "description:");
        quoted_str(w, description);
        later = true;
    }
    if (chat_upper_is(type, "STRING") && python_truth(choices)) {
        separate(w, &later);
        chat_mark(w, "enum:");
        chat_write_value(w, choices, true);
    }
    if (chat_upper_is(type, "ARRAY") && items && items->kind == JSON_KIND_OBJECT && items->count > 0) {
        separate(w, &later);
        TRY(write_items(w, items));
    }
    if (python_truth(get(v, "nullable"))) {
        separate(w, &later);
        chat_mark(w, "nullable:true");
    }
    if (chat_upper_is(type, "OBJECT")) TRY(write_object(w, v, &later));
    separate(w, &later);
    chat_mark(w, "type:");
    quoted_upper(w, type);
    chat_mark(w, "}");
    return ST_OK;
}

static bool is_standard(const json_value *v) {
    static const char *const words[] = {"description", "type", "properties", "required", "nullable"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (v->key_bytes == strlen(words[i]) && !memcmp(v->key, words[i], v->key_bytes)) return true;
    return false;
}

/* filter: `v` is a schema taken for its properties, and its own keywords are left out. The first version did so always. */
static status write_properties(chat_writer *w, const json_value *v, bool filter) {
    if (v->kind != JSON_KIND_OBJECT)
        return fail(ST_INVALID, "\"properties\" is no object, and the chat template cannot write it");
    const json_value **member = chat_sorted(v);
    status st = ST_OK;
    bool later = false;
    for (uint32_t i = 0; i < v->count && st == ST_OK; i++) {
        if ((filter || w->template->version == CHAT_APRIL_10) && is_standard(member[i])) continue;
        separate(w, &later);
        chat_plain(w, member[i]->key, member[i]->key_bytes);
        chat_mark(w, ":{");
        st = write_property(w, member[i]);
    }
    free(member);
    return st;
}

static status write_parameters(chat_writer *w, const json_value *v) {
    const json_value *properties = get(v, "properties"), *required = get(v, "required"),
                     *type = get(v, "type");
    chat_mark(w, ",parameters:{");
    if (python_truth(properties)) {
        chat_mark(w, "properties:{");
        TRY(write_properties(w, properties, false));
        chat_mark(w, "},");
    }
    if (python_truth(required)) {
        TRY(write_required(w, required));
        chat_mark(w, ",");
    }
    if (python_truth(type)) {
        chat_mark(w, "type:");
        quoted_upper(w, type);
        chat_mark(w, "}");
    }
    return ST_OK;
}

static void write_response(chat_writer *w, const json_value *v) {
    const json_value *description = get(v, "description"), *type = get(v, "type");
    chat_mark(w, ",response:{");
    if (python_truth(description)) {
        chat_mark(w, "description:");
        quoted_str(w, description);
        chat_mark(w, ",");
    }
    if (chat_upper_is(type, "OBJECT")) {
        chat_mark(w, "type:");
        quoted_upper(w, type);
        chat_mark(w, "}");
    }
}

status chat_write_tool(chat_writer *w, const chat_tool *t) {
    chat_mark(w, "<|tool>declaration:");
    chat_plain(w, t->name.text, t->name.bytes);
    chat_mark(w, "{description:<|\"|>");
    chat_plain(w, t->description.text, t->description.bytes);
    chat_mark(w, "<|\"|>");
    if (python_truth(t->parameters)) TRY(write_parameters(w, t->parameters));
    if (t->response) write_response(w, t->response);
    chat_mark(w, "}<tool|>");
    return ST_OK;
}
