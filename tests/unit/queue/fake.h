/* A transport and an engine that tests drive by hand. Messages go through their wire form both ways, and requests are
 * freed as soon as their handler returns, so that the sanitizers see what the core keeps. */
#ifndef TESTS_UNIT_QUEUE_FAKE_H
#define TESTS_UNIT_QUEUE_FAKE_H

#include <uv.h>

#include "daemon/queue/core.h"
#include "proto/gemmad.pb-c.h"
#include "proto/message.h"
#include "tests/test.h"
#include "tests/unit/queue/fake_tokenizer.h"

/* ---- engine ---- */

typedef struct fake_request {
    uint64_t id;
    engine_listener listener;
    void *context;
    uint32_t *tokens, token_count, stop_token[LIMIT_STOP_TOKENS * 2];
    engine_bias *bias;
    engine_sampling sampling;
    int32_t priority;
    uint64_t deadline_ms;
    uint32_t sample_index;
    uint64_t client, group;
    size_t grammar_bytes; /* 0: none */
    bool cancelled, paused;
    uint32_t steps; /* a simulation's own */
    struct fake_request *next;
} fake_request;

typedef struct fake_engine {
    engine base;
    engine_state state;
    status refuse;          /* of submit */
    uint32_t refuse_after;  /* so many more, the others with ST_BUSY; 0: never */
    bool cancels_at_once;   /* finished is called from inside cancel */
    fake_request *first;    /* newest first */
    uint32_t submitted, cancels, pauses, live;
} fake_engine;

static inline fake_request *fake_find(fake_engine *e, uint64_t id) {
    fake_request *r = e->first;
    while (r && r->id != id) r = r->next;
    return r;
}

/* Unlinks r and frees it after its last event was delivered with the listener handed back. */
static inline fake_request fake_remove(fake_engine *e, fake_request *r) {
    fake_request **link = &e->first;
    while (*link != r) link = &(*link)->next;
    *link = r->next;
    fake_request copy = *r;
    free(r->tokens);
    free(r->bias);
    free(r);
    e->live--;
    return copy;
}

static inline void fake_finish(fake_engine *e, fake_request *r, const char *reason) {
    fake_request copy = fake_remove(e, r);
    char volatile_reason[16];
    snprintf(volatile_reason, sizeof volatile_reason, "%s", reason);
    engine_timings t = {1500, 2500, 3500};
    copy.listener.finished(copy.context, volatile_reason, &t);
    memset(volatile_reason, 'x', sizeof volatile_reason);
}

static inline void fake_fail(fake_engine *e, fake_request *r, status st, const char *text) {
    fake_request copy = fake_remove(e, r);
    copy.listener.failed(copy.context, st, text);
}

/* The token's logprob is minus its id; its top k are the ids from 0. */
static inline void fake_token(fake_request *r, uint32_t id) {
    engine_top top[LIMIT_LOGPROBS];
    engine_logprob p = {.token = id, .logprob = -(float)id, .top = top};
    for (int32_t i = 0; i < r->sampling.logprobs; i++) top[p.top_count++] = (engine_top){(uint32_t)i, -(float)i};
    r->listener.tokens(r->context, &id, 1, r->sampling.logprobs >= 0 ? &p : NULL);
}

static inline status fake_submit(engine *base, const engine_request *q, const engine_listener *l, void *context,
                                 uint64_t *id) {
    fake_engine *e = (fake_engine *)base;
    if (e->refuse != ST_OK) return fail(e->refuse, "the fake engine refuses");
    if (e->refuse_after == UINT32_MAX) {
        e->refuse_after = 0;
        return fail(ST_BUSY, "the fake engine is full");
    }
    if (e->refuse_after > 0 && --e->refuse_after == 0) e->refuse_after = UINT32_MAX;
    fake_request *r = memory_alloc(sizeof *r);
    *r = (fake_request){.id = ++e->submitted, .listener = *l, .context = context, .token_count = q->token_count,
                        .sampling = q->sampling, .priority = q->priority, .deadline_ms = q->deadline_ms,
                        .sample_index = q->sample_index, .client = q->client, .group = q->group,
                        .grammar_bytes = q->grammar ? q->grammar_bytes : 0, .next = e->first};
    CHECK(!q->grammar || (q->grammar_bytes > 0 && q->vocabulary != NULL));
    CHECK(q->prompt_count == q->token_count);
    r->tokens = memory_alloc_array(q->token_count, sizeof *r->tokens);
    memcpy(r->tokens, q->tokens, q->token_count * sizeof *r->tokens);
    if (q->sampling.stop_token_count > 0)
        memcpy(r->stop_token, q->sampling.stop_token, q->sampling.stop_token_count * sizeof *r->stop_token);
    r->bias = memory_alloc_array(q->sampling.bias_count, sizeof *r->bias);
    if (q->sampling.bias_count > 0)
        memcpy(r->bias, q->sampling.bias, q->sampling.bias_count * sizeof *r->bias);
    e->first = r;
    e->live++;
    *id = r->id;
    return ST_OK;
}

