#include "daemon/engine/requests.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/engine/failure.h"

enum { BUCKETS = 1024 };

typedef struct request request;
struct request {
    request *next;
    uint64_t id;
    engine_listener listener;
    void *context;
    uint32_t prompt_count, tokens_left, prompt_position; /* the next position with a prompt log-probability */
    int32_t logprobs, prompt_logprobs;
    bool started;
};

struct request_table {
    request *bucket[BUCKETS];
    uint32_t count;
};

request_table *requests_open(void) { return memory_alloc(sizeof(request_table)); }

void requests_close(request_table *t) {
    if (!t) return;
    INVARIANT(t->count == 0);
    free(t);
}

uint32_t requests_count(const request_table *t) { return t->count; }

static request *find(const request_table *t, uint64_t id) {
    request *r = t->bucket[id % BUCKETS];
    while (r && r->id != id) r = r->next;
    return r;
}

bool requests_has(const request_table *t, uint64_t id) { return find(t, id) != NULL; }

void requests_add(request_table *t, uint64_t id, const engine_request *q, const engine_listener *l,
                  void *context) {
    INVARIANT(!find(t, id));
    request *r = memory_alloc(sizeof *r);
    r->id = id;
    r->listener = *l;
    r->context = context;
    r->prompt_count = q->prompt_count;
    r->tokens_left = q->sampling.max_tokens - (q->token_count - q->prompt_count);
    r->prompt_position = 1;
    r->logprobs = q->sampling.logprobs;
    r->prompt_logprobs = q->sampling.prompt_logprobs;
    r->next = t->bucket[id % BUCKETS];
    t->bucket[id % BUCKETS] = r;
    t->count++;
}

static void take_out(request_table *t, request *r) {
    request **at = &t->bucket[r->id % BUCKETS];
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    t->count--;
}

static status find_started(const request_table *t, const char *kind, uint64_t id, request **out) {
    *out = find(t, id);
    if (!*out) return fail(ST_FORMAT, "%s: no request has the id %llu", kind, (unsigned long long)id);
    if (!(*out)->started)
        return fail(ST_FORMAT, "%s: request %llu has not started", kind, (unsigned long long)id);
    return ST_OK;
}

/* ---- frames ---- */

static status handle_started(request_table *t, const Gemmad__Engine__Started *m) {
    request *r = find(t, m->id);
    if (!r) return fail(ST_FORMAT, "started: no request has the id %llu", (unsigned long long)m->id);
    if (r->started)
        return fail(ST_FORMAT, "started: request %llu has started before", (unsigned long long)m->id);
    if (m->cached_tokens > r->prompt_count + r->tokens_left)
        return fail(ST_FORMAT, "started: cached_tokens is %u, the prompt has %u", m->cached_tokens,
                    r->prompt_count);
    r->started = true;
    if (r->listener.started) r->listener.started(r->context, m->cached_tokens);
    return ST_OK;
}

static status handle_progress(request_table *t, const Gemmad__Engine__Progress *m) {
    request *r;
    TRY(find_started(t, "progress", m->id, &r));
    if (r->listener.progress) r->listener.progress(r->context, m->prefilled_tokens);
    return ST_OK;
}

static status check_tops(const char *kind, Gemmad__Engine__TokenLogprob *const *p, size_t n, int32_t asked) {
    for (size_t i = 0; i < n; i++)
        if (p[i]->n_top > (size_t)asked)
            return fail(ST_FORMAT, "%s: %zu top entries, %d were asked for", kind, p[i]->n_top, asked);
    return ST_OK;
}

/* One block: the n entries, then every top entry. */
static engine_logprob *unpack_logprobs(Gemmad__Engine__TokenLogprob *const *p, size_t n) {
    size_t tops = 0;
    for (size_t i = 0; i < n; i++) tops += p[i]->n_top;
    engine_logprob *out = memory_alloc(n * sizeof *out + tops * sizeof(engine_top) + 1);
    engine_top *top = (engine_top *)(void *)(out + n);
    for (size_t i = 0; i < n; i++) {
        out[i] = (engine_logprob){.token = p[i]->token_id,
                                  .logprob = p[i]->logprob,
                                  .top = top,
                                  .top_count = (uint32_t)p[i]->n_top};
        for (size_t k = 0; k < p[i]->n_top; k++)
            *top++ = (engine_top){.token = p[i]->top[k]->token_id, .logprob = p[i]->top[k]->logprob};
    }
    return out;
}

