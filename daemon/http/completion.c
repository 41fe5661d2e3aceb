/* POST /v1/completions: several prompts, several samples of each, as one answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "build_id.h"
#include "daemon/http/answer_out.h"
#include "daemon/http/completion_body.h"
#include "daemon/http/task.h"
#include "daemon/http/token_text.h"
#include "proto/limits.h"

typedef struct completion_task completion_task;

/* One sample of a prompt. */
typedef struct completion_choice {
    strbuf text;
    token_columns logprobs;
    uint64_t offset; /* characters of the text so far */
    char finish_reason[16];
} completion_choice;

typedef struct completion_part {
    completion_task *owner;
    remote remote;
    uint32_t index; /* of its prompt */
    strbuf echo;    /* the prompt's text, when it is wanted */
    token_columns echo_logprobs;
    uint64_t echo_offset, echo_characters;
    bool echo_begun, echoed; /* echoed: to the stream */
} completion_part;

struct completion_task {
    task task; /* first */
    completion_body body;
    completion_part *part; /* [count] */
    uint32_t count, live, samples;
    completion_choice *choice; /* [count · samples] */
    char id[OPENAI_ID_BYTES], model[LIMIT_MODEL_NAME_BYTES + 1];
    uint64_t created;
    const tokenizer *tokenizer;
    answer_usage usage;
    bool streaming, cancelling;
    status failure; /* the first */
    char *failure_text;
    uint32_t retry_after_ms;
    size_t collected; /* bytes that are held until they can be sent: of a stream, those of echoes alone */
};

static completion_task *of_task(task *t) { return (completion_task *)(void *)t; }
static status read_body(task *t) { return completion_body_read(&t->body, &of_task(t)->body); }

/* ---- JSON ---- */

static void begin_object(const completion_task *t, strbuf *out) {
    out_object(out, NULL);
    out_string(out, "id", t->id);
    out_string(out, "object", "text_completion");
    out_number(out, "created", t->created);
    out_string(out, "model", t->model);
    out_string(out, "system_fingerprint", "gemmad-" GEMMAD_BUILD_ID);
    out_array(out, "choices");
}

/* logprobs NULL: null; finish_reason NULL: it goes on. */
static void write_choice(uint32_t index, const strbuf *echo, const strbuf *text, token_columns *logprobs,
                         const char *finish_reason, strbuf *out) {
    strbuf whole = {0};
    if (echo) strbuf_add(&whole, strbuf_text(echo), echo->size);
    if (text) strbuf_add(&whole, strbuf_text(text), text->size);
    out_object(out, NULL);
    out_text(out, "text", strbuf_text(&whole), whole.size);
    out_number(out, "index", index);
    if (logprobs) token_columns_write(logprobs, "logprobs", out);
    else out_null(out, "logprobs");
    out_string(out, "finish_reason", finish_reason);
    out_end_object(out);
    strbuf_close(&whole);
}

static void send_chunk(completion_task *t, uint32_t index, const strbuf *text, token_columns *logprobs,
                       const char *finish_reason) {
    strbuf json = {0};
    begin_object(t, &json);
    write_choice(index, NULL, text, logprobs, finish_reason, &json);
    out_end_array(&json);
    if (t->body.common.include_usage) out_null(&json, "usage");
    out_end_object(&json);
    answer_sse(t->task.exchange, &json);
    strbuf_close(&json);
}

/* ---- the prompt, echoed ---- */

static void add_echo_token(completion_part *p, uint32_t id, const Gemmad__V1__TokenLogprob *l) {
    completion_task *t = p->owner;
    char room[24];
    size_t n;
    token_columns_add(&p->echo_logprobs, t->tokenizer, id, l, t->body.top, p->echo_offset);
    const char *bytes = token_bytes(t->tokenizer, id, &n, room);
    uint32_t bos;
    /* The token that is put in front has no text in the echo. */
    bool in_front = p->echo_offset == 0 && t->tokenizer && tokenizer_bos(t->tokenizer, &bos) && bos == id;
    if (!in_front) p->echo_offset += token_characters(bytes, n);
    if (p->echo_offset > p->echo_characters) p->echo_offset = p->echo_characters;
}

