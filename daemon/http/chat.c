/* POST /v1/chat/completions */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/http/chat_answer.h"
#include "daemon/http/chat_body.h"
#include "daemon/http/task.h"
#include "proto/limits.h"

typedef struct chat_task {
    task task; /* first */
    chat_body body;
    remote remote;
    chat_answer answer;
    char model[LIMIT_MODEL_NAME_BYTES + 1];
    bool stream, want_usage, streaming, too_long;
} chat_task;

static status read_body(task *t) { return chat_body_read(&t->body, &((chat_task *)(void *)t)->body); }

static chat_task *of_remote(remote *r) { return r->owner; }

/* ---- as a stream ---- */

static void send_chunk(chat_task *t, strbuf *json) {
    answer_sse(t->task.exchange, json);
    strbuf_close(json);
}

static void begin_stream(chat_task *t) {
    t->streaming = true;
    http_stream_begin(t->task.exchange, 200, "text/event-stream; charset=utf-8");
    for (uint32_t i = 0; i < t->answer.count; i++) {
        strbuf json = {0};
        chat_chunk_role(&t->answer, i, t->want_usage, &json);
        send_chunk(t, &json);
    }
}

static void stream_event(chat_task *t, const Gemmad__V1__ChatEvent *e) {
    strbuf json = {0};
    if (!t->streaming) begin_stream(t);
    switch (e->event_case) {
    case GEMMAD__V1__CHAT_EVENT__EVENT_PROGRESS: answer_sse_progress(t->task.exchange, e->progress); break;
    case GEMMAD__V1__CHAT_EVENT__EVENT_DELTA:
        if (chat_chunk_delta(&t->answer, e->delta, t->want_usage, &json)) send_chunk(t, &json);
        break;
    case GEMMAD__V1__CHAT_EVENT__EVENT_FINISHED:
        answer_usage_add(&t->answer.usage, e->finished->usage);
        chat_chunk_finished(&t->answer, e->finished, t->want_usage, &json);
        send_chunk(t, &json);
        break;
    default: break;
    }
}

static void end_stream(chat_task *t) {
    if (t->want_usage) {
        strbuf json = {0};
        chat_chunk_usage(&t->answer, &json);
        send_chunk(t, &json);
    }
    static const char done[] = "data: [DONE]\n\n";
    http_stream_write(t->task.exchange, done, sizeof done - 1);
    http_stream_end(t->task.exchange);
}

/* ---- whole ---- */

static void collect_event(chat_task *t, const Gemmad__V1__ChatEvent *e) {
    if (e->event_case == GEMMAD__V1__CHAT_EVENT__EVENT_DELTA) chat_answer_delta(&t->answer, e->delta);
    if (e->event_case == GEMMAD__V1__CHAT_EVENT__EVENT_FINISHED)
        chat_answer_finished(&t->answer, e->finished);
    if (t->answer.collected > ANSWER_COLLECTED_MAX && !t->too_long) {
        t->too_long = true;
        remote_cancel(&t->remote);
    }
}

static void answer_whole(chat_task *t) {
    strbuf json = {0};
    chat_answer_write(&t->answer, &json);
    http_answer_json(t->task.exchange, 200, &json);
    strbuf_close(&json);
}

/* ---- from the core ---- */

static void on_event(remote *r, const ProtobufCMessage *message) {
    chat_task *t = of_remote(r);
    const Gemmad__V1__ChatEvent *e = (const Gemmad__V1__ChatEvent *)message;
    body_close(&t->task.body); /* the core has its copy */
    if (t->stream) stream_event(t, e);
    else collect_event(t, e);
}

static void on_finished(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    chat_task *t = of_remote(r);
    if (t->too_long) {
        st = fail(ST_INVALID, "the answer has more than %d bytes; ask for a stream", ANSWER_COLLECTED_MAX);
        text = status_text();
    }
    if (st != ST_OK && t->streaming) {
        answer_sse_fault(t->task.exchange, st, text);
        http_stream_end(t->task.exchange);
    } else if (st != ST_OK) {
        task_refuse(t->task.exchange, st, text, retry_after_ms);
    } else if (t->stream) {
        if (!t->streaming) begin_stream(t);
        end_stream(t);
    } else {
        answer_whole(t);
    }
    task_end(&t->task);
}

static void begin(task *base) {
    chat_task *t = (chat_task *)(void *)base;
    const openai_backend *b = &base->api->backend;
    const sampling_body *common = &t->body.common;
    snprintf(t->model, sizeof t->model, "%s", openai_model_name(base->api, base->exchange, common->model));
    t->stream = common->stream;
    t->want_usage = common->include_usage;
    t->answer.model = t->model;
    t->answer.created = openai_now();
    t->answer.count = common->sampling.has_n ? common->sampling.n : 1;
    t->answer.choice = memory_alloc_array(t->answer.count, sizeof *t->answer.choice);
    t->answer.logprobs = t->body.logprobs;
    t->answer.top = common->sampling.logprobs;
    t->answer.tokenizer = b->tokenizer(b->core, t->model);
    openai_make_id("chatcmpl-", t->answer.id);
    t->body.request.request_id = t->answer.id;
    t->remote = (remote){.exchange = base->exchange, .event = on_event, .finished = on_finished, .owner = t};
    remote_start(&t->remote, base->api, "/gemmad.v1.Inference/Chat", &t->body.request.base);
}

static void left(task *base) { remote_cancel(&((chat_task *)(void *)base)->remote); }
static void drained(task *base) { remote_drained(&((chat_task *)(void *)base)->remote); }
static void close_task(task *base) { chat_answer_close(&((chat_task *)(void *)base)->answer); }

void openai_chat(void *context, http_exchange *x) {
    static const task_endpoint endpoint = {sizeof(chat_task), read_body, begin, left, drained, close_task};
    task_start(context, x, &endpoint);
}
