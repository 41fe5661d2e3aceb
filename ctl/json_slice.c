#include "ctl/json_slice.h"

#include <string.h>

typedef struct cursor {
    const char *at, *end;
} cursor;

static char skip_space(cursor *c) {
    while (c->at < c->end && strchr(" \t\r\n", *c->at) && *c->at) c->at++;
    return c->at < c->end ? *c->at : 0;
}

static void skip_string(cursor *c) {
    for (c->at++; c->at < c->end && *c->at != '"'; c->at++)
        if (*c->at == '\\' && c->at + 1 < c->end) c->at++;
    if (c->at < c->end) c->at++;
}

/* One value: brackets are only counted, since the text is known to be right. */
static json_slice take_value(cursor *c) {
    size_t depth = 0;
    char first = skip_space(c);
    json_slice value = {c->at, 0};
    do {
        char now = c->at < c->end ? *c->at : 0;
        if (now == '"') {
            skip_string(c);
        } else if (now == '{' || now == '[') {
            depth++, c->at++;
        } else if (now == '}' || now == ']') {
            if (depth == 0) break;
            depth--, c->at++;
        } else if (depth > 0) {
            c->at += c->at < c->end;
        } else {
            while (c->at < c->end && !memchr(",]} \t\r\n", *c->at, 7)) c->at++;
        }
    } while (depth > 0 && c->at < c->end);
    value.n = first ? (size_t)(c->at - value.at) : 0;
    return value;
}

static bool open_bracket(cursor *c, json_slice text, char bracket) {
    *c = (cursor){text.at, text.at + text.n};
    if (text.n == 0 || skip_space(c) != bracket) return false;
    c->at++;
    return true;
}

static bool next_item(cursor *c) {
    if (skip_space(c) == ',') c->at++;
    char now = skip_space(c);
    return now && now != ']' && now != '}';
}

bool json_slice_member(json_slice object, const char *name, json_slice *out) {
    cursor c;
    bool found = false;
    size_t n = strlen(name);
    if (!open_bracket(&c, object, '{')) return false;
    while (next_item(&c)) {
        json_slice key = take_value(&c);
        if (skip_space(&c) != ':') break;
        c.at++;
        json_slice value = take_value(&c);
        if (key.n != n + 2 || memcmp(key.at + 1, name, n) != 0) continue;
        *out = value;
        found = true;
    }
    return found;
}

bool json_slice_element(json_slice array, size_t number, json_slice *out) {
    cursor c;
    if (!open_bracket(&c, array, '[')) return false;
    for (size_t i = 0; next_item(&c); i++) {
        const char *before = c.at;
        json_slice value = take_value(&c);
        if (c.at == before) break;
        if (i < number) continue;
        *out = value;
        return true;
    }
    return false;
}