/* Nothing predicts the first token, so that it comes in no event. */
static void begin_echo_logprobs(completion_part *p, const completion_prompt *from) {
    uint32_t first = 0;
    p->echo_begun = true;
    if (from->request.prompt_case == GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS) first = from->ids.ids[0];
    else if (!p->owner->tokenizer || !p->owner->body.add_bos || !tokenizer_bos(p->owner->tokenizer, &first))
        return;
    add_echo_token(p, first, NULL);
}

static void keep_echo(completion_part *p, const completion_prompt *from) {
    const completion_task *t = p->owner;
    uint32_t bos;
    if (!t->body.echo) return;
    if (from->request.prompt_case == GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT) {
        strbuf_add(&p->echo, from->request.text.data, from->request.text.len);
    } else {
        bool has_bos = t->tokenizer && tokenizer_bos(t->tokenizer, &bos);
        for (size_t i = has_bos && from->ids.ids[0] == bos; i < from->ids.n_ids; i++) {
            char room[24];
            size_t n;
            const char *bytes = token_bytes(t->tokenizer, from->ids.ids[i], &n, room);
            strbuf_add(&p->echo, bytes, n);
        }
    }
    p->echo_characters = token_characters(strbuf_text(&p->echo), p->echo.size);
    p->owner->collected += p->echo.size * t->samples;
    if (t->body.logprobs) begin_echo_logprobs(p, from);
}

/* ---- events ---- */

static void begin_stream(completion_task *t) {
    if (t->streaming) return;
    t->streaming = true;
    http_stream_begin(t->task.exchange, 200, "text/event-stream; charset=utf-8");
}

static void stream_echo(completion_part *p) {
    completion_task *t = p->owner;
    if (p->echoed || !t->body.echo) return;
    p->echoed = true;
    for (uint32_t i = 0; i < t->samples; i++)
        send_chunk(t, p->index * t->samples + i, &p->echo, t->body.logprobs ? &p->echo_logprobs : NULL, NULL);
}

static void add_delta(completion_part *p, completion_choice *c, const Gemmad__V1__GenerateDelta *d) {
    completion_task *t = p->owner;
    char room[24];
    size_t n, before = c->logprobs.tokens.size + c->logprobs.top_logprobs.size;
    strbuf_add(&c->text, d->text.data, d->text.len);
    for (size_t i = 0; t->body.logprobs && i < d->n_logprobs; i++) {
        token_columns_add(&c->logprobs, t->tokenizer, d->logprobs[i]->token_id, d->logprobs[i], t->body.top,
                          p->echo_characters + c->offset);
        const char *bytes = token_bytes(t->tokenizer, d->logprobs[i]->token_id, &n, room);
        c->offset += token_characters(bytes, n);
    }
    if (!t->body.common.stream)
        t->collected += d->text.len + c->logprobs.tokens.size + c->logprobs.top_logprobs.size - before;
}

static void on_delta(completion_part *p, const Gemmad__V1__GenerateDelta *d) {
    completion_task *t = p->owner;
    if (d->index >= t->samples || t->body.no_tokens) return;
    completion_choice *c = &t->choice[p->index * t->samples + d->index];
    add_delta(p, c, d);
    if (!t->body.common.stream) return;
    stream_echo(p);
    if (c->text.size > 0 || d->n_logprobs > 0)
        send_chunk(t, p->index * t->samples + d->index, &c->text, t->body.logprobs ? &c->logprobs : NULL,
                   NULL);
    strbuf_clear(&c->text);
}

static void on_finished_sample(completion_part *p, const Gemmad__V1__Finished *f) {
    completion_task *t = p->owner;
    if (f->index >= t->samples) return;
    completion_choice *c = &t->choice[p->index * t->samples + f->index];
    answer_usage_add(&t->usage, f->usage);
    if (t->body.no_tokens && f->usage) t->usage.completion -= f->usage->completion_tokens;
    snprintf(c->finish_reason, sizeof c->finish_reason, "%s",
             t->body.no_tokens ? "length" : f->finish_reason);
    if (!t->body.common.stream) return;
    stream_echo(p);
    send_chunk(t, p->index * t->samples + f->index, NULL, NULL, c->finish_reason);
}