static inline void fake_cancel(engine *base, uint64_t id) {
    fake_engine *e = (fake_engine *)base;
    fake_request *r = fake_find(e, id);
    e->cancels++;
    CHECK(r != NULL);
    if (!r) return;
    CHECK(!r->cancelled);
    r->cancelled = true;
    if (e->cancels_at_once) fake_finish(e, r, "cancelled");
}

static inline void fake_pause(engine *base, uint64_t id, bool paused) {
    fake_engine *e = (fake_engine *)base;
    fake_request *r = fake_find(e, id);
    CHECK(r && r->paused != paused && !r->cancelled);
    if (!r) return;
    r->paused = paused;
    e->pauses++;
}

static inline void fake_get_status(const engine *base, engine_status *out) {
    static const engine_rank_status rank[2] = {{.rank = 0, .pid = 41, .threads = 3, .host = "here", .state = "ready",
                                                .isa = "avx2", .cpu_ms = 5, .kv_bytes = 6, .weight_bytes_read = 7},
                                               {.rank = 1, .pid = 42, .threads = 3, .host = "there", .state = "ready"}};
    const fake_engine *e = (const fake_engine *)base;
    *out = (engine_status){.state = e->state, .restarts = 2, .steps = 9, .rank = rank, .rank_count = 2, .counted_ms = 77,
                            .step_us = 1500, .imbalance = 1.25F, .prefix_query_tokens = 100, .prefix_hit_tokens = 64,
                            .preemptions = 3, .paused = 2};
    snprintf(out->failure, sizeof out->failure, "%s", e->state == ENGINE_FAILED ? "rank 1 was killed" : "");
}

static inline void fake_engine_open(fake_engine *e, const char *id) {
    static const engine_ops ops = {.submit = fake_submit, .cancel = fake_cancel, .pause = fake_pause,
                                   .get_status = fake_get_status};
    *e = (fake_engine){.base = {.ops = &ops}, .state = ENGINE_READY};
    snprintf(e->base.id, sizeof e->base.id, "%s", id);
    e->base.facts = (model_facts){.vocab = FAKE_VOCAB, .context_tokens = 100, .bos_token = BOS, .end_token = {EOS},
                                  .end_token_count = 1, .default_temperature = 0.5, .default_top_p = 0.9,
                                  .default_top_k = 40, .layout = "tp 2", .checkpoint_hash = "abcd"};
}

/* The engine's real name for states lives in a part that is not linked into these tests. */
const char *engine_state_name(engine_state s) {
    static const char *const names[] = {"starting", "ready", "draining", "failed", "failed"};
    return names[s];
}

/* ---- transport ---- */

typedef struct fake_call {
    call base;
    ProtobufCMessage **sent; /* [sent_count], unpacked again */
    uint32_t sent_count, finished, retry_after_ms;
    uint64_t backlog, sent_bytes, largest;
    status st;
    char text[STATUS_TEXT_MAX];
} fake_call;

static inline void fake_send(call *c, const ProtobufCMessage *m) {
    fake_call *f = (fake_call *)c;
    CHECK(f->finished == 0);
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = memory_alloc(n);
    protobuf_c_message_pack(m, bytes);
    f->sent = memory_grow(f->sent, (f->sent_count + 1) * sizeof *f->sent);
    CHECK_STATUS(message_unpack(m->descriptor, bytes, n, &f->sent[f->sent_count]), ST_OK);
    f->sent_count++;
    f->sent_bytes += n;
    if (n > f->largest) f->largest = n;
    free(bytes);
}

