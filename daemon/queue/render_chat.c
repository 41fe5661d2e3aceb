/* RenderChat: the prompt that a chat would send. */
#include <stdlib.h>

#include "base/memory.h"
#include "daemon/queue/chat_prompt.h"
#include "daemon/queue/core_internal.h"
#include "daemon/queue/job.h"

typedef struct render_call {
    core *core;
    call *call;
    const tokenizer *tokenizer;
    const chat_template *template;
    job job;
    status why; /* not ST_OK: the client gave up */
    chat_request request;
    chat_prompt prompt;
} render_call;

static render_call *of_job(job *j) { return (render_call *)((char *)j - offsetof(render_call, job)); }

static void cancelled(call *k, void *context, status why) {
    render_call *r = context;
    (void)k;
    r->why = why;
    job_cancel(&r->job);
}

static status render(job *j) {
    render_call *r = of_job(j);
    TRY(chat_request_open(&r->request));
    return chat_prompt_make(&r->prompt, r->template, r->tokenizer, r->request.message);
}

static void answer(render_call *r) {
    Gemmad__V1__RenderChatResponse m = GEMMAD__V1__RENDER_CHAT_RESPONSE__INIT;
    m.has_text = m.has_starts_in_thought = 1;
    m.text = (ProtobufCBinaryData){r->prompt.text_bytes, (uint8_t *)r->prompt.text};
    m.n_token_ids = r->prompt.count;
    m.token_ids = r->prompt.ids;
    m.starts_in_thought = r->prompt.starts_in_thought;
    core_answer(r->call, &m.base);
}

static void rendered(job *j) {
    render_call *r = of_job(j);
    core *c = r->core;
    r->call->cancelled = NULL;
    if (r->why != ST_OK) core_refuse(r->call, fail(r->why, "the client no longer waits"));
    else if (j->st != ST_OK) r->call->ops->finish(r->call, j->st, j->text, 0);
    else answer(r);
    chat_request_close(&r->request);
    chat_prompt_close(&r->prompt);
    free(r);
    core_call_ends(c);
}

static status begin(core *c, call *k, const Gemmad__V1__ChatRequest *message, render_call **out) {
    core_model *m;
    TRY(core_enter(c, k, message->model, &m));
    TRY(core_check_chat(m));
    render_call *r = memory_alloc(sizeof *r);
    status st = chat_request_keep(&r->request, message);
    if (st != ST_OK) {
        free(r);
        return st;
    }
    r->core = c;
    r->call = k;
    r->tokenizer = m->tokenizer;
    r->template = m->chat.template;
    r->job.run = render;
    r->job.done = rendered;
    *out = r;
    return ST_OK;
}

void core_render_chat(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__ChatRequest *request = (const Gemmad__V1__ChatRequest *)message;
    render_call *r;
    status st = begin(context, k, request, &r);
    if (st != ST_OK) {
        core_refuse(k, st);
        return;
    }
    core_call_begins(r->core);
    k->cancelled = cancelled;
    k->context = r;
    job_start(r->core->loop, &r->job, chat_prompt_is_tiny(request));
}