static void on_prompt_logprobs(completion_part *p, const Gemmad__V1__PromptLogprobs *e) {
    completion_task *t = p->owner;
    size_t before = p->echo_logprobs.tokens.size + p->echo_logprobs.top_logprobs.size;
    for (size_t i = 0; i < e->n_logprobs; i++) add_echo_token(p, e->logprobs[i]->token_id, e->logprobs[i]);
    t->collected += (p->echo_logprobs.tokens.size + p->echo_logprobs.top_logprobs.size - before) * t->samples;
}

static void cancel_all(completion_task *t) {
    if (t->cancelling) return;
    t->cancelling = true;
    t->live++; /* the last may end in here */
    for (uint32_t i = 0; i < t->count; i++) remote_cancel(&t->part[i].remote);
    t->live--;
}

static void fail_task(completion_task *t, status st, const char *text, uint32_t retry_after_ms) {
    if (t->failure != ST_OK) return;
    t->failure = st;
    t->failure_text = memory_copy_string(text);
    t->retry_after_ms = retry_after_ms;
}

static void check_collected(completion_task *t) {
    if (t->collected <= ANSWER_COLLECTED_MAX) return;
    status st = fail(ST_INVALID, "the answer has more than %d bytes; ask for %s", ANSWER_COLLECTED_MAX,
                     t->body.common.stream || t->body.echo ? "less at once" : "a stream or less at once");
    fail_task(t, st, status_text(), 0);
    cancel_all(t);
}

static void on_event(remote *r, const ProtobufCMessage *message) {
    completion_part *p = r->owner;
    completion_task *t = p->owner;
    const Gemmad__V1__GenerateEvent *e = (const Gemmad__V1__GenerateEvent *)message;
    if (t->failure != ST_OK) return;
    if (t->body.common.stream) begin_stream(t);
    switch (e->event_case) {
    case GEMMAD__V1__GENERATE_EVENT__EVENT_PROGRESS:
        if (t->streaming) answer_sse_progress(t->task.exchange, e->progress);
        break;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA: on_delta(p, e->delta); break;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_PROMPT_LOGPROBS: on_prompt_logprobs(p, e->prompt_logprobs); break;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_FINISHED: on_finished_sample(p, e->finished); break;
    default: break;
    }
    check_collected(t);
}

/* ---- the end ---- */

static void end_stream(completion_task *t) {
    static const char done[] = "data: [DONE]\n\n";
    begin_stream(t);
    if (t->body.common.include_usage) {
        strbuf json = {0};
        begin_object(t, &json);
        out_end_array(&json);
        answer_usage_write(&t->usage, "usage", &json);
        out_end_object(&json);
        answer_sse(t->task.exchange, &json);
        strbuf_close(&json);
    }
    http_stream_write(t->task.exchange, done, sizeof done - 1);
    http_stream_end(t->task.exchange);
}

/* The echo's columns in front of the sample's. */
static void join_columns(token_columns *to, const token_columns *front) {
    strbuf *column[] = {&to->tokens, &to->token_logprobs, &to->top_logprobs, &to->text_offset};
    const strbuf *before[] = {&front->tokens, &front->token_logprobs, &front->top_logprobs,
                              &front->text_offset};
    for (size_t i = 0; i < 4; i++) {
        strbuf joined = {0};
        strbuf_add(&joined, strbuf_text(before[i]), before[i]->size);
        if (before[i]->size > 0 && column[i]->size > 0) strbuf_add(&joined, ",", 1);
        strbuf_add(&joined, strbuf_text(column[i]), column[i]->size);
        strbuf_close(column[i]);
        *column[i] = joined;
    }
    to->want_top = to->want_top || front->want_top;
}

