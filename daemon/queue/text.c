/* Tokenize and Detokenize. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/strbuf.h"
#include "daemon/queue/sampling.h"
#include "daemon/queue/work_call.h"

typedef struct text_call {
    work_call work;
    bool flag; /* parse_special or skip_special */
    bool add_bos;
    uint32_t bos;
    strbuf text;
    uint32_t *ids;
    size_t id_count;
} text_call;

static text_call *of_job(job *j) { return (text_call *)work_of(j); }

static void release(work_call *w) {
    text_call *t = (text_call *)w;
    strbuf_close(&t->text);
    free(t->ids);
}

static status begin(core *c, call *k, const char *model, text_call **out) {
    work_call *w;
    TRY(work_open(&w, sizeof **out, c, k, model, release));
    *out = (text_call *)w;
    (*out)->bos = core_facts(w->model)->bos_token;
    (*out)->text.max = LIMIT_MESSAGE_BYTES - 16; /* what stands before it in the answer's message */
    return ST_OK;
}

static status encode(job *j) {
    text_call *t = of_job(j);
    uint32_t *ids;
    size_t n;
    status st = tokenizer_encode(t->work.model->tokenizer, strbuf_text(&t->text), t->text.size, t->flag,
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
    work_end(&t->work, j->st == ST_OK ? &r.base : NULL);
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
    work_start(&t->work, encode, encoded, core_job_of(r->text.len <= CORE_TINY_BYTES, r->text.len));
}

static status decode(job *j) {
    text_call *t = of_job(j);
    TRY(sampling_check_ids("token_ids", t->ids, t->id_count, tokenizer_vocab_size(t->work.model->tokenizer)));
    TRY(tokenizer_decode(t->work.model->tokenizer, t->ids, t->id_count, t->flag, &t->text));
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
    work_end(&t->work, j->st == ST_OK ? &r.base : NULL);
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
    work_start(&t->work, decode, decoded, core_job_of(r->n_token_ids <= CORE_TINY_TOKENS, r->n_token_ids));
}
