#include "daemon/http/chat_body.h"

#include <stdio.h>
#include <string.h>

#include "proto/limits.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const body_field fields[] = {
    SAMPLING_BODY_FIELDS,
    {"messages", NULL, NULL},
    {"tools", NULL, NULL},
    {"tool_choice", NULL, NULL},
    {"parallel_tool_calls", NULL, NULL},
    {"max_completion_tokens", NULL, NULL},
    {"top_logprobs", NULL, NULL},
    {"reasoning_effort", NULL, NULL},
    {"enable_thinking", NULL, NULL},
    {"chat_template_kwargs", NULL, NULL},
    {"store", "*", NULL},
    {"service_tier", "*", NULL},
    {"safety_identifier", "*", NULL},
    {"prompt_cache_key", "*", NULL},
    {"prompt_cache_retention", "*", NULL},
    {"prediction", "*", NULL},
    {"verbosity", "\"medium\"", NULL},
    {"modalities", "[\"text\"]", "only text is generated"},
    {"audio", "", "only text is generated"},
    {"functions", "[]", "it is OpenAI's older form of tools; use tools"},
    {"function_call", "", "it is OpenAI's older form of tool_choice; use tool_choice"},
    {"web_search_options", "", "nothing is fetched from the web here"},
    {"add_generation_prompt", "true", NULL},
    {"continue_final_message", "false", NULL},
    {"add_special_tokens", "false", NULL},
    {"echo", "false", NULL},
    {"documents", "[]", NULL},
    {"chat_template", "", "the checkpoint's own template is used"},
    {"include_reasoning", "true", NULL},
    {"return_tokens_as_token_ids", "false", NULL},
    {"thinking", "", "use reasoning_effort"},
};

/* ---- content ---- */

static Gemmad__V1__Part *new_part(body *b, const json_value *text) {
    Gemmad__V1__Part *p = arena_alloc(&b->memory, 1, sizeof *p);
    gemmad__v1__part__init(p);
    p->part_case = GEMMAD__V1__PART__PART_TEXT;
    p->text = (ProtobufCBinaryData){text->bytes, (uint8_t *)(uintptr_t)text->text};
    return p;
}

status chat_body_add_text(body *b, Gemmad__V1__Message *m, const json_value *text) {
    m->content = arena_alloc(&b->memory, 1, sizeof *m->content);
    m->content[m->n_content++] = new_part(b, text);
    return ST_OK;
}

static status read_part(body *b, const json_value *v, const char *param, Gemmad__V1__Part **out) {
    const json_value *type = body_get(v, "type");
    if (v->kind != JSON_KIND_OBJECT || !type || type->kind != JSON_KIND_STRING)
        return body_invalid(b, param, "a part must be an object with a type");
    bool refusal = json_value_is_string(type, "refusal");
    if (!refusal && !json_value_is_string(type, "text") && !json_value_is_string(type, "input_text") &&
        !json_value_is_string(type, "output_text"))
        return body_unsupported(
            b, param, "parts of type \"%.40s\" are not available in this version; \"text\" is", type->text);
    const json_value *text = body_get(v, refusal ? "refusal" : "text");
    if (!text || text->kind != JSON_KIND_STRING) return body_invalid(b, param, "a part of text has no text");
    *out = new_part(b, text);
    return ST_OK;
}

status chat_body_read_parts(body *b, const json_value *list, const char *param, Gemmad__V1__Message *m) {
    char where[112];
    m->content = arena_alloc(&b->memory, list->count, sizeof *m->content);
    for (const json_value *p = list->first; p; p = p->next) {
        snprintf(where, sizeof where, "%.90s[%zu]", param, m->n_content);
        TRY(read_part(b, p, where, &m->content[m->n_content]));
        m->n_content++;
    }
    return ST_OK;
}

/* ---- messages ---- */

