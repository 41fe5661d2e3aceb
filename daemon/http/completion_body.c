#include "daemon/http/completion_body.h"

#include <stdio.h>
#include <string.h>

#include "proto/limits.h"

static const body_field fields[] = {
    SAMPLING_BODY_FIELDS,
    {"prompt", NULL, NULL},
    {"echo", NULL, NULL},
    {"add_special_tokens", NULL, NULL},
    {"suffix", "\"\"", "the model fills no gaps"},
    {"return_tokens_as_token_ids", "false", NULL},
    {"store", "*", NULL},
    {"service_tier", "*", NULL},
};

/* ---- prompts ---- */

static status take_text(body *b, const json_value *v, const char *param, completion_prompt *p) {
    if (v->bytes == 0) return body_invalid(b, param, "it is empty");
    p->request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
    p->request.text = (ProtobufCBinaryData){v->bytes, (uint8_t *)(uintptr_t)v->text};
    return ST_OK;
}

static status take_ids(body *b, const json_value *v, const char *param, completion_prompt *p) {
    if (v->count > LIMIT_CONTEXT_TOKENS)
        return body_invalid(b, param, "it has %u token ids, at most %d", v->count, LIMIT_CONTEXT_TOKENS);
    gemmad__v1__token_ids__init(&p->ids);
    p->ids.ids = arena_alloc(&b->memory, v->count, sizeof *p->ids.ids);
    for (const json_value *m = v->first; m; m = m->next) {
        int64_t id;
        if (!json_value_integer(m, &id) || id < 0 || id >= LIMIT_VOCAB)
            return body_invalid(b, param, "element %zu is no token id", p->ids.n_ids);
        p->ids.ids[p->ids.n_ids++] = (uint32_t)id;
    }
    p->request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    p->request.token_ids = &p->ids;
    return ST_OK;
}

static status take_prompt(body *b, const json_value *v, const char *param, completion_prompt *p) {
    gemmad__v1__generate_request__init(&p->request);
    if (v->kind == JSON_KIND_STRING) return take_text(b, v, param, p);
    if (v->kind == JSON_KIND_ARRAY && v->count > 0) return take_ids(b, v, param, p);
    return body_invalid(b, param, "it must be a string or an array of token ids, and not empty");
}

static status read_prompts(body *b, completion_body *out) {
    const json_value *v = body_get(b->root, "prompt");
    char where[48];
    if (!v) return body_invalid(b, "prompt", "it is missing");
    /* An array of numbers is one prompt of token ids. */
    bool list = v->kind == JSON_KIND_ARRAY && v->first &&
                (v->first->kind == JSON_KIND_STRING || v->first->kind == JSON_KIND_ARRAY);
    uint32_t samples = out->common.sampling.has_n ? out->common.sampling.n : 1, count = list ? v->count : 1;
    if (count > COMPLETION_PROMPTS_MAX || count * samples > COMPLETION_PROMPTS_MAX)
        return body_invalid(b, "prompt", "%u prompts of %u samples, together at most %d", count, samples,
                            COMPLETION_PROMPTS_MAX);
    out->prompt = arena_alloc(&b->memory, count, sizeof *out->prompt);
    if (!list) {
        out->count = 1;
        return take_prompt(b, v, "prompt", out->prompt);
    }
    for (const json_value *m = v->first; m; m = m->next) {
        snprintf(where, sizeof where, "prompt[%u]", out->count);
        TRY(take_prompt(b, m, where, &out->prompt[out->count++]));
    }
    return ST_OK;
}

/* ---- the rest ---- */

static status read_limits(body *b, completion_body *out) {
    Gemmad__V1__Sampling *s = &out->common.sampling;
    TRY(body_read_bool(b, b->root, "echo", &out->echo));
    TRY(body_read_u32(b, b->root, "max_tokens", out->echo ? 0 : 1, LIMIT_CONTEXT_TOKENS, &s->max_tokens,
                      &s->has_max_tokens));
    /* As OpenAI has it; a chat ends by itself, a raw text need not. */
    if (!s->has_max_tokens) s->max_tokens = 16;
    s->has_max_tokens = 1;
    out->no_tokens = s->max_tokens == 0;
    if (out->no_tokens) s->max_tokens = 1;
    return ST_OK;
}

static status read_logprobs(body *b, completion_body *out) {
    Gemmad__V1__Sampling *s = &out->common.sampling;
    int has;
    if (body_get(b->root, "prompt_logprobs"))
        return body_unsupported(b, "prompt_logprobs",
                                "use echo and logprobs, with max_tokens 0 for the prompt alone");
    TRY(body_read_u32(b, b->root, "logprobs", 0, HTTP_LOGPROBS_MAX, &out->top, &has));
    out->logprobs = has;
    if (!has) return ST_OK;
    s->has_logprobs = 1;
    s->logprobs = out->top;
    if (!out->echo) return ST_OK;
    s->has_want_prompt_logprobs = s->want_prompt_logprobs = 1;
    s->has_prompt_logprobs = 1;
    s->prompt_logprobs = out->top;
    /* The prompt's come with its first sample, perhaps after text of another. */
    if (out->common.stream && s->has_n && s->n > 1)
        return body_unsupported(b, "stream", "echo with logprobs and n over 1 is answered whole only");
    return ST_OK;
}

status completion_body_read(body *b, completion_body *out) {
    TRY(body_check_fields(b, b->root, "", fields, sizeof fields / sizeof *fields));
    out->add_bos = true;
    TRY(sampling_body_read(b, &out->common));
    TRY(read_limits(b, out));
    TRY(read_logprobs(b, out));
    TRY(body_read_bool(b, b->root, "add_special_tokens", &out->add_bos));
    TRY(read_prompts(b, out));
    for (uint32_t i = 0; i < out->count; i++) {
        Gemmad__V1__GenerateRequest *r = &out->prompt[i].request;
        r->model = (char *)(uintptr_t)out->common.model;
        r->sampling = &out->common.sampling;
        r->response_format = out->common.format;
        r->has_priority = r->has_add_bos = 1;
        r->priority = out->common.priority;
        r->add_bos = out->add_bos;
    }
    return ST_OK;
}
