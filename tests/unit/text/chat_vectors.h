/* A conversation of tests/tokenizer/gemma4/chat.jsonl, which is JSON as transformers takes it, as a chat_conversation. */
#ifndef TESTS_UNIT_TEXT_CHAT_VECTORS_H
#define TESTS_UNIT_TEXT_CHAT_VECTORS_H

#include <stdlib.h>

#include "base/memory.h"
#include "daemon/text/chat_template.h"

static inline chat_text vector_text(const json_value *v) {
    return v && v->kind == JSON_KIND_STRING ? (chat_text){v->text, v->bytes} : (chat_text){0};
}

static inline bool vector_is(const json_value *v, const char *a, const char *b) {
    return json_value_is_string(v, a) || json_value_is_string(v, b);
}

/* openai_names: the template knows the part types image_url and input_audio too. Others write nothing anywhere. */
static inline bool vector_part(const json_value *v, bool openai_names, chat_part *out) {
    const json_value *type = json_value_get(v, "type");
    *out = (chat_part){.kind = CHAT_PART_TEXT};
    if (v->kind != JSON_KIND_OBJECT) return false;
    if (json_value_is_string(type, "text")) out->text = vector_text(json_value_get(v, "text"));
    else if (vector_is(type, "image", openai_names ? "image_url" : "image")) out->kind = CHAT_PART_IMAGE;
    else if (vector_is(type, "audio", openai_names ? "input_audio" : "audio")) out->kind = CHAT_PART_AUDIO;
    else if (json_value_is_string(type, "video")) out->kind = CHAT_PART_VIDEO;
    else out->text = (chat_text){"", 0};
    return true;
}

/* false: a chat_message holds no such content. */
static inline bool vector_content(const json_value *v, bool openai_names, chat_message *m) {
    if (!v || v->kind == JSON_KIND_NULL) return true;
    if (v->kind == JSON_KIND_STRING) {
        chat_part *part = memory_alloc(sizeof *part);
        part->text = vector_text(v);
        m->parts = part, m->part_count = 1, m->content = CHAT_CONTENT_STRING;
        return true;
    }
    if (v->kind != JSON_KIND_ARRAY) return false;
    chat_part *parts = memory_alloc_array(v->count + 1u, sizeof *parts);
    m->parts = parts, m->content = CHAT_CONTENT_PARTS;
    for (const json_value *c = v->first; c; c = c->next)
        if (!vector_part(c, openai_names, &parts[m->part_count++])) return false;
    return true;
}

static inline void vector_calls(const json_value *v, chat_message *m) {
    if (!v || v->kind != JSON_KIND_ARRAY) return;
    chat_call *calls = memory_alloc_array(v->count + 1u, sizeof *calls);
    m->calls = calls;
    for (const json_value *c = v->first; c; c = c->next) {
        const json_value *function = json_value_get(c, "function");
        calls[m->call_count++] = (chat_call){.id = vector_text(json_value_get(c, "id")),
                                             .name = vector_text(json_value_get(function, "name")),
                                             .arguments = json_value_get(function, "arguments")};
    }
}

static inline void vector_responses(const json_value *v, chat_message *m) {
    if (!v || v->kind != JSON_KIND_ARRAY) return;
    chat_response *responses = memory_alloc_array(v->count + 1u, sizeof *responses);
    m->responses = responses;
    for (const json_value *c = v->first; c; c = c->next)
        responses[m->response_count++] =
            (chat_response){vector_text(json_value_get(c, "name")), json_value_get(c, "response")};
}

static inline bool vector_message(const json_value *v, bool openai_names, chat_message *m) {
    m->role = vector_text(json_value_get(v, "role"));
    m->reasoning = vector_text(json_value_get(v, "reasoning"));
    if (m->reasoning.bytes == 0) m->reasoning = vector_text(json_value_get(v, "reasoning_content"));
    m->call_id = vector_text(json_value_get(v, "tool_call_id"));
    m->name = vector_text(json_value_get(v, "name"));
    vector_calls(json_value_get(v, "tool_calls"), m);
    vector_responses(json_value_get(v, "tool_responses"), m);
    return vector_content(json_value_get(v, "content"), openai_names, m);
}

static inline void vector_close(chat_conversation *c) {
    for (uint32_t i = 0; i < c->message_count; i++) {
        free((void *)c->messages[i].parts);
        free((void *)c->messages[i].calls);
        free((void *)c->messages[i].responses);
    }
    free((void *)c->messages);
    free((void *)c->tools);
    *c = (chat_conversation){0};
}

/* false: a chat_conversation cannot hold it. It points into v; vector_close in either case. */
static inline bool vector_conversation(const json_value *v, bool openai_names, chat_conversation *c) {
    const json_value *messages = json_value_get(v, "messages"), *tools = json_value_get(v, "tools"), *flag;
    bool good = true;
    *c = (chat_conversation){0};
    chat_message *m = memory_alloc_array((messages ? messages->count : 0) + 1u, sizeof *m);
    chat_tool *t = memory_alloc_array((tools ? tools->count : 0) + 1u, sizeof *t);
    c->messages = m, c->tools = t;
    for (const json_value *e = messages ? messages->first : NULL; e; e = e->next)
        good &= vector_message(e, openai_names, &m[c->message_count++]);
    for (const json_value *e = tools ? tools->first : NULL; e; e = e->next) {
        const json_value *f = json_value_get(e, "function");
        good &= f != NULL;
        t[c->tool_count++] =
            (chat_tool){vector_text(json_value_get(f, "name")), vector_text(json_value_get(f, "description")),
                        json_value_get(f, "parameters"), json_value_get(f, "response")};
    }
    flag = json_value_get(v, "enable_thinking");
    c->enable_thinking = flag && flag->kind == JSON_KIND_TRUE;
    flag = json_value_get(v, "preserve_thinking");
    c->preserve_thinking = flag && flag->kind == JSON_KIND_TRUE;
    flag = json_value_get(v, "add_generation_prompt");
    c->generation_prompt = flag && flag->kind == JSON_KIND_TRUE;
    return good;
}

#endif