static void answer_whole(completion_task *t) {
    strbuf json = {0};
    begin_object(t, &json);
    for (uint32_t i = 0; i < t->count * t->samples; i++) {
        completion_choice *c = &t->choice[i];
        const completion_part *p = &t->part[i / t->samples];
        if (t->body.logprobs && t->body.echo) join_columns(&c->logprobs, &p->echo_logprobs);
        write_choice(i, &p->echo, &c->text, t->body.logprobs ? &c->logprobs : NULL, c->finish_reason, &json);
    }
    out_end_array(&json);
    answer_usage_write(&t->usage, "usage", &json);
    out_end_object(&json);
    http_answer_json(t->task.exchange, 200, &json);
    strbuf_close(&json);
}

static void end(completion_task *t) {
    http_exchange *x = t->task.exchange;
    if (t->failure != ST_OK && t->streaming) {
        answer_sse_fault(x, t->failure, t->failure_text);
        http_stream_end(x);
    } else if (t->failure != ST_OK) {
        task_refuse(x, t->failure, t->failure_text, t->retry_after_ms);
    } else if (t->body.common.stream) {
        end_stream(t);
    } else {
        answer_whole(t);
    }
    task_end(&t->task);
}

static void release(completion_task *t) {
    if (--t->live == 0) end(t);
}

static void on_finished(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    completion_task *t = ((completion_part *)r->owner)->owner;
    if (st != ST_OK) {
        fail_task(t, st, text, retry_after_ms);
        cancel_all(t);
    }
    release(t);
}

static void begin_parts(completion_task *t) {
    t->live = 1; /* ours, while calls are being made */
    for (uint32_t i = 0; i < t->count; i++) {
        completion_part *p = &t->part[i];
        char id[OPENAI_ID_BYTES + 12];
        p->owner = t;
        p->index = i;
        p->remote =
            (remote){.exchange = t->task.exchange, .event = on_event, .finished = on_finished, .owner = p};
        keep_echo(p, &t->body.prompt[i]);
        check_collected(t);
        if (t->failure != ST_OK) continue;
        snprintf(id, sizeof id, "%s-%u", t->id, i);
        t->body.prompt[i].request.request_id = id;
        t->live++;
        remote_start(&p->remote, t->task.api, "/gemmad.v1.Inference/Generate",
                     &t->body.prompt[i].request.base);
    }
    body_close(&t->task.body);
    release(t);
}

static void begin(task *base) {
    completion_task *t = of_task(base);
    const openai_backend *b = &base->api->backend;
    const sampling_body *common = &t->body.common;
    snprintf(t->model, sizeof t->model, "%s", openai_model_name(base->api, base->exchange, common->model));
    t->created = openai_now();
    t->tokenizer = b->tokenizer(b->core, t->model);
    t->count = t->body.count;
    t->samples = common->sampling.has_n ? common->sampling.n : 1;
    t->part = memory_alloc_array(t->count, sizeof *t->part);
    t->choice = memory_alloc_array((size_t)t->count * t->samples, sizeof *t->choice);
    openai_make_id("cmpl-", t->id);
    begin_parts(t);
}

static void left(task *base) {
    completion_task *t = of_task(base);
    t->live++;
    cancel_all(t);
    release(t);
}

static void drained(task *base) {
    completion_task *t = of_task(base);
    t->live++;
    for (uint32_t i = 0; i < t->count; i++) remote_drained(&t->part[i].remote);
    release(t);
}

static void close_task(task *base) {
    completion_task *t = of_task(base);
    for (uint32_t i = 0; i < t->count * t->samples; i++) {
        strbuf_close(&t->choice[i].text);
        token_columns_close(&t->choice[i].logprobs);
    }
    for (uint32_t i = 0; i < t->count; i++) {
        strbuf_close(&t->part[i].echo);
        token_columns_close(&t->part[i].echo_logprobs);
    }
    free(t->choice);
    free(t->part);
    free(t->failure_text);
}

void openai_completions(void *context, http_exchange *x) {
    static const task_endpoint endpoint = {
        sizeof(completion_task), read_body, begin, left, drained, close_task};
    task_start(context, x, &endpoint);
}
