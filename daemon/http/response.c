/* POST /v1/responses */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/http/response_answer.h"
#include "daemon/http/response_body.h"
#include "daemon/http/task.h"
#include "proto/limits.h"

typedef struct response_task {
    task task; /* first */
    response_body body;
    remote remote;
    response_answer answer;
    char model[LIMIT_MODEL_NAME_BYTES + 1];
    bool stream, too_long;
} response_task;

static response_task *of_task(task *t) { return (response_task *)(void *)t; }
static status read_body(task *t) { return response_body_read(&t->body, &of_task(t)->body); }

static void begin_stream(response_task *t) {
    if (!t->stream || t->answer.stream) return;
    t->answer.stream = t->task.exchange;
    http_stream_begin(t->task.exchange, 200, "text/event-stream; charset=utf-8");
    response_answer_begin(&t->answer);
}

static void on_event(remote *r, const ProtobufCMessage *message) {
    response_task *t = r->owner;
    const Gemmad__V1__ChatEvent *e = (const Gemmad__V1__ChatEvent *)message;
    body_close(&t->task.body); /* the core has its copy */
    begin_stream(t);
    if (e->event_case == GEMMAD__V1__CHAT_EVENT__EVENT_PROGRESS && t->stream)
        answer_sse_progress(t->task.exchange, e->progress);
    if (e->event_case == GEMMAD__V1__CHAT_EVENT__EVENT_DELTA) response_answer_delta(&t->answer, e->delta);
    if (e->event_case == GEMMAD__V1__CHAT_EVENT__EVENT_FINISHED)
        response_answer_finished(&t->answer, e->finished);
    if (t->answer.collected <= ANSWER_COLLECTED_MAX || t->too_long) return;
    t->too_long = true;
    remote_cancel(r);
}

static void answer_whole(response_task *t) {
    strbuf json = {0};
    response_answer_end(&t->answer);
    response_answer_write(&t->answer, NULL, t->answer.incomplete ? "incomplete" : "completed", &json);
    http_answer_json(t->task.exchange, 200, &json);
    strbuf_close(&json);
}

static void on_finished(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    response_task *t = r->owner;
    http_exchange *x = t->task.exchange;
    if (t->too_long) {
        st = fail(ST_INVALID, "the answer has more than %d bytes", ANSWER_COLLECTED_MAX);
        text = status_text();
    }
    if (st == ST_OK) begin_stream(t);
    if (st != ST_OK && t->answer.stream) {
        response_answer_fail(&t->answer, st, text);
        http_stream_end(x);
    } else if (st != ST_OK) {
        task_refuse(x, st, text, retry_after_ms);
    } else if (t->stream) {
        response_answer_end(&t->answer);
        http_stream_end(x);
    } else {
        answer_whole(t);
    }
    task_end(&t->task);
}

static void begin(task *base) {
    response_task *t = of_task(base);
    snprintf(t->model, sizeof t->model, "%s",
             openai_model_name(base->api, base->exchange, t->body.common.model));
    t->stream = t->body.common.stream;
    t->answer.model = t->model;
    t->answer.created = openai_now();
    t->answer.echo = &t->body.echo;
    openai_make_id("resp_", t->answer.id);
    t->body.request.request_id = t->answer.id;
    t->remote = (remote){.exchange = base->exchange, .event = on_event, .finished = on_finished, .owner = t};
    remote_start(&t->remote, base->api, "/gemmad.v1.Inference/Chat", &t->body.request.base);
}

static void left(task *base) { remote_cancel(&of_task(base)->remote); }
static void drained(task *base) { remote_drained(&of_task(base)->remote); }

static void close_task(task *base) {
    response_answer_close(&of_task(base)->answer);
    strbuf_close(&of_task(base)->body.echo);
}

void openai_responses(void *context, http_exchange *x) {
    static const task_endpoint endpoint = {
        sizeof(response_task), read_body, begin, left, drained, close_task};
    task_start(context, x, &endpoint);
}
