#include "ctl/reply.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void reply_open(reply *r, uint32_t count) {
    *r = (reply){.count = count, .sample = memory_alloc_array(count, sizeof *r->sample)};
}

void reply_close(reply *r) {
    for (uint32_t i = 0; i < r->count; i++) {
        reply_sample *s = &r->sample[i];
        for (uint32_t k = 0; k < s->call_count; k++) {
            free(s->call[k].id);
            free(s->call[k].name);
            strbuf_close(&s->call[k].arguments);
        }
        free(s->call);
        if (s->event) protobuf_c_message_free_unpacked(s->event, NULL);
        free(s->ids.at);
        strbuf_close(&s->content);
        strbuf_close(&s->reasoning);
        strbuf_close(&s->logprobs.out);
    }
    free(r->sample);
    if (r->started_event) protobuf_c_message_free_unpacked(r->started_event, NULL);
    strbuf_close(&r->prompt_logprobs.out);
    *r = (reply){0};
}

const char *reply_ended_by(const reply_sample *s) {
    return s->finished && s->finished->finish_reason ? s->finished->finish_reason : "";
}

/* ---- taking events ---- */

static void add_ids(arg_ids *ids, const uint32_t *more, size_t n) {
    if (n == 0) return;
    ids->at = memory_grow(ids->at, (ids->count + n) * sizeof *ids->at);
    memcpy(ids->at + ids->count, more, n * sizeof *ids->at);
    ids->count += n;
}

static status take_text(const reply_listener *l, uint32_t index, reply_part part, strbuf *all,
                        const ProtobufCBinaryData *text) {
    if (text->len == 0) return ST_OK;
    strbuf_add(all, text->data, text->len);
    return l->text ? l->text(l->context, index, part, text->data, text->len) : ST_OK;
}

static status check_index(const reply *r, uint32_t index, const char *did) {
    if (index < r->count) return ST_OK;
    return fail(ST_INTERNAL, "sample %u %s, %u were asked for", index, did, r->count);
}

/* A call's first fragment has its id and name, later ones arguments to append. */
static status take_call(reply_sample *s, const Gemmad__V1__ToolCall *c) {
    uint32_t index = c->has_index ? c->index : s->call_count;
    if (index > s->call_count || index >= REPLY_CALLS_MAX)
        return fail(ST_INTERNAL, "the daemon sent tool call %u after %u, at most %d", index, s->call_count,
                    REPLY_CALLS_MAX);
    if (index == s->call_count) {
        s->call = memory_grow(s->call, (index + 1u) * sizeof *s->call);
        s->call[s->call_count++] = (reply_tool_call){0};
    }
    reply_tool_call *call = &s->call[index];
    if (c->id && !call->id) call->id = memory_copy_string(c->id);
    if (c->name && !call->name) call->name = memory_copy_string(c->name);
    if (c->arguments_json) strbuf_add_string(&call->arguments, c->arguments_json);
    return ST_OK;
}

static status take_delta(reply *r, const reply_listener *l, const Gemmad__V1__GenerateDelta *d) {
    TRY(check_index(r, d->index, "answered"));
    reply_sample *s = &r->sample[d->index];
    add_ids(&s->ids, d->token_ids, d->n_token_ids);
    for (size_t i = 0; i < d->n_logprobs; i++) json_message(&s->logprobs, &d->logprobs[i]->base);
    return take_text(l, d->index, REPLY_CONTENT, &s->content, &d->text);
}

static status take_chat_delta(reply *r, const reply_listener *l, const Gemmad__V1__ChatDelta *d) {
    TRY(check_index(r, d->index, "answered"));
    reply_sample *s = &r->sample[d->index];
    add_ids(&s->ids, d->token_ids, d->n_token_ids);
    for (size_t i = 0; i < d->n_logprobs; i++) json_message(&s->logprobs, &d->logprobs[i]->base);
    TRY(take_text(l, d->index, REPLY_REASONING, &s->reasoning, &d->reasoning));
    TRY(take_text(l, d->index, REPLY_CONTENT, &s->content, &d->content));
    for (size_t i = 0; i < d->n_tool_calls; i++) TRY(take_call(s, d->tool_calls[i]));
    return ST_OK;
}

static status take_finished(reply *r, const reply_listener *l, const Gemmad__V1__Finished *f,
                            ProtobufCMessage **message) {
    TRY(check_index(r, f->index, "ended"));
    reply_sample *s = &r->sample[f->index];
    if (s->finished) return fail(ST_INTERNAL, "the daemon sent `finished` twice");
    s->finished = f;
    if (f->usage) r->usage = f->usage;
    s->event = *message;
    *message = NULL;
    return l->finished ? l->finished(l->context, f->index) : ST_OK;
}

static status take_started(reply *r, const Gemmad__V1__Started *started, ProtobufCMessage **message) {
    if (r->started) return fail(ST_INTERNAL, "the daemon sent `started` twice");
    r->started = started;
    r->started_event = *message;
    *message = NULL;
    return ST_OK;
}

static void take_progress(const reply_listener *l, const Gemmad__V1__Progress *p) {
    if (l->progress) l->progress(l->context, p->prefilled_tokens, p->prompt_tokens);
}

static void take_prompt_logprobs(reply *r, const Gemmad__V1__PromptLogprobs *p) {
    for (size_t i = 0; i < p->n_logprobs; i++) json_message(&r->prompt_logprobs, &p->logprobs[i]->base);
}