static status handle_prompt_logprobs(request_table *t, const Gemmad__Engine__PromptLogprobs *m) {
    static const char kind[] = "prompt_logprobs";
    request *r;
    TRY(find_started(t, kind, m->id, &r));
    if (r->prompt_logprobs < 0)
        return fail(ST_FORMAT, "%s: request %llu did not ask for them", kind, (unsigned long long)m->id);
    if (m->first_position != r->prompt_position)
        return fail(ST_FORMAT, "%s: first_position is %u, %u is next", kind, m->first_position,
                    r->prompt_position);
    if (m->n_logprobs > r->prompt_count - r->prompt_position)
        return fail(ST_FORMAT, "%s: %zu from position %u, the prompt has %u", kind, m->n_logprobs,
                    m->first_position, r->prompt_count);
    TRY(check_tops(kind, m->logprobs, m->n_logprobs, r->prompt_logprobs));
    r->prompt_position += (uint32_t)m->n_logprobs;
    engine_logprob *p = unpack_logprobs(m->logprobs, m->n_logprobs);
    if (r->listener.prompt_logprobs)
        r->listener.prompt_logprobs(r->context, m->first_position, p, (uint32_t)m->n_logprobs);
    free(p);
    return ST_OK;
}

static status handle_tokens(request_table *t, const Gemmad__Engine__Tokens *m) {
    request *r;
    TRY(find_started(t, "tokens", m->id, &r));
    if (m->n_token_ids > r->tokens_left)
        return fail(ST_FORMAT, "tokens: %zu for request %llu, %u are left of its max_tokens", m->n_token_ids,
                    (unsigned long long)m->id, r->tokens_left);
    if ((r->logprobs >= 0) != (m->n_logprobs > 0))
        return fail(ST_FORMAT, "tokens: request %llu %s for logprobs, %zu came", (unsigned long long)m->id,
                    r->logprobs >= 0 ? "asked" : "did not ask", m->n_logprobs);
    TRY(check_tops("tokens", m->logprobs, m->n_logprobs, r->logprobs));
    r->tokens_left -= (uint32_t)m->n_token_ids;
    engine_logprob *p = m->n_logprobs ? unpack_logprobs(m->logprobs, m->n_logprobs) : NULL;
    if (r->listener.tokens) r->listener.tokens(r->context, m->token_ids, (uint32_t)m->n_token_ids, p);
    free(p);
    return ST_OK;
}

static status status_by_name(const char *name) {
    for (int s = ST_OK + 1; s < ST_COUNT; s++)
        if (!strcmp(name, status_name((status)s))) return (status)s;
    return ST_INTERNAL;
}

static status handle_finished(request_table *t, const Gemmad__Engine__Finished *m) {
    static const char *const reasons[] = {"stop", "length", "cancelled"};
    request *r = find(t, m->id);
    if (!r) return fail(ST_FORMAT, "finished: no request has the id %llu", (unsigned long long)m->id);
    take_out(t, r);
    engine_timings timings = {
        .queue_us = m->queue_us, .prefill_us = m->prefill_us, .decode_us = m->decode_us};
    if (!strcmp(m->finish_reason, "error")) {
        char text[ENGINE_TEXT_BYTES_MAX + 8];
        failure_clean_text(text, sizeof text, m->error_text);
        if (r->listener.failed) r->listener.failed(r->context, status_by_name(m->error_status), text);
    }
    /* The listener may keep the word: it gets ours, which stays, not the frame's. */
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (!strcmp(m->finish_reason, reasons[i]) && r->listener.finished)
            r->listener.finished(r->context, reasons[i], &timings);
    free(r);
    return ST_OK;
}

