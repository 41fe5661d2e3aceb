#include "daemon/text/chat_writer.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/text/python_text.h"

void chat_mark(chat_writer *w, const char *text) { strbuf_add_string(w->text, text); }

/* Text that was added from `begin` on came from strangers. */
static void note_plain(chat_writer *w, size_t begin) {
    size_t end = w->text->size;
    if (end == begin) return;
    if (w->plain_count > 0 && w->plain[w->plain_count - 1].end == begin) {
        w->plain[w->plain_count - 1].end = end;
        return;
    }
    if (w->plain_count == w->plain_capacity) {
        w->plain_capacity = w->plain_capacity ? w->plain_capacity * 2 : 64;
        w->plain = memory_grow(w->plain, w->plain_capacity * sizeof *w->plain);
    }
    w->plain[w->plain_count++] = (text_range){begin, end};
}

void chat_plain(chat_writer *w, const char *text, size_t bytes) {
    size_t begin = w->text->size;
    strbuf_add(w->text, text, bytes);
    note_plain(w, begin);
}

void chat_plain_str(chat_writer *w, const json_value *v) {
    size_t begin = w->text->size;
    python_write_str(w->text, v);
    note_plain(w, begin);
}

void chat_plain_upper(chat_writer *w, const json_value *v) {
    strbuf text = {.max = w->text->max};
    size_t begin = w->text->size;
    python_write_str(&text, v);
    python_write_upper(w->text, strbuf_text(&text), text.size);
    note_plain(w, begin);
    if (text.full) w->text->full = true;
    strbuf_close(&text);
}

bool chat_upper_is(const json_value *v, const char *word) {
    size_t n = strlen(word);
    if (!v || v->kind != JSON_KIND_STRING || v->bytes > 4 * n) return false;
    strbuf upper = {0};
    python_write_upper(&upper, v->text, v->bytes);
    bool is = upper.size == n && memcmp(strbuf_text(&upper), word, n) == 0;
    strbuf_close(&upper);
    return is;
}

typedef struct placed {
    const json_value *value;
    uint32_t place;
} placed;

static int compare_placed(const void *a, const void *b) {
    const placed *p = a, *q = b;
    int c = python_compare_lower(p->value->key, p->value->key_bytes, q->value->key, q->value->key_bytes);
    return c != 0 ? c : p->place < q->place ? -1 : 1;
}

const json_value **chat_sorted(const json_value *v) {
    placed *all = memory_alloc_array(v->count + 1u, sizeof *all);
    const json_value **sorted = memory_alloc_array(v->count + 1u, sizeof *sorted);
    uint32_t n = 0;
    for (const json_value *c = v->first; c; c = c->next, n++) all[n] = (placed){c, n};
    qsort(all, n, sizeof *all, compare_placed);
    for (uint32_t i = 0; i < n; i++) sorted[i] = all[i].value;
    free(all);
    return sorted;
}

static void write_string(chat_writer *w, const char *text, size_t bytes) {
    chat_mark(w, "<|\"|>");
    chat_plain(w, text, bytes);
    chat_mark(w, "<|\"|>");
}

static void write_object(chat_writer *w, const json_value *v, bool quoted) {
    const json_value **member = chat_sorted(v);
    for (uint32_t i = 0; i < v->count; i++) {
        if (i > 0) chat_mark(w, ",");
        if (quoted) write_string(w, member[i]->key, member[i]->key_bytes);
        else chat_plain(w, member[i]->key, member[i]->key_bytes);
        chat_mark(w, ":");
        chat_write_value(w, member[i], quoted);
    }
    free(member);
}

void chat_write_members(chat_writer *w, const json_value *object) { write_object(w, object, false); }

void chat_write_value(chat_writer *w, const json_value *v, bool quoted) {
    switch (v ? v->kind : JSON_KIND_NULL) {
    case JSON_KIND_NULL: chat_mark(w, w->template->version < CHAT_JULY ? "None" : "null"); return;
    case JSON_KIND_FALSE: chat_mark(w, "false"); return;
    case JSON_KIND_TRUE: chat_mark(w, "true"); return;
    case JSON_KIND_NUMBER: chat_plain_str(w, v); return;
    case JSON_KIND_STRING: write_string(w, v->text, v->bytes); return;
    case JSON_KIND_ARRAY:
        chat_mark(w, "[");
        for (const json_value *c = v->first; c; c = c->next) {
            if (c != v->first) chat_mark(w, ",");
            chat_write_value(w, c, quoted);
        }
        chat_mark(w, "]");
        return;
    case JSON_KIND_OBJECT:
        chat_mark(w, "{");
        write_object(w, v, quoted);
        chat_mark(w, "}");
        return;
    }
}
