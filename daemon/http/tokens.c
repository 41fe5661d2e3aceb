/* POST /tokenize and /detokenize, with vLLM's names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/http/chat_body.h"
#include "daemon/http/task.h"
#include "proto/limits.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

enum { WRITE_HERE_IDS = 4096 }; /* more are written on a worker */

typedef struct tokens_task {
    task task; /* first */
    remote remote;
    Gemmad__V1__TokenizeRequest tokenize;
    Gemmad__V1__DetokenizeRequest detokenize;
    chat_body chat;
    bool of_messages, token_texts;
    const char *model;
    uint32_t context;
    const tokenizer *tokenizer;
    job job;
    uint32_t *ids;
    size_t count;
    strbuf json;
} tokens_task;

static tokens_task *of_task(task *t) { return (tokens_task *)(void *)t; }

/* ---- the answer ---- */

static status write_ids(job *j) {
    tokens_task *t = (tokens_task *)((char *)j - offsetof(tokens_task, job));
    strbuf *out = &t->json;
    out_object(out, NULL);
    out_number(out, "count", t->count);
    out_number(out, "max_model_len", t->context);
    out_array(out, "tokens");
    for (size_t i = 0; i < t->count; i++) out_number(out, NULL, t->ids[i]);
    out_end_array(out);
    if (!t->token_texts || !t->tokenizer) {
        out_null(out, "token_strs");
    } else {
        out_array(out, "token_strs");
        for (size_t i = 0; i < t->count; i++) {
            size_t n = 0;
            const char *bytes = tokenizer_bytes(t->tokenizer, t->ids[i], &n);
            out_text(out, NULL, bytes, n);
        }
        out_end_array(out);
    }
    out_end_object(out);
    return ST_OK;
}

static void ids_written(job *j) {
    tokens_task *t = (tokens_task *)((char *)j - offsetof(tokens_task, job));
    http_answer_json(t->task.exchange, 200, &t->json);
    task_end(&t->task);
}

static void keep_ids(tokens_task *t, const uint32_t *ids, size_t count) {
    t->count = count;
    t->ids = memory_alloc_array(count, sizeof *t->ids);
    if (count > 0) memcpy(t->ids, ids, count * sizeof *ids);
}

static void on_ids(remote *r, const ProtobufCMessage *message) {
    tokens_task *t = r->owner;
    const Gemmad__V1__RenderChatResponse *rendered = (const Gemmad__V1__RenderChatResponse *)message;
    const Gemmad__V1__TokenizeResponse *encoded = (const Gemmad__V1__TokenizeResponse *)message;
    if (t->of_messages) keep_ids(t, rendered->token_ids, rendered->n_token_ids);
    else keep_ids(t, encoded->token_ids, encoded->n_token_ids);
}

static void on_text(remote *r, const ProtobufCMessage *message) {
    tokens_task *t = r->owner;
    const Gemmad__V1__DetokenizeResponse *m = (const Gemmad__V1__DetokenizeResponse *)message;
    out_object(&t->json, NULL);
    out_text(&t->json, "prompt", m->text.data, m->text.len);
    out_end_object(&t->json);
}

static void on_encoded(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    tokens_task *t = r->owner;
    if (st != ST_OK) {
        task_refuse(t->task.exchange, st, text, retry_after_ms);
        task_end(&t->task);
        return;
    }
    t->job.run = write_ids;
    t->job.done = ids_written;
    job_start(http_loop(t->task.exchange), &t->job, t->count <= WRITE_HERE_IDS);
}

static void on_decoded(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    tokens_task *t = r->owner;
    if (st != ST_OK) task_refuse(t->task.exchange, st, text, retry_after_ms);
    else http_answer_json(t->task.exchange, 200, &t->json);
    task_end(&t->task);
}

/* ---- /tokenize ---- */

