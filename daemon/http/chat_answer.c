#include "daemon/http/chat_answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "build_id.h"
#include "daemon/http/token_text.h"
#include "proto/limits.h"

static void close_choice(chat_choice *c) {
    strbuf_close(&c->content);
    strbuf_close(&c->reasoning);
    strbuf_close(&c->logprobs);
    strbuf_close(&c->malformed);
    strbuf_close(&c->truncated);
    for (size_t i = 0; i < c->calls; i++) {
        strbuf_close(&c->call[i].id);
        strbuf_close(&c->call[i].name);
        strbuf_close(&c->call[i].arguments);
    }
    free(c->call);
}

void chat_answer_close(chat_answer *a) {
    for (uint32_t i = 0; i < a->count; i++) close_choice(&a->choice[i]);
    free(a->choice);
    a->choice = NULL;
    a->count = 0;
}

/* ---- collecting ---- */

static void add_logprobs(const chat_answer *a, const Gemmad__V1__ChatDelta *d, strbuf *out) {
    for (size_t i = 0; i < d->n_logprobs; i++) token_write_chat(a->tokenizer, d->logprobs[i], a->top, out);
}

static void add_call(chat_answer *a, chat_choice *c, const Gemmad__V1__ToolCall *d) {
    if (d->index >= LIMIT_CONTEXT_TOKENS) return; /* none is lost: each takes a token at least */
    while (c->calls <= d->index) {
        c->call = memory_grow(c->call, (c->calls + 1) * sizeof *c->call);
        c->call[c->calls++] = (chat_call){0};
    }
    chat_call *to = &c->call[d->index];
    if (d->id) strbuf_add_string(&to->id, d->id);
    if (d->name) strbuf_add_string(&to->name, d->name);
    if (d->arguments_json) strbuf_add_string(&to->arguments, d->arguments_json);
    if (d->arguments_json) a->collected += strlen(d->arguments_json);
}

/* An absent field's bytes are anything. */
static ProtobufCBinaryData content_of(const Gemmad__V1__ChatDelta *d) {
    return d->has_content ? d->content : (ProtobufCBinaryData){0};
}

static ProtobufCBinaryData reasoning_of(const Gemmad__V1__ChatDelta *d) {
    return d->has_reasoning ? d->reasoning : (ProtobufCBinaryData){0};
}

void chat_answer_delta(chat_answer *a, const Gemmad__V1__ChatDelta *d) {
    if (d->index >= a->count) return;
    chat_choice *c = &a->choice[d->index];
    size_t before = c->logprobs.size;
    const ProtobufCBinaryData content = content_of(d), reasoning = reasoning_of(d);
    strbuf_add(&c->content, content.data, content.len);
    strbuf_add(&c->reasoning, reasoning.data, reasoning.len);
    for (size_t i = 0; i < d->n_tool_calls; i++) add_call(a, c, d->tool_calls[i]);
    if (a->logprobs) add_logprobs(a, d, &c->logprobs);
    a->collected += content.len + reasoning.len + (c->logprobs.size - before);
}

void chat_answer_finished(chat_answer *a, const Gemmad__V1__Finished *f) {
    answer_usage_add(&a->usage, f->usage);
    if (f->index >= a->count) return;
    chat_choice *c = &a->choice[f->index];
    snprintf(c->finish_reason, sizeof c->finish_reason, "%s", f->finish_reason ? f->finish_reason : "");
    for (size_t i = 0; i < f->n_malformed; i++)
        out_text(&c->malformed, NULL, f->malformed[i].data, f->malformed[i].len);
    if (f->has_truncated_call) out_text(&c->truncated, NULL, f->truncated_call.data, f->truncated_call.len);
}

/* ---- writing ---- */

static void begin_object(const chat_answer *a, const char *object, strbuf *out) {
    out_object(out, NULL);
    out_string(out, "id", a->id);
    out_string(out, "object", object);
    out_number(out, "created", a->created);
    out_string(out, "model", a->model);
    out_string(out, "system_fingerprint", "gemmad-" GEMMAD_BUILD_ID);
}

/* What OpenAI's API has no name for and nobody may lose. */
static void write_bad_calls(const strbuf *malformed, const strbuf *truncated, strbuf *out) {
    if (malformed->size > 0) {
        out_array(out, "malformed_tool_calls");
        strbuf_add(out, malformed->data, malformed->size);
        out_end_array(out);
    }
    if (truncated->size > 0) out_raw(out, "truncated_tool_call", truncated->data, truncated->size);
}

static void write_calls(const chat_choice *c, strbuf *out) {
    out_array(out, "tool_calls");
    for (size_t i = 0; i < c->calls; i++) {
        out_object(out, NULL);
        out_string(out, "id", strbuf_text(&c->call[i].id));
        out_string(out, "type", "function");
        out_object(out, "function");
        out_text(out, "name", strbuf_text(&c->call[i].name), c->call[i].name.size);
        out_text(out, "arguments", strbuf_text(&c->call[i].arguments), c->call[i].arguments.size);
        out_end_object(out);
        out_end_object(out);
    }
    out_end_array(out);
}