static status read_call(body *b, const json_value *v, const char *param, Gemmad__V1__ToolCall *c) {
    const json_value *function = body_get(v, "function"), *arguments = body_get(function, "arguments");
    const char *type = "function", *id = NULL, *name = NULL;
    size_t n;
    TRY(body_read_string(b, v, "type", &type));
    if (strcmp(type, "function") != 0)
        return body_unsupported(b, param, "calls of type \"%.40s\"; \"function\" is known", type);
    TRY(body_read_string(b, v, "id", &id));
    TRY(body_read_string(b, function, "name", &name));
    if (!name || !*name) return body_invalid(b, param, "the call has no function.name");
    if (arguments && arguments->kind != JSON_KIND_STRING && arguments->kind != JSON_KIND_OBJECT)
        return body_invalid(b, param, "function.arguments must be a string of JSON");
    if (arguments && strlen(arguments->kind == JSON_KIND_STRING ? arguments->text : "") !=
                         (arguments->kind == JSON_KIND_STRING ? arguments->bytes : 0))
        return body_invalid(b, param, "function.arguments has U+0000 in it");
    c->id = (char *)(uintptr_t)id;
    c->name = (char *)(uintptr_t)name;
    c->arguments_json = "{}";
    if (arguments && arguments->kind == JSON_KIND_OBJECT) c->arguments_json = body_write(b, arguments, &n);
    else if (arguments && arguments->bytes > 0) c->arguments_json = (char *)(uintptr_t)arguments->text;
    return ST_OK;
}

static status read_calls(body *b, const json_value *list, const char *within, Gemmad__V1__Message *m) {
    char where[112];
    if (!list) return ST_OK;
    snprintf(where, sizeof where, "%.60s.tool_calls", within);
    if (list->kind != JSON_KIND_ARRAY) return body_invalid(b, where, "it must be an array");
    m->tool_calls = arena_alloc(&b->memory, list->count, sizeof *m->tool_calls);
    for (const json_value *v = list->first; v; v = v->next) {
        Gemmad__V1__ToolCall *c = arena_alloc(&b->memory, 1, sizeof *c);
        gemmad__v1__tool_call__init(c);
        snprintf(where, sizeof where, "%.60s.tool_calls[%zu]", within, m->n_tool_calls);
        TRY(read_call(b, v, where, c));
        m->tool_calls[m->n_tool_calls++] = c;
    }
    return ST_OK;
}

static status read_content(body *b, const json_value *v, const char *within, Gemmad__V1__Message *m) {
    const json_value *content = body_get(v, "content");
    char where[112];
    snprintf(where, sizeof where, "%.60s.content", within);
    if (!content) return ST_OK;
    if (content->kind == JSON_KIND_STRING) return chat_body_add_text(b, m, content);
    if (content->kind == JSON_KIND_ARRAY) return chat_body_read_parts(b, content, where, m);
    return body_invalid(b, where, "it must be a string or an array of parts");
}

static status read_reasoning(body *b, const json_value *v, Gemmad__V1__Message *m) {
    const json_value *text = NULL;
    TRY(body_read_text(b, v, "reasoning", &text));
    TRY(body_read_text(b, v, "reasoning_content", &text));
    if (!text) return ST_OK;
    m->has_reasoning = 1;
    m->reasoning = (ProtobufCBinaryData){text->bytes, (uint8_t *)(uintptr_t)text->text};
    return ST_OK;
}

static status read_message(body *b, const json_value *v, const char *where, Gemmad__V1__Message *m) {
    static const body_field known[] = {{"role", NULL, NULL},
                                       {"content", NULL, NULL},
                                       {"name", NULL, NULL},
                                       {"tool_calls", NULL, NULL},
                                       {"tool_call_id", NULL, NULL},
                                       {"reasoning", NULL, NULL},
                                       {"reasoning_content", NULL, NULL},
                                       {"refusal", "", NULL},
                                       {"annotations", "*", NULL},
                                       {"audio", "", NULL},
                                       {"function_call", "", "use tool_calls"},
                                       {"id", "*", NULL},
                                       {"type", "*", NULL},
                                       {"status", "*", NULL}};
    char within[72];
    const char *role = NULL, *call_id = NULL, *name = NULL;
    if (v->kind != JSON_KIND_OBJECT) return body_invalid(b, where, "a message must be an object");
    snprintf(within, sizeof within, "%.60s.", where);
    TRY(body_check_fields(b, v, within, known, COUNT(known)));
    TRY(body_read_string(b, v, "role", &role));
    if (!role || !*role) return body_invalid(b, where, "the message has no role");
    TRY(body_read_string(b, v, "tool_call_id", &call_id));
    TRY(body_read_string(b, v, "name", &name));
    m->role = (char *)(uintptr_t)role;
    m->tool_call_id = (char *)(uintptr_t)call_id;
    m->name = (char *)(uintptr_t)name;
    TRY(read_content(b, v, where, m));
    TRY(read_reasoning(b, v, m));
    TRY(read_calls(b, body_get(v, "tool_calls"), where, m));
    if (m->n_content == 0 && m->n_tool_calls == 0 && !m->has_reasoning && strcmp(role, "tool") != 0 &&
        !body_get(v, "content"))
        return body_invalid(b, where, "the message has no content");
    return ST_OK;
}