/* Events that are kept own their message; *message is NULL then. One that a newer daemon has is passed over. */
static status take_event(reply *r, const reply_listener *l, ProtobufCMessage **message) {
    const Gemmad__V1__GenerateEvent *e = (void *)*message;
    switch (e->event_case) {
    case GEMMAD__V1__GENERATE_EVENT__EVENT_STARTED: return take_started(r, e->started, message);
    case GEMMAD__V1__GENERATE_EVENT__EVENT_PROGRESS: take_progress(l, e->progress); return ST_OK;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA: return take_delta(r, l, e->delta);
    case GEMMAD__V1__GENERATE_EVENT__EVENT_PROMPT_LOGPROBS:
        take_prompt_logprobs(r, e->prompt_logprobs);
        return ST_OK;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_FINISHED: return take_finished(r, l, e->finished, message);
    default: return ST_OK;
    }
}

static status take_chat_event(reply *r, const reply_listener *l, ProtobufCMessage **message) {
    const Gemmad__V1__ChatEvent *e = (void *)*message;
    switch (e->event_case) {
    case GEMMAD__V1__CHAT_EVENT__EVENT_STARTED: return take_started(r, e->started, message);
    case GEMMAD__V1__CHAT_EVENT__EVENT_PROGRESS: take_progress(l, e->progress); return ST_OK;
    case GEMMAD__V1__CHAT_EVENT__EVENT_DELTA: return take_chat_delta(r, l, e->delta);
    case GEMMAD__V1__CHAT_EVENT__EVENT_PROMPT_LOGPROBS:
        take_prompt_logprobs(r, e->prompt_logprobs);
        return ST_OK;
    case GEMMAD__V1__CHAT_EVENT__EVENT_FINISHED: return take_finished(r, l, e->finished, message);
    default: return ST_OK;
    }
}

static status receive_all(reply *r, client_stream *stream, const reply_listener *l) {
    for (;;) {
        ProtobufCMessage *message;
        TRY(client_stream_next(stream, &message));
        if (!message) break;
        status st = r->chat ? take_chat_event(r, l, &message) : take_event(r, l, &message);
        if (message) protobuf_c_message_free_unpacked(message, NULL);
        TRY(st);
    }
    for (uint32_t i = 0; i < r->count; i++)
        if (!r->sample[i].finished)
            return fail(ST_INTERNAL, "the daemon ended the stream without `finished`");
    return ST_OK;
}

status reply_receive(reply *r, client *server, const ProtobufCMessage *request, uint32_t timeout_ms,
                     const reply_listener *listener) {
    client_stream *stream = NULL;
    r->chat = request->descriptor == &gemmad__v1__chat_request__descriptor;
    status st = client_stream_open(
        &stream, server, r->chat ? "/gemmad.v1.Inference/Chat" : "/gemmad.v1.Inference/Generate", request,
        r->chat ? &gemmad__v1__chat_event__descriptor : &gemmad__v1__generate_event__descriptor, timeout_ms);
    if (st == ST_OK) st = receive_all(r, stream, listener);
    client_stream_close(stream);
    return st;
}

/* ---- saying what came ---- */

static void write_data(json_writer *w, const ProtobufCBinaryData *data) {
    json_text(w, data->data, data->len);
}

void reply_write_chat_json(json_writer *w, const reply_sample *s) {
    json_key(w, "reasoning");
    json_text(w, strbuf_text(&s->reasoning), s->reasoning.size);
    json_key(w, "tool_calls");
    json_begin(w, '[');
    for (uint32_t i = 0; i < s->call_count; i++) {
        const reply_tool_call *c = &s->call[i];
        json_begin(w, '{');
        json_key(w, "id"), json_string(w, c->id ? c->id : "");
        json_key(w, "name"), json_string(w, c->name ? c->name : "");
        json_key(w, "arguments_json"), json_text(w, strbuf_text(&c->arguments), c->arguments.size);
        json_end(w, '}');
    }
    json_end(w, ']');
    json_key(w, "malformed");
    json_begin(w, '[');
    for (size_t i = 0; s->finished && i < s->finished->n_malformed; i++)
        write_data(w, &s->finished->malformed[i]);
    json_end(w, ']');
    json_key(w, "truncated_call");
    if (s->finished && s->finished->has_truncated_call) write_data(w, &s->finished->truncated_call);
    else json_null(w);
}

static void add_rate(strbuf *line, uint32_t tokens, double ms) {
    if (tokens > 0 && ms > 0) strbuf_add_format(line, " (%.1f tokens/s)", tokens * 1000.0 / ms);
}

void reply_write_speed(strbuf *out, const reply *r) {
    const reply_sample *s = &r->sample[0];
    const Gemmad__V1__Usage *u = r->usage;
    const Gemmad__V1__Timings *t = s->finished ? s->finished->timings : NULL;
    if (!u || !t) return;
    strbuf_add_format(out, "prompt: %u tokens", u->prompt_tokens);
    if (u->cached_tokens) strbuf_add_format(out, ", %u of them from the cache,", u->cached_tokens);
    strbuf_add_format(out, " in %.3f s", t->prefill_ms / 1000);
    add_rate(out, u->prompt_tokens - u->cached_tokens, t->prefill_ms);
    strbuf_add_format(out, "; answer: %u tokens in %.3f s", u->completion_tokens, t->decode_ms / 1000);
    /* The first token falls out of the prefill; the others are what decoding gave. */
    add_rate(out, u->completion_tokens ? u->completion_tokens - 1 : 0, t->decode_ms);
    strbuf_add_format(out, "; first token after %.3f s; ended by %s", t->first_token_ms / 1000,
                      *reply_ended_by(s) ? reply_ended_by(s) : "?");
}
