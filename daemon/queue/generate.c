/* Generate: from the request to a session at the engine. */
#include "daemon/queue/generate.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

const char *generate_why_text(const generate *g) {
    return g->why == ST_TIMEOUT ? "the deadline passed" : "the client cancelled the request";
}

void generate_finish(generate *g, status st, const char *text) {
    core *c = g->core;
    call *k = g->call;
    if (st != ST_OK)
        log_debug("generate %s of %s: %s: %s", g->ticket.request_id ? g->ticket.request_id : "",
                  k->peer ? k->peer : "", status_name(st), text);
    core_ticket_release(&g->ticket);
    sampling_close(&g->sampling);
    free(g->text);
    free(g->tokens);
    k->cancelled = NULL;
    k->ops->finish(k, st, text, st == ST_BUSY ? CORE_RETRY_AFTER_MS : 0);
    free(g);
    core_call_ends(c);
}

static void refuse(generate *g, status st) {
    char text[STATUS_TEXT_MAX];
    memcpy(text, status_text(), sizeof text);
    generate_finish(g, st, text);
}

/* What is left of the call's deadline; false: nothing. 0 in *left_ms: there is none. */
static bool deadline_left(const generate *g, uint64_t *left_ms) {
    uint64_t passed_ms = (clock_now_ns() - g->arrival_ns) / 1000000;
    *left_ms = 0;
    if (g->call->deadline_ms == 0) return true;
    if (passed_ms >= g->call->deadline_ms) return false;
    *left_ms = g->call->deadline_ms - passed_ms;
    return true;
}

static status submit(generate *g) {
    const model_facts *facts = &g->model->engine->facts;
    uint64_t left_ms;
    TRY(sampling_fit(&g->sampling, g->token_count, facts));
    TRY(sampling_check_ids(g->text ? "the prompt's token" : "token_ids", g->tokens, g->token_count,
                           facts->vocab));
    if (!deadline_left(g, &left_ms)) return fail(ST_TIMEOUT, "the deadline passed");
    g->prompt_tokens = (uint32_t)g->token_count;
    engine_request request = {.tokens = g->tokens,
                              .token_count = g->prompt_tokens,
                              .prompt_count = g->prompt_tokens,
                              .sampling = g->sampling.engine,
                              .priority = g->priority,
                              .deadline_ms = left_ms};
    session_options options = {.engine = g->model->engine,
                               .tokenizer = g->model->tokenizer,
                               .request = &request,
                               .stop = &g->sampling.stop,
                               .arrival_ns = g->arrival_ns,
                               .sink = &generate_sink,
                               .context = g};
    TRY(session_open(&g->session, &options));
    /* A million waiting tokens are 4 MB: the engine has its copy. */
    free(g->tokens);
    free(g->text);
    g->tokens = NULL;
    g->text = NULL;
    return ST_OK;
}

static status encode(job *j) {
    generate *g = (generate *)((char *)j - offsetof(generate, job));
    status st = tokenizer_encode(g->tokenizer, g->text, g->text_bytes, g->parse_special, LIMIT_PROMPT_BYTES,
                                 &g->tokens, &g->token_count);
    if (st != ST_OK) return fail_within(st, "text");
    if (!g->add_bos) return ST_OK;
    g->tokens = memory_grow(g->tokens, (g->token_count + 1) * sizeof *g->tokens);
    memmove(g->tokens + 1, g->tokens, g->token_count * sizeof *g->tokens);
    g->tokens[0] = g->bos;
    g->token_count++;
    return ST_OK;
}

static void encoded(job *j) {
    generate *g = (generate *)((char *)j - offsetof(generate, job));
    if (g->why != ST_OK) {
        generate_finish(g, g->why, generate_why_text(g));
    } else if (j->st != ST_OK) {
        generate_finish(g, j->st, j->text);
    } else {
        status st = submit(g);
        if (st != ST_OK) refuse(g, st);
    }
}

static status take_text(generate *g, const Gemmad__V1__GenerateRequest *r) {
    if (!g->model->tokenizer)
        return fail(ST_INVALID, "text: model %s has no tokenizer and takes token_ids only", g->model->name);
    if (r->text.len == 0) return fail(ST_INVALID, "text is empty");
    if (r->text.len > LIMIT_PROMPT_BYTES)
        return fail(ST_INVALID, "text has %zu bytes, at most %d", r->text.len, LIMIT_PROMPT_BYTES);
    g->add_bos = !r->has_add_bos || r->add_bos;
    g->bos = g->model->engine->facts.bos_token;
    g->parse_special = !r->has_parse_special || r->parse_special;
    g->tokenizer = g->model->tokenizer;
    g->text_bytes = r->text.len;
    g->text = memory_alloc(r->text.len + 1);
    memcpy(g->text, r->text.data, r->text.len);
    return ST_OK;
}

static status take_ids(generate *g, const Gemmad__V1__TokenIds *ids) {
    if (!ids || ids->n_ids == 0) return fail(ST_INVALID, "token_ids is empty");
    /* Before they are copied: a message holds more ids than any context. */
    TRY(sampling_fit(&g->sampling, ids->n_ids, &g->model->engine->facts));
    g->token_count = ids->n_ids;
    g->tokens = memory_alloc_array(ids->n_ids, sizeof *g->tokens);
    memcpy(g->tokens, ids->ids, ids->n_ids * sizeof *g->tokens);
    return ST_OK;
}

static status prepare(generate *g, const Gemmad__V1__GenerateRequest *r) {
    TRY(core_find_model(g->core, r->model, &g->model));
    const model_facts *facts = &g->model->engine->facts;
    if (r->has_resume_from)
        return fail(ST_UNSUPPORTED, "resume_from is %u: resuming is not built yet", r->resume_from);
    TRY(sampling_read(&g->sampling, r->sampling, facts, g->model->tokenizer != NULL));
    g->seed = g->sampling.engine.seed;
    g->priority = r->priority;
    switch (r->prompt_case) {
    case GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT: TRY(take_text(g, r)); break;
    case GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS: TRY(take_ids(g, r->token_ids)); break;
    default: return fail(ST_INVALID, "there is no prompt: text and token_ids are both absent");
    }
    return core_admit(g->core, g->model, g->call->peer, r->request_id, &g->ticket);
}

static void cancelled(call *k, void *context, status why) {
    generate *g = context;
    (void)k;
    g->why = why;
    if (g->session) session_cancel(g->session, why, generate_why_text(g));
    else job_cancel(&g->job);
}

void core_generate(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__GenerateRequest *r = (const Gemmad__V1__GenerateRequest *)message;
    generate *g = memory_alloc(sizeof *g);
    g->core = context;
    g->call = k;
    g->arrival_ns = clock_now_ns();
    core_call_begins(g->core);
    status st = prepare(g, r);
    if (st == ST_OK && !g->text) st = submit(g);
    if (st != ST_OK) {
        refuse(g, st);
        return;
    }
    k->cancelled = cancelled;
    k->context = g;
    if (!g->text) return;
    g->job.run = encode;
    g->job.done = encoded;
    job_start(g->core->loop, &g->job, g->text_bytes <= CORE_TINY_BYTES);
}