static status read_messages(body *b, Gemmad__V1__ChatRequest *r) {
    const json_value *list = body_get(b->root, "messages");
    char where[48];
    if (!list || list->kind != JSON_KIND_ARRAY || list->count == 0)
        return body_invalid(b, "messages", "it must be an array of one message or more");
    r->messages = arena_alloc(&b->memory, list->count, sizeof *r->messages);
    for (const json_value *v = list->first; v; v = v->next) {
        Gemmad__V1__Message *m = arena_alloc(&b->memory, 1, sizeof *m);
        gemmad__v1__message__init(m);
        snprintf(where, sizeof where, "messages[%zu]", r->n_messages);
        TRY(read_message(b, v, where, m));
        r->messages[r->n_messages++] = m;
    }
    return ST_OK;
}

/* ---- tools ---- */

status chat_body_read_function(body *b, const json_value *f, const char *param, Gemmad__V1__Tool *t) {
    const json_value *parameters = body_get(f, "parameters");
    const char *name = NULL, *description = NULL;
    bool strict = false;
    size_t n;
    TRY(body_read_string(b, f, "name", &name));
    if (!name || !*name) return body_invalid(b, param, "the function has no name");
    TRY(body_read_string(b, f, "description", &description));
    TRY(body_read_bool(b, f, "strict", &strict));
    if (parameters && parameters->kind != JSON_KIND_OBJECT)
        return body_invalid(b, param, "parameters must be a JSON schema, an object");
    t->name = (char *)(uintptr_t)name;
    t->description = (char *)(uintptr_t)description;
    t->has_strict = 1;
    t->strict = strict;
    if (parameters) t->parameters_json = body_write(b, parameters, &n);
    return ST_OK;
}

static status read_tool(body *b, const json_value *v, const char *param, Gemmad__V1__Tool *t) {
    const json_value *type = body_get(v, "type"), *function = body_get(v, "function");
    if (type && !json_value_is_string(type, "function"))
        return body_unsupported(b, param, "tools of type \"%.40s\"; \"function\" is known",
                                type->kind == JSON_KIND_STRING ? type->text : "?");
    if (!function || function->kind != JSON_KIND_OBJECT)
        return body_invalid(b, param, "the tool has no function");
    return chat_body_read_function(b, function, param, t);
}

status chat_body_read_tools(body *b, chat_body_tool *read, Gemmad__V1__ChatRequest *r) {
    const json_value *list = body_get(b->root, "tools");
    bool parallel = true;
    char where[48];
    TRY(body_read_bool(b, b->root, "parallel_tool_calls", &parallel));
    r->has_parallel_tool_calls = 1;
    r->parallel_tool_calls = parallel;
    if (!list) return ST_OK;
    if (list->kind != JSON_KIND_ARRAY) return body_invalid(b, "tools", "it must be an array");
    r->tools = arena_alloc(&b->memory, list->count, sizeof *r->tools);
    for (const json_value *v = list->first; v; v = v->next) {
        Gemmad__V1__Tool *t = arena_alloc(&b->memory, 1, sizeof *t);
        gemmad__v1__tool__init(t);
        snprintf(where, sizeof where, "tools[%zu]", r->n_tools);
        TRY(read(b, v, where, t));
        r->tools[r->n_tools++] = t;
    }
    return ST_OK;
}

status chat_body_read_choice(body *b, Gemmad__V1__ChatRequest *r) {
    const json_value *v = body_get(b->root, "tool_choice");
    if (!v) return ST_OK;
    Gemmad__V1__ToolChoice *c = arena_alloc(&b->memory, 1, sizeof *c);
    gemmad__v1__tool_choice__init(c);
    r->tool_choice = c;
    if (json_value_is_string(v, "none") || json_value_is_string(v, "auto") ||
        json_value_is_string(v, "required")) {
        c->mode = (char *)(uintptr_t)v->text;
        return ST_OK;
    }
    const json_value *function = body_get(v, "function");
    const char *name = NULL;
    if (v->kind != JSON_KIND_OBJECT || !json_value_is_string(body_get(v, "type"), "function"))
        return body_invalid(b, "tool_choice",
                            "it must be none, auto, required or an object of type \"function\"");
    TRY(body_read_string(b, function ? function : v, "name", &name));
    if (!name || !*name) return body_invalid(b, "tool_choice", "the function has no name");
    c->mode = "named";
    c->name = (char *)(uintptr_t)name;
    return ST_OK;
}

