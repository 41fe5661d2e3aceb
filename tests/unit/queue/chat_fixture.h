/* Chats through a core with fake engines, and what their clients have seen. */
#ifndef TESTS_UNIT_QUEUE_CHAT_FIXTURE_H
#define TESTS_UNIT_QUEUE_CHAT_FIXTURE_H

#include "tests/unit/queue/generate_fixture.h"

typedef Gemmad__V1__ChatRequest chat_request_message;

enum { CHAT_CALLS_SEEN = 16, CHAT_IDS_SEEN = 1 << 20 };

typedef struct seen_call {
    char id[64], name[64];
    strbuf arguments;
    uint32_t fragments;
} seen_call;

/* Of one sample. */
typedef struct chat_seen {
    strbuf reasoning, content;
    seen_call call[CHAT_CALLS_SEEN];
    uint32_t call_count, *ids, id_count, logprobs, deltas, started, prompt_logprobs;
    const Gemmad__V1__Started *start;
    const Gemmad__V1__Finished *finished;
} chat_seen;

static inline void chat_see_call(chat_seen *s, const Gemmad__V1__ToolCall *t) {
    CHECK(t->has_index && t->index < CHAT_CALLS_SEEN && t->arguments_json && t->arguments_json[0]);
    if (t->index >= CHAT_CALLS_SEEN) return;
    seen_call *c_ = &s->call[t->index];
    /* A call begins with its id and name, and fragments follow without. */
    CHECK((t->id != NULL) == (c_->fragments == 0) && (t->name != NULL) == (c_->fragments == 0));
    if (t->id) snprintf(c_->id, sizeof c_->id, "%s", t->id);
    if (t->name) snprintf(c_->name, sizeof c_->name, "%s", t->name);
    if (c_->fragments++ == 0) CHECK(t->index == s->call_count++);
    else CHECK(t->index + 1 == s->call_count);
    strbuf_add_string(&c_->arguments, t->arguments_json);
}

static inline void chat_see_delta(chat_seen *s, const Gemmad__V1__ChatDelta *d) {
    CHECK(d->n_token_ids + d->has_content + d->has_reasoning + d->n_tool_calls > 0);
    CHECK(d->has_content + d->has_reasoning + (int)d->n_tool_calls <= 1); /* one kind in each */
    CHECK(utf8_check(d->content.data, d->content.len) == d->content.len);
    CHECK(utf8_check(d->reasoning.data, d->reasoning.len) == d->reasoning.len);
    if (d->has_content) strbuf_add(&s->content, d->content.data, d->content.len);
    if (d->has_reasoning) strbuf_add(&s->reasoning, d->reasoning.data, d->reasoning.len);
    for (size_t i = 0; i < d->n_tool_calls; i++) chat_see_call(s, d->tool_calls[i]);
    s->ids = memory_grow(s->ids, (s->id_count + d->n_token_ids + 1) * sizeof *s->ids);
    for (size_t i = 0; i < d->n_token_ids; i++) s->ids[s->id_count++] = d->token_ids[i];
    CHECK(d->n_logprobs == 0 || d->n_logprobs == d->n_token_ids);
    for (size_t i = 0; i < d->n_logprobs; i++) CHECK(d->logprobs[i]->token_id == d->token_ids[i]);
    s->logprobs += (uint32_t)d->n_logprobs;
    s->deltas++;
}

static inline void chat_see(const fake_call *f, uint32_t index, chat_seen *s) {
    *s = (chat_seen){0};
    for (uint32_t i = 0; i < f->sent_count; i++) {
        const Gemmad__V1__ChatEvent *e = (const Gemmad__V1__ChatEvent *)f->sent[i];
        switch (e->event_case) {
        case GEMMAD__V1__CHAT_EVENT__EVENT_STARTED:
            CHECK(i == 0);
            s->started++;
            s->start = e->started;
            break;
        case GEMMAD__V1__CHAT_EVENT__EVENT_PROGRESS: break;
        case GEMMAD__V1__CHAT_EVENT__EVENT_PROMPT_LOGPROBS:
            s->prompt_logprobs += (uint32_t)e->prompt_logprobs->n_logprobs;
            break;
        case GEMMAD__V1__CHAT_EVENT__EVENT_DELTA:
            if (e->delta->index != index) break;
            CHECK(s->finished == NULL);
            chat_see_delta(s, e->delta);
            break;
        case GEMMAD__V1__CHAT_EVENT__EVENT_FINISHED:
            if (e->finished->index == index) s->finished = e->finished;
            break;
        default: CHECK(!"an empty event");
        }
    }
}

static inline void chat_seen_close(chat_seen *s) {
    strbuf_close(&s->reasoning);
    strbuf_close(&s->content);
    for (int i = 0; i < CHAT_CALLS_SEEN; i++) strbuf_close(&s->call[i].arguments);
    free(s->ids);
    *s = (chat_seen){0};
}

static inline void open_chat_core(void) {
    open_core();
    chat_choice chat = {.template = chat_template_named("gemma4")};
    CHECK_STATUS(core_set_chat(c, "dense", &chat), ST_OK);
    dense.base.facts.context_tokens = 4000000;
}

/* One user message. */
static inline chat_request_message chat_request_of(sampling_message *s) {
    static Gemmad__V1__Part part;
    static Gemmad__V1__Message message;
    static Gemmad__V1__Part *parts[] = {&part};
    static Gemmad__V1__Message *messages[] = {&message};
    chat_request_message r = GEMMAD__V1__CHAT_REQUEST__INIT;
    gemmad__v1__part__init(&part);
    gemmad__v1__message__init(&message);
    part.part_case = GEMMAD__V1__PART__PART_TEXT;
    part.text = (ProtobufCBinaryData){5, (uint8_t *)"hello"};
    message.role = (char *)"user";
    message.n_content = 1;
    message.content = parts;
    r.n_messages = 1;
    r.messages = messages;
    r.sampling = s;
    return r;
}

/* As one that may call. */
static inline chat_request_message tool_request_of(sampling_message *s) {
    static Gemmad__V1__Tool tool;
    static Gemmad__V1__Tool *tools[] = {&tool};
    chat_request_message r = chat_request_of(s);
    gemmad__v1__tool__init(&tool);
    tool.name = (char *)"a";
    r.n_tools = 1;
    r.tools = tools;
    return r;
}

static inline fake_request *begin_chat(fake_call *f, const chat_request_message *r) {
    uint32_t before = dense.submitted;
    fake_call_open(f, "p");
    fake_handle(c, f, "Chat", &r->base);
    uv_run(&loop, UV_RUN_DEFAULT);
    return dense.submitted > before ? fake_find(&dense, dense.submitted) : NULL;
}

static inline fake_request *begin_chat_started(fake_call *f, const chat_request_message *r) {
    fake_request *q = begin_chat(f, r);
    CHECK_THAT(q != NULL, "%s", f->text);
    if (!q) exit(1);
    q->listener.started(q->context, 1);
    return q;
}

enum {
    BRACE = BYTE + '{',
    BRACE_END = BYTE + '}',
    COLON = BYTE + ':',
    NEWLINE = BYTE + '\n',
    SPACE = BYTE + ' '
};
#define CALL_OF(name) CALL, name, BRACE, A, COLON, QUOTE, HELLO, QUOTE, BRACE_END, CALL_END

#endif
