/* Generate: a prompt of text or token ids, and an answer that is its tokens' text. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/queue/generation.h"
#include "proto/message.h"

typedef struct generate {
    generation base;
    char *text; /* NULL: the prompt came as ids */
    size_t text_bytes;
    bool parse_special, add_bos;
    uint32_t bos;
    uint8_t *format; /* the response_format, packed, until the grammar is made; NULL: any text */
    size_t format_bytes;
} generate;

static status encode(generate *g) {
    generation *base = &g->base;
    status st = tokenizer_encode(base->model->tokenizer, g->text, g->text_bytes, g->parse_special,
                                 LIMIT_PROMPT_BYTES, &base->tokens, &base->token_count);
    if (st != ST_OK) return fail_within(st, "text");
    free(g->text);
    g->text = NULL;
    if (!g->add_bos) return ST_OK;
    base->tokens = memory_grow(base->tokens, (base->token_count + 1) * sizeof *base->tokens);
    memmove(base->tokens + 1, base->tokens, base->token_count * sizeof *base->tokens);
    base->tokens[0] = g->bos;
    base->token_count++;
    return ST_OK;
}

static status make_form(generate *g, const chat_grammar **out) {
    const generation *base = &g->base;
    const generation_ends ends = generation_end_tokens(base->model);
    const chat_grammar_model model = {base->model->tokenizer, ends.id, ends.count};
    ProtobufCMessage *format;
    TRY(message_unpack(&gemmad__v1__response_format__descriptor, g->format, g->format_bytes, &format));
    free(g->format);
    g->format = NULL;
    status st =
        chat_grammar_make_format(out, base->core->forms, &model, (Gemmad__V1__ResponseFormat *)format);
    protobuf_c_message_free_unpacked(format, NULL);
    return st;
}

static status make_prompt(generation *base) {
    generate *g = (generate *)base;
    const chat_grammar *form = NULL;
    if (g->text) TRY(encode(g));
    if (g->format) TRY(make_form(g, &form));
    return generation_take_grammar(base, form);
}

static void send_event(generation *g, generation_event kind, void *message) {
    Gemmad__V1__GenerateEvent e = GEMMAD__V1__GENERATE_EVENT__INIT;
    e.event_case = (Gemmad__V1__GenerateEvent__EventCase)kind;
    e.started = message; /* one of a union of pointers */
    g->call->ops->send(g->call, &e.base);
}

static void delta(generation *g, uint32_t index, const answer_part *part) {
    Gemmad__V1__GenerateDelta d = GEMMAD__V1__GENERATE_DELTA__INIT;
    generation_tokens tokens;
    generation_tokens_make(&tokens, part);
    d.has_index = d.has_text = 1;
    d.index = index;
    d.text = (ProtobufCBinaryData){part->text_bytes, (uint8_t *)part->text};
    d.n_token_ids = tokens.id_count;
    d.token_ids = tokens.ids;
    d.n_logprobs = tokens.logprob_count;
    d.logprobs = tokens.logprobs;
    send_event(g, GENERATION_DELTA, &d);
    generation_tokens_close(&tokens);
}

static void close_request(generation *base) {
    generate *g = (generate *)base;
    free(g->text);
    free(g->format);
}

static status take_format(generate *g, const Gemmad__V1__ResponseFormat *format) {
    size_t n = protobuf_c_message_get_packed_size(&format->base);
    if (n > LIMIT_PROMPT_BYTES)
        return fail(ST_INVALID, "response_format has %zu bytes, at most %d", n, LIMIT_PROMPT_BYTES);
    g->format = memory_alloc(n + 1);
    g->format_bytes = protobuf_c_message_pack(&format->base, g->format);
    return ST_OK;
}

static status take_text(generate *g, const Gemmad__V1__GenerateRequest *r) {
    generation *base = &g->base;
    if (!base->model->tokenizer)
        return fail(ST_INVALID, "text: model %s has no tokenizer and takes token_ids only",
                    base->model->name);
    if (r->text.len == 0) return fail(ST_INVALID, "text is empty");
    if (r->text.len > LIMIT_PROMPT_BYTES)
        return fail(ST_INVALID, "text has %zu bytes, at most %d", r->text.len, LIMIT_PROMPT_BYTES);
    g->add_bos = !r->has_add_bos || r->add_bos;
    g->bos = core_facts(base->model)->bos_token;
    g->parse_special = !r->has_parse_special || r->parse_special;
    g->text_bytes = r->text.len;
    g->text = memory_alloc(r->text.len + 1);
    memcpy(g->text, r->text.data, r->text.len);
    request_log_prompt(&base->log, base->core, g->text, g->text_bytes);
    return ST_OK;
}

static status take_ids(generation *g, const Gemmad__V1__TokenIds *ids) {
    if (!ids || ids->n_ids == 0) return fail(ST_INVALID, "token_ids is empty");
    /* Before they are copied: a message holds more ids than any context. */
    TRY(sampling_fit(&g->sampling, ids->n_ids, core_facts(g->model)));
    g->token_count = ids->n_ids;
    g->tokens = memory_alloc_array(ids->n_ids, sizeof *g->tokens);
    memcpy(g->tokens, ids->ids, ids->n_ids * sizeof *g->tokens);
    return ST_OK;
}

static status prepare(generate *g, const Gemmad__V1__GenerateRequest *r) {
    const generation_request request = {.model = r->model,
                                        .sampling = r->sampling,
                                        .has_resume_from = r->has_resume_from,
                                        .resume_from = r->resume_from,
                                        .priority = r->priority};
    TRY(generation_read(&g->base, &request));
    switch (r->prompt_case) {
    case GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT: TRY(take_text(g, r)); break;
    case GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS: TRY(take_ids(&g->base, r->token_ids)); break;
    default: return fail(ST_INVALID, "there is no prompt: text and token_ids are both absent");
    }
    if (r->response_format) TRY(take_format(g, r->response_format));
    return generation_admit(&g->base, r->request_id);
}

void core_generate(void *context, call *k, const ProtobufCMessage *message) {
    static const generation_ops made = {make_prompt, send_event, delta, close_request};
    static const generation_ops given = {NULL, send_event, delta, NULL};
    const Gemmad__V1__GenerateRequest *r = (const Gemmad__V1__GenerateRequest *)message;
    bool is_text = r->prompt_case == GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
    const generation_ops *ops = is_text || r->response_format ? &made : &given;
    generate *g = (generate *)generation_open(sizeof *g, ops, context, k);
    g->base.prompt_field = is_text ? "the prompt's token" : "token_ids";
    status st = prepare(g, r);
    generation_start(&g->base, st,
                     g->format ? CORE_JOB_LONG
                               : core_job_of(g->text_bytes <= CORE_TINY_BYTES, g->text_bytes));
}