/* ---- thinking ---- */

status chat_body_read_effort(body *b, const json_value *v, const char *param, Gemmad__V1__ChatRequest *r) {
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    if (!v) return ST_OK;
    for (size_t i = 0; i < COUNT(efforts); i++)
        if (json_value_is_string(v, efforts[i])) {
            r->has_enable_thinking = 1;
            r->enable_thinking = i > 1; /* as little as there is: none */
            return ST_OK;
        }
    return body_invalid(b, param, "it must be none, minimal, low, medium, high, xhigh or max");
}

static status read_thinking(body *b, Gemmad__V1__ChatRequest *r) {
    static const body_field known[] = {{"enable_thinking", NULL, NULL}};
    const json_value *more = body_get(b->root, "chat_template_kwargs");
    TRY(chat_body_read_effort(b, body_get(b->root, "reasoning_effort"), "reasoning_effort", r));
    if (more && more->kind != JSON_KIND_OBJECT)
        return body_invalid(b, "chat_template_kwargs", "it must be an object");
    if (more) TRY(body_check_fields(b, more, "chat_template_kwargs.", known, COUNT(known)));
    const json_value *holders[] = {b->root, more};
    for (size_t i = 0; i < COUNT(holders); i++) {
        bool thinks = false;
        if (!holders[i] || !body_get(holders[i], "enable_thinking")) continue;
        TRY(body_read_bool(b, holders[i], "enable_thinking", &thinks));
        r->has_enable_thinking = 1;
        r->enable_thinking = thinks;
    }
    return ST_OK;
}

/* ---- all of it ---- */

static status read_limits(body *b, Gemmad__V1__Sampling *s) {
    uint32_t newer = 0;
    int has_newer;
    TRY(body_read_u32(b, b->root, "max_tokens", 1, LIMIT_CONTEXT_TOKENS, &s->max_tokens, &s->has_max_tokens));
    TRY(body_read_u32(b, b->root, "max_completion_tokens", 1, LIMIT_CONTEXT_TOKENS, &newer, &has_newer));
    if (has_newer && s->has_max_tokens && newer != s->max_tokens)
        return body_invalid(b, "max_completion_tokens", "it is %u, and max_tokens %u; one of them", newer,
                            s->max_tokens);
    if (has_newer) s->max_tokens = newer;
    s->has_max_tokens = s->has_max_tokens || has_newer;
    return ST_OK;
}

static status read_logprobs(body *b, chat_body *out) {
    Gemmad__V1__Sampling *s = &out->common.sampling;
    uint32_t top = 0;
    int has_top;
    if (body_get(b->root, "prompt_logprobs"))
        return body_unsupported(b, "prompt_logprobs",
                                "of chats; /v1/completions has them with echo and logprobs");
    TRY(body_read_bool(b, b->root, "logprobs", &out->logprobs));
    TRY(body_read_u32(b, b->root, "top_logprobs", 0, HTTP_LOGPROBS_MAX, &top, &has_top));
    if (has_top && top > 0 && !out->logprobs)
        return body_invalid(b, "top_logprobs", "it goes with \"logprobs\": true only");
    s->has_logprobs = out->logprobs;
    s->logprobs = top;
    return ST_OK;
}

status chat_body_read(body *b, chat_body *out) {
    Gemmad__V1__ChatRequest *r = &out->request;
    gemmad__v1__chat_request__init(r);
    TRY(body_check_fields(b, b->root, "", fields, COUNT(fields)));
    TRY(sampling_body_read(b, &out->common));
    TRY(read_limits(b, &out->common.sampling));
    TRY(read_logprobs(b, out));
    TRY(read_messages(b, r));
    TRY(chat_body_read_tools(b, read_tool, r));
    TRY(chat_body_read_choice(b, r));
    TRY(read_thinking(b, r));
    r->model = (char *)(uintptr_t)out->common.model;
    r->sampling = &out->common.sampling;
    r->response_format = out->common.format;
    r->has_priority = 1;
    r->priority = out->common.priority;
    return ST_OK;
}
