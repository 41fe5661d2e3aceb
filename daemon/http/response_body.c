#include "daemon/http/response_body.h"

#include <stdio.h>
#include <string.h>

#include "daemon/http/json_out.h"
#include "proto/limits.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const char nothing_is_stored[] = "nothing is stored here; send the whole conversation as input";

static const body_field fields[] = {
    {"model", NULL, NULL},
    {"input", NULL, NULL},
    {"instructions", NULL, NULL},
    {"max_output_tokens", NULL, NULL},
    {"temperature", NULL, NULL},
    {"top_p", NULL, NULL},
    {"tools", NULL, NULL},
    {"tool_choice", NULL, NULL},
    {"parallel_tool_calls", NULL, NULL},
    {"text", NULL, NULL},
    {"reasoning", NULL, NULL},
    {"stream", NULL, NULL},
    {"stream_options", NULL, NULL},
    {"metadata", "*", NULL},
    {"user", "*", NULL},
    {"service_tier", "*", NULL},
    {"safety_identifier", "*", NULL},
    {"prompt_cache_key", "*", NULL},
    {"prompt_cache_retention", "*", NULL},
    {"store", "false", nothing_is_stored},
    {"previous_response_id", "", nothing_is_stored},
    {"conversation", "", nothing_is_stored},
    {"prompt", "", nothing_is_stored},
    {"background", "false", nothing_is_stored},
    {"include", "[] [\"reasoning.encrypted_content\"]",
     "reasoning is in the answer as it is, and there is nothing else"},
    {"truncation", "\"disabled\"", "nothing is truncated here"},
    {"top_logprobs", "0", "use /v1/chat/completions"},
    {"max_tool_calls", "", "tools are the client's to call"},
    /* Extras, with vLLM's names. */
    {"top_k", NULL, NULL},
    {"min_p", NULL, NULL},
    {"seed", NULL, NULL},
    {"stop", NULL, NULL},
    {"stop_token_ids", NULL, NULL},
    {"ignore_eos", NULL, NULL},
    {"repetition_penalty", NULL, NULL},
    {"presence_penalty", NULL, NULL},
    {"frequency_penalty", NULL, NULL},
    {"logit_bias", NULL, NULL},
    {"priority", NULL, NULL},
};

/* ---- input ---- */

static Gemmad__V1__Message *add_message(body *b, response_body *out, const char *role) {
    Gemmad__V1__ChatRequest *r = &out->request;
    Gemmad__V1__Message *m = arena_alloc(&b->memory, 1, sizeof *m);
    gemmad__v1__message__init(m);
    m->role = (char *)(uintptr_t)role;
    r->messages[r->n_messages++] = m;
    return m;
}

static Gemmad__V1__Message *last_message(const response_body *out) {
    return out->request.n_messages > 0 ? out->request.messages[out->request.n_messages - 1] : NULL;
}

/* Items of one turn of the assistant are one message of a chat: what it thought, said and called. */
static Gemmad__V1__Message *assistant_turn(body *b, response_body *out, bool takes_content) {
    Gemmad__V1__Message *m = last_message(out);
    bool open =
        m && !strcmp(m->role, "assistant") && (!takes_content || (m->n_content == 0 && m->n_tool_calls == 0));
    return open ? m : add_message(b, out, "assistant");
}

static status read_content(body *b, const json_value *content, const char *where, Gemmad__V1__Message *m) {
    if (content && content->kind == JSON_KIND_STRING) return chat_body_add_text(b, m, content);
    if (content && content->kind == JSON_KIND_ARRAY) return chat_body_read_parts(b, content, where, m);
    return body_invalid(b, where, "it must be a string or an array of parts");
}

static status read_message(body *b, const json_value *v, const char *where, response_body *out) {
    const char *role = NULL;
    TRY(body_read_string(b, v, "role", &role));
    if (!role || !*role) return body_invalid(b, where, "the message has no role");
    bool own = !strcmp(role, "assistant");
    return read_content(b, body_get(v, "content"), where,
                        own ? assistant_turn(b, out, true) : add_message(b, out, role));
}

