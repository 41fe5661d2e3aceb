#include "daemon/http/response_answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/http/fault.h"

static const char *const prefixes[] = {"rs_", "msg_", "fc_"};

void response_answer_close(response_answer *a) {
    for (size_t i = 0; i < a->count; i++) {
        strbuf_close(&a->item[i].call_id);
        strbuf_close(&a->item[i].name);
        strbuf_close(&a->item[i].text);
    }
    free(a->item);
    strbuf_close(&a->malformed);
    strbuf_close(&a->truncated);
    a->item = NULL;
    a->count = 0;
}

/* ---- JSON ---- */

static void write_part(const response_item *i, const char *key, bool whole, strbuf *out) {
    out_object(out, key);
    out_string(out, "type", i->kind == RESPONSE_REASONING ? "reasoning_text" : "output_text");
    out_text(out, "text", strbuf_text(&i->text), whole ? i->text.size : 0);
    if (i->kind == RESPONSE_MESSAGE) {
        out_raw(out, "annotations", "[]", 2);
        out_raw(out, "logprobs", "[]", 2);
    }
    out_end_object(out);
}

static void write_item(const response_item *i, const char *key, bool whole, strbuf *out) {
    static const char *const types[] = {"reasoning", "message", "function_call"};
    out_object(out, key);
    out_string(out, "id", i->id);
    out_string(out, "type", types[i->kind]);
    out_string(out, "status", i->status);
    if (i->kind == RESPONSE_CALL) {
        out_text(out, "call_id", strbuf_text(&i->call_id), i->call_id.size);
        out_text(out, "name", strbuf_text(&i->name), i->name.size);
        out_text(out, "arguments", strbuf_text(&i->text), whole ? i->text.size : 0);
    } else {
        if (i->kind == RESPONSE_MESSAGE) out_string(out, "role", "assistant");
        else out_raw(out, "summary", "[]", 2);
        out_array(out, "content");
        if (whole) write_part(i, NULL, true, out);
        out_end_array(out);
    }
    out_end_object(out);
}

static void write_usage(const answer_usage *u, strbuf *out) {
    out_object(out, "usage");
    out_number(out, "input_tokens", u->prompt);
    out_object(out, "input_tokens_details");
    out_number(out, "cached_tokens", u->cached);
    out_end_object(out);
    out_number(out, "output_tokens", u->completion);
    out_object(out, "output_tokens_details");
    out_number(out, "reasoning_tokens", u->reasoning);
    out_end_object(out);
    out_number(out, "total_tokens", u->prompt + u->completion);
    out_end_object(out);
}

static void write_outcome(const response_answer *a, const char *word, strbuf *out) {
    out_string(out, "status", word);
    out_null(out, "error");
    if (!strcmp(word, "incomplete")) {
        out_object(out, "incomplete_details");
        out_string(out, "reason", "max_output_tokens");
        out_end_object(out);
    } else {
        out_null(out, "incomplete_details");
    }
    out_array(out, "output");
    for (size_t i = 0; i < a->count; i++) write_item(&a->item[i], NULL, true, out);
    out_end_array(out);
    if (a->malformed.size > 0) {
        out_array(out, "malformed_tool_calls");
        strbuf_add(out, a->malformed.data, a->malformed.size);
        out_end_array(out);
    }
    if (a->truncated.size > 0) out_raw(out, "truncated_tool_call", a->truncated.data, a->truncated.size);
    if (!strcmp(word, "in_progress")) out_null(out, "usage");
    else write_usage(&a->usage, out);
}

void response_answer_write(const response_answer *a, const char *key, const char *status_word, strbuf *out) {
    out_object(out, key);
    out_string(out, "id", a->id);
    out_string(out, "object", "response");
    out_number(out, "created_at", a->created);
    out_string(out, "model", a->model);
    out_bool(out, "background", false);
    out_null(out, "previous_response_id");
    out_bool(out, "store", false);
    out_string(out, "truncation", "disabled");
    out_raw(out, NULL, strbuf_text(a->echo), a->echo->size);
    write_outcome(a, status_word, out);
    out_end_object(out);
}

/* ---- events ---- */

static void begin_event(response_answer *a, const char *type, strbuf *out) {
    out_object(out, NULL);
    out_string(out, "type", type);
    out_number(out, "sequence_number", a->sequence++);
}

static void send_event(response_answer *a, const char *type, strbuf *json) {
    strbuf name = {0};
    out_end_object(json);
    strbuf_add_format(&name, "event: %s\n", type);
    http_stream_write(a->stream, name.data, name.size);
    answer_sse(a->stream, json);
    strbuf_close(&name);
    strbuf_close(json);
}

static void send_response(response_answer *a, const char *type, const char *word) {
    strbuf json = {0};
    if (!a->stream) return;
    begin_event(a, type, &json);
    response_answer_write(a, "response", word, &json);
    send_event(a, type, &json);
}

static void send_item(response_answer *a, const char *type, bool whole) {
    strbuf json = {0};
    if (!a->stream) return;
    begin_event(a, type, &json);
    out_number(&json, "output_index", a->count - 1);
    write_item(&a->item[a->count - 1], "item", whole, &json);
    send_event(a, type, &json);
}

