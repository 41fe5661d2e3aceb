/* Tokenize and Detokenize. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/strbuf.h"
#include "daemon/queue/core_internal.h"
#include "daemon/queue/job.h"
#include "daemon/queue/sampling.h"

typedef struct text_call {
    core *core;
    call *call;
    const tokenizer *tokenizer;
    job job;
    status why; /* not ST_OK: the client gave up */
    bool flag;  /* parse_special or skip_special */
    bool add_bos;
    uint32_t bos;
    strbuf text;
    uint32_t *ids;
    size_t id_count;
} text_call;

static text_call *of_job(job *j) { return (text_call *)((char *)j - offsetof(text_call, job)); }

static void cancelled(call *k, void *context, status why) {
    text_call *t = context;
    (void)k;
    t->why = why;
    job_cancel(&t->job);
}

/* The request fits the model; the rest is a job's. *out is freed by end(). */
static status begin(core *c, call *k, const char *model, text_call **out) {
    core_model *m;
    TRY(core_enter(c, k, model, &m));
    if (!m->tokenizer)
        return fail(ST_INVALID, "model %s has no tokenizer and works on token ids only", m->name);
    text_call *t = memory_alloc(sizeof *t);
    t->core = c;
    t->call = k;
    t->tokenizer = m->tokenizer;
    t->bos = core_facts(m)->bos_token;
    t->text.max = LIMIT_MESSAGE_BYTES - 16; /* what stands before it in the answer's message */
    *out = t;
    core_call_begins(c);
    return ST_OK;
}

static void start(text_call *t, status (*run)(job *), void (*done)(job *), bool tiny) {
    t->job.run = run;
    t->job.done = done;
    t->call->cancelled = cancelled;
    t->call->context = t;
    job_start(t->core->loop, &t->job, tiny);
}

/* message NULL: the job's status and sentence, or the reason why the client gave up. */
static void end(text_call *t, const ProtobufCMessage *message) {
    core *c = t->core;
    t->call->cancelled = NULL;
    if (t->why != ST_OK) core_refuse(t->call, fail(t->why, "the client no longer waits"));
    else if (!message) t->call->ops->finish(t->call, t->job.st, t->job.text, 0);
    else if (protobuf_c_message_get_packed_size(message) > LIMIT_MESSAGE_BYTES)
        core_refuse(t->call, fail(ST_INVALID, "the answer has %zu bytes, at most %d; ask for less at once",
                                  protobuf_c_message_get_packed_size(message), LIMIT_MESSAGE_BYTES));
    else core_answer(t->call, message);
    strbuf_close(&t->text);
    free(t->ids);
    free(t);
    core_call_ends(c);
}

static status encode(job *j) {
    text_call *t = of_job(j);
    uint32_t *ids;
    size_t n;
    status st = tokenizer_encode(t->tokenizer, strbuf_text(&t->text), t->text.size, t->flag,
                                 LIMIT_PROMPT_BYTES, &ids, &n);
    if (st != ST_OK) return fail_within(st, "text");
    t->id_count = n + t->add_bos;
    t->ids = memory_alloc_array(t->id_count, sizeof *t->ids);
    if (t->add_bos) t->ids[0] = t->bos;
    if (n > 0) memcpy(t->ids + t->add_bos, ids, n * sizeof *ids);
    free(ids);
    return ST_OK;
}

static void encoded(job *j) {
    text_call *t = of_job(j);
    Gemmad__V1__TokenizeResponse r = GEMMAD__V1__TOKENIZE_RESPONSE__INIT;
    r.n_token_ids = t->id_count;
    r.token_ids = t->ids;
    end(t, j->st == ST_OK ? &r.base : NULL);
}

void core_tokenize(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__TokenizeRequest *r = (const Gemmad__V1__TokenizeRequest *)message;
    text_call *t;
    status st = ST_OK;
    if (r->text.len > LIMIT_PROMPT_BYTES)
        st = fail(ST_INVALID, "text has %zu bytes, at most %d", r->text.len, LIMIT_PROMPT_BYTES);
    if (st == ST_OK) st = begin(context, k, r->model, &t);
    if (st != ST_OK) {
        core_refuse(k, st);
        return;
    }
    t->flag = r->parse_special;
    t->add_bos = r->add_bos;
    strbuf_add(&t->text, r->text.data, r->text.len);
    start(t, encode, encoded, r->text.len <= CORE_TINY_BYTES);
}

static status decode(job *j) {
    text_call *t = of_job(j);
    TRY(sampling_check_ids("token_ids", t->ids, t->id_count, tokenizer_vocab_size(t->tokenizer)));
    TRY(tokenizer_decode(t->tokenizer, t->ids, t->id_count, t->flag, &t->text));
    if (t->text.full)
        return fail(ST_INVALID, "the text of these %zu tokens has more than %zu bytes", t->id_count,
                    t->text.max);
    return ST_OK;
}

static void decoded(job *j) {
    text_call *t = of_job(j);
    Gemmad__V1__DetokenizeResponse r = GEMMAD__V1__DETOKENIZE_RESPONSE__INIT;
    r.has_text = 1;
    r.text = (ProtobufCBinaryData){t->text.size, (uint8_t *)t->text.data};
    end(t, j->st == ST_OK ? &r.base : NULL);
}

void core_detokenize(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__DetokenizeRequest *r = (const Gemmad__V1__DetokenizeRequest *)message;
    text_call *t;
    status st = begin(context, k, r->model, &t);
    if (st != ST_OK) {
        core_refuse(k, st);
        return;
    }
    t->flag = r->skip_special;
    t->id_count = r->n_token_ids;
    t->ids = memory_alloc_array(r->n_token_ids, sizeof *t->ids);
    if (r->n_token_ids > 0) memcpy(t->ids, r->token_ids, r->n_token_ids * sizeof *t->ids);
    start(t, decode, decoded, r->n_token_ids <= CORE_TINY_TOKENS);
}
