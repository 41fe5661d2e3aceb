/* RenderChat: the prompt that a chat would send. */
#include "daemon/queue/chat_prompt.h"
#include "daemon/queue/work_call.h"

typedef struct render_call {
    work_call work;
    chat_request request;
    chat_prompt prompt;
} render_call;

static void release(work_call *w) {
    render_call *r = (render_call *)w;
    chat_request_close(&r->request);
    chat_prompt_close(&r->prompt);
}

static status render(job *j) {
    render_call *r = (render_call *)work_of(j);
    const core_model *m = r->work.model;
    TRY(chat_request_open(&r->request));
    return chat_prompt_make(&r->prompt, m->chat.template, m->tokenizer, r->request.message);
}

static void rendered(job *j) {
    render_call *r = (render_call *)work_of(j);
    Gemmad__V1__RenderChatResponse m = GEMMAD__V1__RENDER_CHAT_RESPONSE__INIT;
    m.has_text = m.has_starts_in_thought = 1;
    m.text = (ProtobufCBinaryData){r->prompt.text_bytes, (uint8_t *)r->prompt.text};
    m.n_token_ids = r->prompt.count;
    m.token_ids = r->prompt.ids;
    m.starts_in_thought = r->prompt.starts_in_thought;
    work_end(&r->work, j->st == ST_OK ? &m.base : NULL);
}

void core_render_chat(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__ChatRequest *request = (const Gemmad__V1__ChatRequest *)message;
    work_call *w;
    status st = work_open(&w, sizeof(render_call), context, k, request->model, release);
    if (st != ST_OK) {
        core_refuse(k, st);
        return;
    }
    st = core_check_chat(w->model);
    if (st == ST_OK) st = chat_request_keep(&((render_call *)w)->request, request);
    if (st != ST_OK) work_refuse(w, st);
    else
        work_start(w, render, rendered,
                   core_job_of(chat_prompt_is_tiny(request), ((render_call *)w)->request.size));
}