static void begin_part_event(response_answer *a, const char *type, strbuf *out) {
    const response_item *i = &a->item[a->count - 1];
    begin_event(a, type, out);
    out_string(out, "item_id", i->id);
    out_number(out, "output_index", a->count - 1);
    if (i->kind != RESPONSE_CALL) out_number(out, "content_index", 0);
}

static void send_part(response_answer *a, const char *type, bool whole) {
    strbuf json = {0};
    if (!a->stream || a->item[a->count - 1].kind == RESPONSE_CALL) return;
    begin_part_event(a, type, &json);
    write_part(&a->item[a->count - 1], "part", whole, &json);
    send_event(a, type, &json);
}

/* delta NULL: the whole text, as "done" events have it. */
static void send_text(response_answer *a, const void *delta, size_t bytes) {
    static const char *const types[][2] = {
        {"response.reasoning_text.delta", "response.reasoning_text.done"},
        {"response.output_text.delta", "response.output_text.done"},
        {"response.function_call_arguments.delta", "response.function_call_arguments.done"}};
    const response_item *i = &a->item[a->count - 1];
    const char *type = types[i->kind][!delta];
    strbuf json = {0};
    if (!a->stream) return;
    begin_part_event(a, type, &json);
    if (delta) out_text(&json, "delta", delta, bytes);
    else
        out_text(&json, i->kind == RESPONSE_CALL ? "arguments" : "text", strbuf_text(&i->text), i->text.size);
    if (!delta && i->kind == RESPONSE_CALL) out_text(&json, "name", strbuf_text(&i->name), i->name.size);
    if (i->kind == RESPONSE_MESSAGE) out_raw(&json, "logprobs", "[]", 2);
    send_event(a, type, &json);
}

/* ---- growing ---- */

static void close_item(response_answer *a, const char *word) {
    if (!a->open) return;
    a->open = false;
    send_text(a, NULL, 0);
    send_part(a, "response.content_part.done", true);
    a->item[a->count - 1].status = word;
    send_item(a, "response.output_item.done", true);
}

static void open_item(response_answer *a, response_kind kind, const Gemmad__V1__ToolCall *made) {
    close_item(a, "completed");
    a->item = memory_grow(a->item, (a->count + 1) * sizeof *a->item);
    response_item *i = &a->item[a->count++];
    *i = (response_item){.kind = kind, .status = "in_progress"};
    openai_make_id(prefixes[kind], i->id);
    if (made) {
        i->call_index = made->index;
        if (made->id) strbuf_add_string(&i->call_id, made->id);
        if (made->name) strbuf_add_string(&i->name, made->name);
    }
    a->open = true;
    send_item(a, "response.output_item.added", false);
    send_part(a, "response.content_part.added", false);
}

static void add_text(response_answer *a, const void *text, size_t bytes) {
    strbuf_add(&a->item[a->count - 1].text, text, bytes);
    a->collected += bytes;
    send_text(a, text, bytes);
}

static void add_to(response_answer *a, response_kind kind, const ProtobufCBinaryData *text) {
    if (text->len == 0) return;
    if (!a->open || a->item[a->count - 1].kind != kind) open_item(a, kind, NULL);
    add_text(a, text->data, text->len);
}

static void add_call(response_answer *a, const Gemmad__V1__ToolCall *made) {
    const response_item *last = a->open ? &a->item[a->count - 1] : NULL;
    if (!last || last->kind != RESPONSE_CALL || last->call_index != made->index)
        open_item(a, RESPONSE_CALL, made);
    if (made->arguments_json && *made->arguments_json)
        add_text(a, made->arguments_json, strlen(made->arguments_json));
}

void response_answer_begin(response_answer *a) {
    send_response(a, "response.created", "in_progress");
    send_response(a, "response.in_progress", "in_progress");
}

void response_answer_delta(response_answer *a, const Gemmad__V1__ChatDelta *d) {
    if (d->has_reasoning) add_to(a, RESPONSE_REASONING, &d->reasoning);
    if (d->has_content) add_to(a, RESPONSE_MESSAGE, &d->content);
    for (size_t i = 0; i < d->n_tool_calls; i++) add_call(a, d->tool_calls[i]);
}

void response_answer_finished(response_answer *a, const Gemmad__V1__Finished *f) {
    answer_usage_add(&a->usage, f->usage);
    a->incomplete = f->finish_reason && !strcmp(f->finish_reason, "length");
    for (size_t i = 0; i < f->n_malformed; i++)
        out_text(&a->malformed, NULL, f->malformed[i].data, f->malformed[i].len);
    if (f->has_truncated_call) out_text(&a->truncated, NULL, f->truncated_call.data, f->truncated_call.len);
}

void response_answer_end(response_answer *a) {
    close_item(a, a->incomplete ? "incomplete" : "completed");
    send_response(a, a->incomplete ? "response.incomplete" : "response.completed",
                  a->incomplete ? "incomplete" : "completed");
}

void response_answer_fail(response_answer *a, status st, const char *text) {
    strbuf json = {0};
    begin_event(a, "error", &json);
    out_string(&json, "code", fault_word(st) ? fault_word(st) : "server_error");
    out_string(&json, "message", text);
    out_null(&json, "param");
    send_event(a, "error", &json);
}
