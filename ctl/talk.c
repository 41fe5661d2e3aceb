#include "ctl/talk.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void talk_cut(talk *t, size_t count) {
    while (t->count > count) gemmad__v1__message__free_unpacked(t->message[--t->count], NULL);
}

void talk_close(talk *t) {
    talk_cut(t, 0);
    free(t->message);
    *t = (talk){0};
}

static ProtobufCBinaryData copy(const void *bytes, size_t n) {
    ProtobufCBinaryData data = {n, memory_alloc(n + 1)};
    if (n) memcpy(data.data, bytes, n);
    return data;
}

static Gemmad__V1__Message *make(const char *role, const char *text, size_t n) {
    Gemmad__V1__Message *m = memory_alloc(sizeof *m);
    gemmad__v1__message__init(m);
    m->role = memory_copy_string(role);
    if (n == 0) return m;
    Gemmad__V1__Part *part = memory_alloc(sizeof *part);
    gemmad__v1__part__init(part);
    part->part_case = GEMMAD__V1__PART__PART_TEXT;
    part->text = copy(text, n);
    m->content = memory_alloc(sizeof *m->content);
    m->content[m->n_content++] = part;
    return m;
}

static void insert(talk *t, size_t at, Gemmad__V1__Message *m) {
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 16;
        t->message = memory_grow(t->message, t->capacity * sizeof *t->message);
    }
    memmove(t->message + at + 1, t->message + at, (t->count - at) * sizeof *t->message);
    t->message[at] = m;
    t->count++;
}

const Gemmad__V1__Message *talk_system(const talk *t) {
    return t->count && !strcmp(t->message[0]->role, "system") ? t->message[0] : NULL;
}

void talk_set_system(talk *t, const char *text, size_t n) {
    if (talk_system(t)) {
        gemmad__v1__message__free_unpacked(t->message[0], NULL);
        memmove(t->message, t->message + 1, --t->count * sizeof *t->message);
    }
    if (n) insert(t, 0, make("system", text, n));
}

void talk_add(talk *t, const char *role, const char *text, size_t n) {
    insert(t, t->count, make(role, text, n));
}

static Gemmad__V1__ToolCall *copy_call(const reply_tool_call *from) {
    Gemmad__V1__ToolCall *c = memory_alloc(sizeof *c);
    gemmad__v1__tool_call__init(c);
    if (from->id) c->id = memory_copy_string(from->id);
    if (from->name) c->name = memory_copy_string(from->name);
    c->arguments_json = memory_copy_string(from->arguments.size ? from->arguments.data : "{}");
    return c;
}

void talk_add_answer(talk *t, const reply_sample *s) {
    Gemmad__V1__Message *m = make("assistant", strbuf_text(&s->content), s->content.size);
    m->has_reasoning = s->reasoning.size > 0;
    if (m->has_reasoning) m->reasoning = copy(s->reasoning.data, s->reasoning.size);
    insert(t, t->count, m);
    if (s->call_count == 0) return;
    if (m->n_content) {
        m = make("assistant", NULL, 0);
        insert(t, t->count, m);
    }
    m->tool_calls = memory_alloc_array(s->call_count, sizeof *m->tool_calls);
    for (; m->n_tool_calls < s->call_count; m->n_tool_calls++)
        m->tool_calls[m->n_tool_calls] = copy_call(&s->call[m->n_tool_calls]);
}

void talk_add_result(talk *t, const reply_tool_call *call, const strbuf *text) {
    Gemmad__V1__Message *m = make("tool", strbuf_text(text), text->size);
    if (call->id) m->tool_call_id = memory_copy_string(call->id);
    if (call->name) m->name = memory_copy_string(call->name);
    insert(t, t->count, m);
}

/* ---- as OpenAI writes it ---- */

static void write_calls(json_writer *w, const Gemmad__V1__Message *m) {
    json_key(w, "tool_calls");
    json_begin(w, '[');
    for (size_t i = 0; i < m->n_tool_calls; i++) {
        const Gemmad__V1__ToolCall *c = m->tool_calls[i];
        json_begin(w, '{');
        json_key(w, "id"), json_string(w, c->id ? c->id : "");
        json_key(w, "type"), json_string(w, "function");
        json_key(w, "function");
        json_begin(w, '{');
        json_key(w, "name"), json_string(w, c->name ? c->name : "");
        json_key(w, "arguments"), json_string(w, c->arguments_json);
        json_end(w, '}');
        json_end(w, '}');
    }
    json_end(w, ']');
}

static void write_message(json_writer *w, const Gemmad__V1__Message *m) {
    json_begin(w, '{');
    json_key(w, "role"), json_string(w, m->role);
    json_key(w, "content");
    if (m->n_content) json_text(w, m->content[0]->text.data, m->content[0]->text.len);
    else if (m->n_tool_calls) json_null(w);
    else json_string(w, "");
    if (m->has_reasoning) json_key(w, "reasoning_content"), json_text(w, m->reasoning.data, m->reasoning.len);
    if (m->n_tool_calls) write_calls(w, m);
    if (m->tool_call_id) json_key(w, "tool_call_id"), json_string(w, m->tool_call_id);
    if (m->name) json_key(w, "name"), json_string(w, m->name);
    json_end(w, '}');
}

void talk_write_json(json_writer *w, const talk *t) {
    json_begin(w, '[');
    for (size_t i = 0; i < t->count; i++) write_message(w, t->message[i]);
    json_end(w, ']');
}