static status read_tokenize(task *base) {
    static const body_field fields[] = {{"model", NULL, NULL},
                                        {"prompt", NULL, NULL},
                                        {"add_special_tokens", NULL, NULL},
                                        {"return_token_strs", NULL, NULL}};
    tokens_task *t = of_task(base);
    body *b = &base->body;
    const json_value *prompt = NULL;
    bool add_bos = true;
    if (body_get(b->root, "messages")) {
        t->of_messages = true;
        TRY(chat_body_read(b, &t->chat));
        t->model = t->chat.request.model;
        return ST_OK;
    }
    TRY(body_check_fields(b, b->root, "", fields, COUNT(fields)));
    TRY(body_read_string(b, b->root, "model", &t->model));
    TRY(body_read_text(b, b->root, "prompt", &prompt));
    if (!prompt) return body_invalid(b, "prompt", "it is missing; a string, or messages in its place");
    TRY(body_read_bool(b, b->root, "add_special_tokens", &add_bos));
    TRY(body_read_bool(b, b->root, "return_token_strs", &t->token_texts));
    gemmad__v1__tokenize_request__init(&t->tokenize);
    t->tokenize.model = (char *)(uintptr_t)t->model;
    t->tokenize.has_text = t->tokenize.has_add_bos = t->tokenize.has_parse_special = 1;
    t->tokenize.text = (ProtobufCBinaryData){prompt->bytes, (uint8_t *)(uintptr_t)prompt->text};
    t->tokenize.add_bos = add_bos;
    t->tokenize.parse_special = 1; /* as /v1/completions reads its prompt */
    return ST_OK;
}

static void on_models(remote *r, const ProtobufCMessage *message) {
    tokens_task *t = r->owner;
    const Gemmad__V1__ListModelsResponse *all = (const Gemmad__V1__ListModelsResponse *)message;
    for (size_t i = 0; i < all->n_models; i++)
        if (!t->model || !*t->model ? i == 0 : !strcmp(t->model, all->models[i]->name))
            t->context = all->models[i]->context_tokens;
}

static void on_listed(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    (void)r, (void)st, (void)text, (void)retry_after_ms;
}

static void begin_tokenize(task *base) {
    static const Gemmad__V1__ListModelsRequest list = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    tokens_task *t = of_task(base);
    const openai_backend *b = &base->api->backend;
    t->remote = (remote){.exchange = base->exchange, .event = on_models, .finished = on_listed, .owner = t};
    remote_start(&t->remote, base->api, "/gemmad.v1.Inference/ListModels", &list.base);
    t->tokenizer = b->tokenizer(b->core, openai_model_name(base->api, base->exchange, t->model));
    t->remote = (remote){.exchange = base->exchange, .event = on_ids, .finished = on_encoded, .owner = t};
    if (t->of_messages)
        remote_start(&t->remote, base->api, "/gemmad.v1.Inference/RenderChat", &t->chat.request.base);
    else remote_start(&t->remote, base->api, "/gemmad.v1.Inference/Tokenize", &t->tokenize.base);
}

/* ---- /detokenize ---- */

static status read_detokenize(task *base) {
    static const body_field fields[] = {{"model", NULL, NULL}, {"tokens", NULL, NULL}};
    tokens_task *t = of_task(base);
    body *b = &base->body;
    Gemmad__V1__DetokenizeRequest *r = &t->detokenize;
    TRY(body_check_fields(b, b->root, "", fields, COUNT(fields)));
    TRY(body_read_string(b, b->root, "model", &t->model));
    const json_value *list = body_get(b->root, "tokens");
    if (!list || list->kind != JSON_KIND_ARRAY)
        return body_invalid(b, "tokens", "it must be an array of token ids");
    gemmad__v1__detokenize_request__init(r);
    r->model = (char *)(uintptr_t)t->model;
    r->token_ids = arena_alloc(&b->memory, list->count, sizeof *r->token_ids);
    for (const json_value *m = list->first; m; m = m->next) {
        int64_t id;
        if (!json_value_integer(m, &id) || id < 0 || id >= LIMIT_VOCAB)
            return body_invalid(b, "tokens", "element %zu is no token id", r->n_token_ids);
        r->token_ids[r->n_token_ids++] = (uint32_t)id;
    }
    return ST_OK;
}

static void begin_detokenize(task *base) {
    tokens_task *t = of_task(base);
    t->remote = (remote){.exchange = base->exchange, .event = on_text, .finished = on_decoded, .owner = t};
    remote_start(&t->remote, base->api, "/gemmad.v1.Inference/Detokenize", &t->detokenize.base);
}

/* ---- both ---- */

static void left(task *base) { remote_cancel(&of_task(base)->remote); }

static void close_task(task *base) {
    free(of_task(base)->ids);
    strbuf_close(&of_task(base)->json);
}

void openai_tokenize(void *context, http_exchange *x) {
    static const task_endpoint endpoint = {sizeof(tokens_task), read_tokenize, begin_tokenize, left, NULL,
                                           close_task};
    task_start(context, x, &endpoint);
}

void openai_detokenize(void *context, http_exchange *x) {
    static const task_endpoint endpoint = {sizeof(tokens_task), read_detokenize, begin_detokenize, left, NULL,
                                           close_task};
    task_start(context, x, &endpoint);
}