static status read_call(body *b, const json_value *v, const char *where, response_body *out) {
    const char *id = NULL, *name = NULL, *arguments = NULL;
    TRY(body_read_string(b, v, "call_id", &id));
    TRY(body_read_string(b, v, "name", &name));
    TRY(body_read_string(b, v, "arguments", &arguments));
    if (!name || !*name) return body_invalid(b, where, "the call has no name");
    Gemmad__V1__Message *m = assistant_turn(b, out, false);
    /* Each call copies the list of those before it. */
    if (m->n_tool_calls == LIMIT_MESSAGE_CALLS)
        return body_invalid(b, where, "more than %d calls stand together", LIMIT_MESSAGE_CALLS);
    Gemmad__V1__ToolCall *c = arena_alloc(&b->memory, 1, sizeof *c);
    Gemmad__V1__ToolCall **list = arena_alloc(&b->memory, m->n_tool_calls + 1, sizeof *list);
    gemmad__v1__tool_call__init(c);
    c->id = (char *)(uintptr_t)id;
    c->name = (char *)(uintptr_t)name;
    c->arguments_json = arguments && *arguments ? (char *)(uintptr_t)arguments : "{}";
    if (m->n_tool_calls > 0) memcpy(list, m->tool_calls, m->n_tool_calls * sizeof *list);
    list[m->n_tool_calls++] = c;
    m->tool_calls = list;
    return ST_OK;
}

static status read_output(body *b, const json_value *v, const char *where, response_body *out) {
    const char *id = NULL;
    TRY(body_read_string(b, v, "call_id", &id));
    Gemmad__V1__Message *m = add_message(b, out, "tool");
    m->tool_call_id = (char *)(uintptr_t)id;
    return read_content(b, body_get(v, "output"), where, m);
}

/* The texts of a reasoning item's content, joined; a summary is none of it. */
static status read_reasoning(body *b, const json_value *v, const char *where, response_body *out) {
    const json_value *content = body_get(v, "content");
    strbuf text = {0};
    if (!content || content->kind != JSON_KIND_ARRAY || !content->first) return ST_OK;
    for (const json_value *p = content->first; p; p = p->next) {
        const json_value *t = json_value_get(p, "text");
        if (!t || t->kind != JSON_KIND_STRING) {
            strbuf_close(&text);
            return body_invalid(b, where, "a part of reasoning has no text");
        }
        strbuf_add(&text, t->text, t->bytes);
    }
    Gemmad__V1__Message *m = add_message(b, out, "assistant");
    m->has_reasoning = 1;
    m->reasoning =
        (ProtobufCBinaryData){text.size, (uint8_t *)arena_copy(&b->memory, strbuf_text(&text), text.size)};
    strbuf_close(&text);
    return ST_OK;
}

static status read_item(body *b, const json_value *v, const char *where, response_body *out) {
    const json_value *type = body_get(v, "type");
    if (v->kind != JSON_KIND_OBJECT) return body_invalid(b, where, "an item must be an object");
    if (!type || json_value_is_string(type, "message")) return read_message(b, v, where, out);
    if (json_value_is_string(type, "function_call")) return read_call(b, v, where, out);
    if (json_value_is_string(type, "function_call_output")) return read_output(b, v, where, out);
    if (json_value_is_string(type, "reasoning")) return read_reasoning(b, v, where, out);
    return body_unsupported(b, where, "items of type \"%.40s\" are not available in this version",
                            type->kind == JSON_KIND_STRING ? type->text : "?");
}

static status read_input(body *b, response_body *out) {
    const json_value *input = body_get(b->root, "input"), *instructions = NULL;
    char where[48];
    size_t number = 0;
    bool is_list = input && input->kind == JSON_KIND_ARRAY;
    out->request.messages =
        arena_alloc(&b->memory, (is_list ? input->count : 1) + 1, sizeof *out->request.messages);
    TRY(body_read_text(b, b->root, "instructions", &instructions));
    if (instructions) TRY(chat_body_add_text(b, add_message(b, out, "system"), instructions));
    if (input && input->kind == JSON_KIND_STRING)
        return chat_body_add_text(b, add_message(b, out, "user"), input);
    if (!is_list || !input->first)
        return body_invalid(b, "input", "it must be a string or an array of one item or more");
    for (const json_value *v = input->first; v; v = v->next) {
        snprintf(where, sizeof where, "input[%zu]", number++);
        TRY(read_item(b, v, where, out));
    }
    return ST_OK;
}