static inline void fake_finish_call(call *c, status st, const char *text, uint32_t retry_after_ms) {
    fake_call *f = (fake_call *)c;
    f->finished++;
    f->st = st;
    f->retry_after_ms = retry_after_ms;
    snprintf(f->text, sizeof f->text, "%s", text);
}

static inline uint64_t fake_backlog(const call *c) { return ((const fake_call *)c)->backlog; }

static inline void fake_call_open(fake_call *f, const char *peer) {
    static const call_ops ops = {fake_send, fake_finish_call, fake_backlog};
    *f = (fake_call){.base = {.ops = &ops, .peer = peer}};
}

static inline void fake_call_close(fake_call *f) {
    for (uint32_t i = 0; i < f->sent_count; i++) protobuf_c_message_free_unpacked(f->sent[i], NULL);
    free(f->sent);
    *f = (fake_call){0};
}

static inline const call_method *fake_method(const char *name) {
    uint32_t n;
    const call_method *m = core_methods(&n);
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(strrchr(m[i].path, '/') + 1, name)) return &m[i];
    return NULL;
}

/* Hands the request over as a transport does: from its bytes, gone when the handler returns. */
static inline void fake_handle(core *c, fake_call *f, const char *method, const ProtobufCMessage *request) {
    const call_method *m = fake_method(method);
    size_t n = protobuf_c_message_get_packed_size(request);
    uint8_t *bytes = memory_alloc(n);
    protobuf_c_message_pack(request, bytes);
    ProtobufCMessage *received;
    status st = message_unpack(m->request, bytes, n, &received);
    if (st != ST_OK) {
        fake_finish_call(&f->base, st, status_text(), 0);
    } else {
        m->handle(c, &f->base, received);
        protobuf_c_message_free_unpacked(received, NULL);
    }
    memset(bytes, 0xA5, n);
    free(bytes);
}

/* What a Generate client has seen. */
typedef struct fake_stream {
    strbuf text;
    uint32_t ids[4096], id_count, logprobs, deltas, started, progress;
    uint32_t prompt_logprobs, prompt_events;
    const Gemmad__V1__Started *start;
    const Gemmad__V1__Finished *finished;
} fake_stream;

static inline void fake_read(const fake_call *f, fake_stream *s) {
    *s = (fake_stream){0};
    for (uint32_t i = 0; i < f->sent_count; i++) {
        const Gemmad__V1__GenerateEvent *e = (const Gemmad__V1__GenerateEvent *)f->sent[i];
        CHECK(s->finished == NULL);
        switch (e->event_case) {
        case GEMMAD__V1__GENERATE_EVENT__EVENT_STARTED:
            CHECK(i == 0);
            s->started++;
            s->start = e->started;
            break;
        case GEMMAD__V1__GENERATE_EVENT__EVENT_PROGRESS: s->progress = e->progress->prefilled_tokens; break;
        case GEMMAD__V1__GENERATE_EVENT__EVENT_PROMPT_LOGPROBS:
            CHECK(e->prompt_logprobs->first_position == s->prompt_logprobs + 1);
            s->prompt_logprobs += (uint32_t)e->prompt_logprobs->n_logprobs;
            s->prompt_events++;
            break;
        case GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA:
            CHECK(utf8_check(e->delta->text.data, e->delta->text.len) == e->delta->text.len);
            strbuf_add(&s->text, e->delta->text.data, e->delta->text.len);
            for (size_t k = 0; k < e->delta->n_token_ids && s->id_count < 4096; k++)
                s->ids[s->id_count++] = e->delta->token_ids[k];
            for (size_t k = 0; k < e->delta->n_logprobs; k++)
                CHECK(e->delta->logprobs[k]->token_id == e->delta->token_ids[k]);
            s->logprobs += (uint32_t)e->delta->n_logprobs;
            s->deltas++;
            break;
        case GEMMAD__V1__GENERATE_EVENT__EVENT_FINISHED: s->finished = e->finished; break;
        default: CHECK(!"an empty event");
        }
    }
}

#endif