status requests_handle(request_table *t, const engine_frame *f) {
    switch (f->kind_case) {
    case GEMMAD__ENGINE__FRAME__KIND_STARTED: return handle_started(t, f->started);
    case GEMMAD__ENGINE__FRAME__KIND_PROGRESS: return handle_progress(t, f->progress);
    case GEMMAD__ENGINE__FRAME__KIND_PROMPT_LOGPROBS: return handle_prompt_logprobs(t, f->prompt_logprobs);
    case GEMMAD__ENGINE__FRAME__KIND_TOKENS: return handle_tokens(t, f->tokens);
    case GEMMAD__ENGINE__FRAME__KIND_FINISHED: return handle_finished(t, f->finished);
    default: return fail(ST_FORMAT, "a %s frame that was not waited for", frame_kind_name(f));
    }
}

void requests_fail_all(request_table *t, status st, const char *text) {
    for (uint32_t i = 0; i < BUCKETS; i++)
        while (t->bucket[i]) {
            request *r = t->bucket[i];
            take_out(t, r);
            if (r->listener.failed) r->listener.failed(r->context, st, text);
            free(r);
        }
}

/* ---- submit ---- */

static void pack_sampling(submit_pack *p, const engine_sampling *s) {
    Gemmad__Engine__Sampling *m = &p->sampling;
    gemmad__engine__sampling__init(m);
    m->has_max_tokens = m->has_temperature = m->has_top_p = m->has_top_k = m->has_min_p = m->has_seed = true;
    m->has_repetition_penalty = m->has_presence_penalty = m->has_frequency_penalty = true;
    m->has_logprobs = m->has_prompt_logprobs = true;
    m->max_tokens = s->max_tokens;
    m->temperature = s->temperature;
    m->top_p = s->top_p;
    m->top_k = s->top_k;
    m->min_p = s->min_p;
    m->seed = s->seed;
    m->n_stop_token_ids = s->stop_token_count;
    m->stop_token_ids = (uint32_t *)s->stop_token;
    m->repetition_penalty = s->repetition_penalty;
    m->presence_penalty = s->presence_penalty;
    m->frequency_penalty = s->frequency_penalty;
    m->logprobs = s->logprobs;
    m->prompt_logprobs = s->prompt_logprobs;
    p->bias = memory_alloc_array(s->bias_count + 1, sizeof *p->bias);
    p->bias_list = memory_alloc_array(s->bias_count + 1, sizeof *p->bias_list);
    for (uint32_t i = 0; i < s->bias_count; i++) {
        gemmad__engine__logit_bias__init(&p->bias[i]);
        p->bias[i].has_token_id = p->bias[i].has_bias = true;
        p->bias[i].token_id = s->bias[i].token;
        p->bias[i].bias = s->bias[i].bias;
        p->bias_list[i] = &p->bias[i];
    }
    m->n_logit_bias = s->bias_count;
    m->logit_bias = p->bias_list;
}

void requests_pack(submit_pack *p, uint64_t id, const engine_request *r, uint64_t grammar_there) {
    Gemmad__Engine__Submit *m = &p->submit;
    gemmad__engine__submit__init(m);
    m->has_id = m->has_prompt_count = m->has_sample_index = m->has_priority = m->has_deadline_ms = true;
    m->id = id;
    m->n_tokens = r->token_count;
    m->tokens = (uint32_t *)r->tokens;
    m->prompt_count = r->prompt_count;
    m->sample_index = r->sample_index;
    m->priority = r->priority;
    m->deadline_ms = r->deadline_ms;
    m->has_client = r->client != 0;
    m->client = r->client;
    m->has_group = r->group != 0;
    m->group = r->group;
    m->has_same_grammar = m->same_grammar = r->grammar && r->grammar_id && r->grammar_id == grammar_there;
    m->has_grammar = r->grammar && !m->same_grammar;
    m->grammar = (ProtobufCBinaryData){.len = r->grammar_bytes, .data = (uint8_t *)r->grammar};
    pack_sampling(p, &r->sampling);
    m->sampling = &p->sampling;
}

void requests_pack_free(submit_pack *p) {
    free(p->bias);
    free(p->bias_list);
}
