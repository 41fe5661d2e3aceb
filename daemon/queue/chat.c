/* Chat: a conversation as the prompt, and an answer read as reasoning, content and tool calls. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/queue/chat_prompt.h"
#include "daemon/queue/generation.h"

typedef struct chat {
    generation base;
    chat_request request; /* until the prompt is made */
} chat;

static void send_event(generation *g, generation_event kind, void *message) {
    Gemmad__V1__ChatEvent e = GEMMAD__V1__CHAT_EVENT__INIT;
    e.event_case = (Gemmad__V1__ChatEvent__EventCase)kind;
    e.started = message; /* one of a union of pointers */
    g->call->ops->send(g->call, &e.base);
}

static void delta(generation *g, uint32_t index, const answer_part *part) {
    Gemmad__V1__ChatDelta d = GEMMAD__V1__CHAT_DELTA__INIT;
    Gemmad__V1__ToolCall one = GEMMAD__V1__TOOL_CALL__INIT, *calls[] = {&one};
    const ProtobufCBinaryData text = {part->text_bytes, (uint8_t *)part->text};
    char *fragment = NULL;
    generation_tokens tokens;
    generation_tokens_make(&tokens, part);
    d.has_index = 1;
    d.index = index;
    d.has_content = part->kind == CHAT_CONTENT && text.len > 0;
    d.content = text;
    d.has_reasoning = part->kind == CHAT_REASONING && text.len > 0;
    d.reasoning = text;
    if (part->kind == CHAT_CALL && text.len > 0) {
        fragment = memory_alloc(text.len + 1);
        memcpy(fragment, text.data, text.len);
        one.has_index = 1;
        one.index = part->call->index;
        if (part->call_begins) one.id = (char *)part->call->id;
        if (part->call_begins) one.name = part->call->name;
        one.arguments_json = fragment;
        d.n_tool_calls = 1;
        d.tool_calls = calls;
    }
    d.n_token_ids = tokens.id_count;
    d.token_ids = tokens.ids;
    d.n_logprobs = tokens.logprob_count;
    d.logprobs = tokens.logprobs;
    send_event(g, GENERATION_DELTA, &d);
    generation_tokens_close(&tokens);
    free(fragment);
}

static void close_request(generation *base) { chat_request_close(&((chat *)base)->request); }

static status make_form(chat *c, bool starts_in_thought) {
    generation *g = &c->base;
    const generation_ends ends = generation_end_tokens(g->model);
    const chat_grammar_model model = {g->model->tokenizer, ends.id, ends.count};
    const chat_grammar *form;
    TRY(chat_grammar_make(&form, g->core->forms, &model, c->request.message, starts_in_thought));
    return generation_take_grammar(g, form);
}

static status make_prompt(generation *base) {
    chat *c = (chat *)base;
    chat_prompt p;
    TRY(chat_request_open(&c->request));
    TRY(chat_prompt_make(&p, base->model->chat.template, base->model->tokenizer, c->request.message));
    request_log_prompt(&base->log, base->core, p.text, p.text_bytes);
    base->form.starts_in_thought = p.starts_in_thought;
    base->tokens = p.ids;
    base->token_count = p.count;
    p.ids = NULL;
    chat_prompt_close(&p);
    TRY(make_form(c, base->form.starts_in_thought));
    chat_request_close(&c->request);
    c->request = (chat_request){0};
    return ST_OK;
}

/* Without tools nothing can be called, unless the request says that it will know what to do. */
static bool refuses_calls(const Gemmad__V1__ChatRequest *r) {
    const char *mode = r->tool_choice ? r->tool_choice->mode : NULL;
    return mode && mode[0] ? !strcmp(mode, "none") : r->n_tools == 0;
}

/* A tool's response is never the model's to write, not even with ignore_eos. */
static status add_ends(generation *g, const Gemmad__V1__ChatRequest *r) {
    uint32_t id;
    if (!r->sampling || !r->sampling->ignore_eos) return generation_add_ends(g);
    if (!tokenizer_find(g->model->tokenizer, "<|tool_response>", &id)) return ST_OK;
    return sampling_add_stop(&g->sampling, id);
}

static status prepare(chat *c, const Gemmad__V1__ChatRequest *r) {
    generation *g = &c->base;
    const generation_request request = {.model = r->model,
                                        .sampling = r->sampling,
                                        .has_resume_from = r->has_resume_from,
                                        .resume_from = r->resume_from,
                                        .priority = r->priority};
    TRY(generation_read(g, &request));
    TRY(core_check_chat(g->model));
    TRY(add_ends(g, r));
    g->form = (answer_form){.is_chat = true,
                            .thinking = r->enable_thinking,
                            .refuses_calls = refuses_calls(r),
                            .calls_max = r->has_parallel_tool_calls && !r->parallel_tool_calls};
    TRY(chat_request_keep(&c->request, r));
    return generation_admit(g, r->request_id);
}

void core_chat(void *context, call *k, const ProtobufCMessage *message) {
    static const generation_ops ops = {make_prompt, send_event, delta, close_request};
    const Gemmad__V1__ChatRequest *r = (const Gemmad__V1__ChatRequest *)message;
    chat *c = (chat *)generation_open(sizeof *c, &ops, context, k);
    c->base.prompt_field = "the prompt's token";
    status st = prepare(c, r);
    generation_start(&c->base, st,
                     chat_grammar_wanted(r) ? CORE_JOB_LONG
                                            : core_job_of(chat_prompt_is_tiny(r), c->request.size));
}