/* ---- the rest ---- */

static status read_tool(body *b, const json_value *v, const char *where, Gemmad__V1__Tool *t) {
    const json_value *type = body_get(v, "type");
    if (!json_value_is_string(type, "function"))
        return body_unsupported(b, where, "tools of type \"%.40s\"; \"function\" is known",
                                type && type->kind == JSON_KIND_STRING ? type->text : "?");
    return chat_body_read_function(b, v, where, t);
}

static status read_text(body *b, response_body *out) {
    static const body_field known[] = {{"format", NULL, NULL}, {"verbosity", "\"medium\"", NULL}};
    const json_value *text = body_get(b->root, "text");
    if (!text) return ST_OK;
    if (text->kind != JSON_KIND_OBJECT) return body_invalid(b, "text", "it must be an object");
    TRY(body_check_fields(b, text, "text.", known, COUNT(known)));
    const json_value *format = body_get(text, "format");
    return format ? format_body_read_typed(b, format, "text.format", &out->common.format) : ST_OK;
}

static status read_effort(body *b, response_body *out) {
    static const body_field known[] = {{"effort", NULL, NULL},
                                       {"summary", "*", NULL}, /* the reasoning itself is told */
                                       {"generate_summary", "*", NULL}};
    const json_value *reasoning = body_get(b->root, "reasoning");
    if (!reasoning) return ST_OK;
    if (reasoning->kind != JSON_KIND_OBJECT) return body_invalid(b, "reasoning", "it must be an object");
    TRY(body_check_fields(b, reasoning, "reasoning.", known, COUNT(known)));
    return chat_body_read_effort(b, body_get(reasoning, "effort"), "reasoning.effort", &out->request);
}

static void repeat(const body *b, const char *key, const char *otherwise, strbuf *out) {
    const json_value *v = body_get(b->root, key);
    out_key(out, key);
    if (v) json_value_write(v, out);
    else strbuf_add_string(out, otherwise);
}

static void write_echo(const body *b, strbuf *out) {
    static const char *const keys[][2] = {{"instructions", "null"},
                                          {"max_output_tokens", "null"},
                                          {"metadata", "{}"},
                                          {"parallel_tool_calls", "true"},
                                          {"reasoning", "{\"effort\":null,\"summary\":null}"},
                                          {"temperature", "null"},
                                          {"text", "{\"format\":{\"type\":\"text\"}}"},
                                          {"tool_choice", "\"auto\""},
                                          {"tools", "[]"},
                                          {"top_p", "null"},
                                          {"user", "null"}};
    for (size_t i = 0; i < COUNT(keys); i++) repeat(b, keys[i][0], keys[i][1], out);
}

status response_body_read(body *b, response_body *out) {
    Gemmad__V1__ChatRequest *r = &out->request;
    Gemmad__V1__Sampling *s = &out->common.sampling;
    gemmad__v1__chat_request__init(r);
    TRY(body_check_fields(b, b->root, "", fields, COUNT(fields)));
    TRY(sampling_body_read(b, &out->common));
    TRY(body_read_u32(b, b->root, "max_output_tokens", 1, LIMIT_CONTEXT_TOKENS, &s->max_tokens,
                      &s->has_max_tokens));
    TRY(read_input(b, out));
    TRY(chat_body_read_tools(b, read_tool, r));
    TRY(chat_body_read_choice(b, r));
    TRY(read_text(b, out));
    TRY(read_effort(b, out));
    write_echo(b, &out->echo);
    r->model = (char *)(uintptr_t)out->common.model;
    r->sampling = s;
    r->response_format = out->common.format;
    r->has_priority = 1;
    r->priority = out->common.priority;
    return ST_OK;
}