static void write_message(const chat_choice *c, strbuf *out) {
    out_object(out, "message");
    out_string(out, "role", "assistant");
    if (c->content.size == 0 && c->calls > 0) out_null(out, "content");
    else out_text(out, "content", strbuf_text(&c->content), c->content.size);
    out_null(out, "refusal");
    if (c->reasoning.size > 0) out_text(out, "reasoning_content", c->reasoning.data, c->reasoning.size);
    if (c->calls > 0) write_calls(c, out);
    out_end_object(out);
}

static void write_logprobs(bool wanted, const strbuf *list, strbuf *out) {
    if (!wanted) {
        out_null(out, "logprobs");
        return;
    }
    out_object(out, "logprobs");
    out_array(out, "content");
    strbuf_add(out, strbuf_text(list), list->size);
    out_end_array(out);
    out_null(out, "refusal");
    out_end_object(out);
}

void chat_answer_write(const chat_answer *a, strbuf *out) {
    begin_object(a, "chat.completion", out);
    out_array(out, "choices");
    for (uint32_t i = 0; i < a->count; i++) {
        const chat_choice *c = &a->choice[i];
        out_object(out, NULL);
        out_number(out, "index", i);
        write_message(c, out);
        write_logprobs(a->logprobs, &c->logprobs, out);
        out_string(out, "finish_reason", c->finish_reason);
        write_bad_calls(&c->malformed, &c->truncated, out);
        out_end_object(out);
    }
    out_end_array(out);
    answer_usage_write(&a->usage, "usage", out);
    out_end_object(out);
}

/* ---- chunks ---- */

static void begin_chunk(const chat_answer *a, uint32_t index, strbuf *out) {
    begin_object(a, "chat.completion.chunk", out);
    out_array(out, "choices");
    out_object(out, NULL);
    out_number(out, "index", index);
    out_object(out, "delta");
}

/* finish_reason NULL: it goes on. */
static void end_chunk(const char *finish_reason, bool want_usage, strbuf *out) {
    out_string(out, "finish_reason", finish_reason);
    out_end_object(out);
    out_end_array(out);
    if (want_usage) out_null(out, "usage");
    out_end_object(out);
}

void chat_chunk_role(const chat_answer *a, uint32_t index, bool want_usage, strbuf *out) {
    begin_chunk(a, index, out);
    out_string(out, "role", "assistant");
    out_string(out, "content", "");
    out_end_object(out);
    out_null(out, "logprobs");
    end_chunk(NULL, want_usage, out);
}

static void write_call_delta(const Gemmad__V1__ToolCall *d, strbuf *out) {
    out_object(out, NULL);
    out_number(out, "index", d->index);
    if (d->id) {
        out_string(out, "id", d->id);
        out_string(out, "type", "function");
    }
    out_object(out, "function");
    if (d->name) out_string(out, "name", d->name);
    out_string(out, "arguments", d->arguments_json ? d->arguments_json : "");
    out_end_object(out);
    out_end_object(out);
}

bool chat_chunk_delta(const chat_answer *a, const Gemmad__V1__ChatDelta *d, bool want_usage, strbuf *out) {
    const ProtobufCBinaryData content = content_of(d), reasoning = reasoning_of(d);
    bool has_logprobs = a->logprobs && d->n_logprobs > 0;
    if (content.len == 0 && reasoning.len == 0 && d->n_tool_calls == 0 && !has_logprobs) return false;
    begin_chunk(a, d->index, out);
    if (content.len > 0) out_text(out, "content", content.data, content.len);
    if (reasoning.len > 0) out_text(out, "reasoning_content", reasoning.data, reasoning.len);
    if (d->n_tool_calls > 0) {
        out_array(out, "tool_calls");
        for (size_t i = 0; i < d->n_tool_calls; i++) write_call_delta(d->tool_calls[i], out);
        out_end_array(out);
    }
    out_end_object(out);
    strbuf list = {0};
    if (has_logprobs) add_logprobs(a, d, &list);
    write_logprobs(has_logprobs, &list, out);
    strbuf_close(&list);
    end_chunk(NULL, want_usage, out);
    return true;
}

void chat_chunk_finished(const chat_answer *a, const Gemmad__V1__Finished *f, bool want_usage, strbuf *out) {
    strbuf malformed = {0}, truncated = {0};
    begin_chunk(a, f->index, out);
    out_end_object(out);
    out_null(out, "logprobs");
    for (size_t i = 0; i < f->n_malformed; i++)
        out_text(&malformed, NULL, f->malformed[i].data, f->malformed[i].len);
    if (f->has_truncated_call) out_text(&truncated, NULL, f->truncated_call.data, f->truncated_call.len);
    write_bad_calls(&malformed, &truncated, out);
    strbuf_close(&malformed);
    strbuf_close(&truncated);
    end_chunk(f->finish_reason, want_usage, out);
}

void chat_chunk_usage(const chat_answer *a, strbuf *out) {
    begin_object(a, "chat.completion.chunk", out);
    out_array(out, "choices");
    out_end_array(out);
    answer_usage_write(&a->usage, "usage", out);
    out_end_object(out);
}
