/* ParseChat: token ids of an answer as a message, for clients that generate by token ids. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/queue/call_id.h"
#include "daemon/queue/chat_finish.h"
#include "daemon/queue/sampling.h"
#include "daemon/queue/work_call.h"
#include "daemon/text/chat_parser.h"

typedef struct found_call {
    char id[CALL_ID_BYTES], *name, *arguments;
} found_call;

typedef struct parse_call {
    work_call work;
    uint32_t *ids; /* [id_count] */
    size_t id_count;
    bool starts_in_thought, thinking, says_end, was_cut; /* says_end: the client said how it ended */
    chat_parser *parser;
    strbuf reasoning, content;
    found_call *call; /* [call_count] */
    size_t call_count, call_capacity;
} parse_call;

static void release(work_call *w) {
    parse_call *p = (parse_call *)w;
    chat_parser_close(p->parser);
    strbuf_close(&p->reasoning);
    strbuf_close(&p->content);
    for (size_t i = 0; i < p->call_count; i++) free(p->call[i].name), free(p->call[i].arguments);
    free(p->call);
    free(p->ids);
}

static void on_text(void *context, chat_kind kind, const char *text, size_t n) {
    parse_call *p = context;
    strbuf_add(kind == CHAT_REASONING ? &p->reasoning : &p->content, text, n);
}

static void on_withdrawn(void *context, size_t n) { strbuf_drop_back(&((parse_call *)context)->content, n); }

static void on_call(void *context, const parsed_call *c) {
    parse_call *p = context;
    if (p->call_count == p->call_capacity) {
        p->call_capacity = p->call_capacity ? p->call_capacity * 2 : 8;
        p->call = memory_grow(p->call, p->call_capacity * sizeof *p->call);
    }
    found_call *f = &p->call[p->call_count++];
    *f = (found_call){.name = memory_copy_string(strbuf_text(&c->name)),
                      .arguments = memory_copy_string(strbuf_text(&c->arguments))};
    call_id_make(f->id);
}

static status parse(job *j) {
    static const chat_parser_events events = {on_text, on_withdrawn, on_call};
    parse_call *p = (parse_call *)work_of(j);
    const tokenizer *t = p->work.model->tokenizer;
    TRY(sampling_check_ids("token_ids", p->ids, p->id_count, core_facts(p->work.model)->vocab));
    p->parser = chat_parser_open(&(chat_parser_options){.tokenizer = t,
                                                        .starts_in_thought = p->starts_in_thought,
                                                        .thinking = p->thinking,
                                                        .events = &events,
                                                        .context = p});
    for (size_t i = 0; i < p->id_count; i++) chat_parser_add(p->parser, p->ids[i]);
    if (!p->says_end) p->was_cut = !chat_parser_at_end(p->parser);
    chat_parser_end(p->parser, !p->was_cut);
    return ST_OK;
}

static Gemmad__V1__ToolCall **call_messages(const parse_call *p) {
    size_t n = p->call_count;
    Gemmad__V1__ToolCall **list = memory_alloc(n * (sizeof *list + sizeof **list));
    Gemmad__V1__ToolCall *message = (Gemmad__V1__ToolCall *)(list + n);
    for (size_t i = 0; i < n; i++, message++) {
        gemmad__v1__tool_call__init(message);
        message->id = p->call[i].id;
        message->name = p->call[i].name;
        message->arguments_json = p->call[i].arguments;
        list[i] = message;
    }
    return list;
}

static void answer(parse_call *p) {
    Gemmad__V1__ParseChatResponse r = GEMMAD__V1__PARSE_CHAT_RESPONSE__INIT;
    Gemmad__V1__Message m = GEMMAD__V1__MESSAGE__INIT;
    Gemmad__V1__Part part = GEMMAD__V1__PART__INIT, *parts[] = {&part};
    chat_finish finish;
    chat_finish_make(&finish, p->parser);
    m.role = (char *)"assistant";
    part.part_case = GEMMAD__V1__PART__PART_TEXT;
    part.text = (ProtobufCBinaryData){p->content.size, (uint8_t *)p->content.data};
    m.n_content = p->content.size > 0;
    m.content = parts;
    m.has_reasoning = p->reasoning.size > 0;
    m.reasoning = (ProtobufCBinaryData){p->reasoning.size, (uint8_t *)p->reasoning.data};
    m.n_tool_calls = p->call_count;
    m.tool_calls = call_messages(p);
    r.message = &m;
    r.finish_reason = (char *)(p->was_cut ? "length" : p->call_count > 0 ? "tool_calls" : "stop");
    r.n_malformed = finish.malformed_count;
    r.malformed = finish.malformed;
    r.has_truncated_call = finish.has_truncated;
    r.truncated_call = finish.truncated;
    work_end(&p->work, &r.base);
    free(m.tool_calls);
    chat_finish_close(&finish);
}

static void parsed(job *j) {
    parse_call *p = (parse_call *)work_of(j);
    if (j->st == ST_OK) answer(p);
    else work_end(&p->work, NULL);
}

static status check(const Gemmad__V1__ParseChatRequest *r) {
    const char *reason = r->finish_reason;
    if (reason && reason[0] && strcmp(reason, "stop") && strcmp(reason, "length"))
        return fail(ST_INVALID, "finish_reason is \"%s\", and must be \"stop\" or \"length\"", reason);
    if (r->n_token_ids > LIMIT_CONTEXT_TOKENS)
        return fail(ST_INVALID, "token_ids has %zu ids, at most %d", r->n_token_ids, LIMIT_CONTEXT_TOKENS);
    return ST_OK;
}

void core_parse_chat(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__ParseChatRequest *r = (const Gemmad__V1__ParseChatRequest *)message;
    work_call *w = NULL;
    status st = check(r);
    if (st == ST_OK) st = work_open(&w, sizeof(parse_call), context, k, r->model, release);
    if (st != ST_OK) {
        core_refuse(k, st);
        return;
    }
    parse_call *p = (parse_call *)w;
    p->starts_in_thought = r->starts_in_thought;
    p->thinking = r->enable_thinking;
    p->says_end = r->finish_reason && r->finish_reason[0];
    p->was_cut = p->says_end && !strcmp(r->finish_reason, "length");
    p->id_count = r->n_token_ids;
    p->ids = memory_alloc_array(p->id_count, sizeof *p->ids);
    if (p->id_count > 0) memcpy(p->ids, r->token_ids, p->id_count * sizeof *p->ids);
    work_start(w, parse, parsed, core_job_of(p->id_count <= CORE_TINY_TOKENS, p->id_count));
}
