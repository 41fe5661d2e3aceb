#include "proto/engine_check.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef Gemmad__Engine__RankInfo rank_info;
typedef Gemmad__Engine__TokenLogprob logprob_message;

#define NEED(kind, m, field)                                                                                 \
    do {                                                                                                     \
        if (!(m)->has_##field) return fail(ST_FORMAT, "%s: %s is missing", kind, #field);                    \
    } while (0)
#define NEED_RANGE(kind, m, field, least, most)                                                              \
    do {                                                                                                     \
        NEED(kind, m, field);                                                                                \
        TRY(in_range(kind, #field, (int64_t)(m)->field, least, most));                                       \
    } while (0)
#define NEED_FLOAT(kind, m, field, least, most)                                                              \
    do {                                                                                                     \
        NEED(kind, m, field);                                                                                \
        TRY(in_float_range(kind, #field, (double)(m)->field, least, most));                                  \
    } while (0)

static status in_range(const char *kind, const char *field, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return ST_OK;
    return fail(ST_FORMAT, "%s: %s is %" PRId64 ", allowed are %" PRId64 " to %" PRId64, kind, field, value,
                least, most);
}

static status in_float_range(const char *kind, const char *field, double value, double least, double most) {
    if (value >= least && value <= most) return ST_OK; /* false for NaN */
    return fail(ST_FORMAT, "%s: %s is %g, allowed are %g to %g", kind, field, value, least, most);
}

static status text_within(const char *kind, const char *field, const char *text, size_t most) {
    if (!text) return fail(ST_FORMAT, "%s: %s is missing", kind, field);
    size_t n = strlen(text);
    if (n > most)
        return fail(ST_FORMAT, "%s: %s has %zu bytes, at most %zu are allowed", kind, field, n, most);
    return ST_OK;
}

static uint32_t or_limit(uint32_t known, uint32_t limit) { return known ? known : limit; }

static status tokens_in_vocab(const char *kind, const char *field, const uint32_t *ids, size_t n,
                              const engine_bounds *b) {
    uint32_t vocab = or_limit(b->vocab, LIMIT_VOCAB);
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= vocab)
            return fail(ST_FORMAT, "%s: %s[%zu] is %u, the vocabulary has %u", kind, field, i, ids[i], vocab);
    return ST_OK;
}

static status check_id(const char *kind, bool has, uint64_t id) {
    if (!has || id == 0) return fail(ST_FORMAT, "%s: id is missing", kind);
    return ST_OK;
}

static status check_ranks(const char *kind, rank_info *const *ranks, size_t n) {
    if (n > LIMIT_RANKS)
        return fail(ST_FORMAT, "%s: %zu ranks, at most %d are allowed", kind, n, LIMIT_RANKS);
    for (size_t i = 0; i < n; i++) {
        const rank_info *r = ranks[i];
        NEED(kind, r, rank);
        if (r->rank != i) return fail(ST_FORMAT, "%s: ranks[%zu] calls itself rank %u", kind, i, r->rank);
        NEED_RANGE(kind, r, pid, 0, INT32_MAX);
        NEED(kind, r, cpu_ms);
        NEED(kind, r, kv_bytes);
        NEED(kind, r, weight_bytes_read);
        NEED_RANGE(kind, r, threads, 0, 65536);
        TRY(text_within(kind, "host", r->host, 63));
        TRY(text_within(kind, "state", r->state, 15));
        TRY(text_within(kind, "isa", r->isa, 63));
    }
    return ST_OK;
}

bool engine_hello_is_ready(const Gemmad__Engine__Hello *h) { return h->state && !strcmp(h->state, "ready"); }

static status check_hello(const Gemmad__Engine__Hello *h) {
    static const char kind[] = "hello";
    NEED_RANGE(kind, h, version, ENGINE_LINK_VERSION, ENGINE_LINK_VERSION);
    NEED(kind, h, start_unix_ms);
    TRY(text_within(kind, "state", h->state, 15));
    if (!strcmp(h->state, "loading")) return ST_OK;
    if (!engine_hello_is_ready(h)) return fail(ST_FORMAT, "hello: state is neither loading nor ready");
    TRY(text_within(kind, "build_id", h->build_id, 64));
    TRY(text_within(kind, "layout", h->layout, 63));
    TRY(text_within(kind, "checkpoint_hash", h->checkpoint_hash, 64));
    NEED_RANGE(kind, h, context_tokens, 1, LIMIT_CONTEXT_TOKENS);
    NEED_RANGE(kind, h, vocab, 1, LIMIT_VOCAB);
    NEED_RANGE(kind, h, requests_max, 1, LIMIT_REQUESTS_PER_ENGINE);
    if (h->n_ranks == 0) return fail(ST_FORMAT, "hello: ranks is missing");
    return check_ranks(kind, h->ranks, h->n_ranks);
}

static status check_heartbeat(const Gemmad__Engine__Heartbeat *h) {
    static const char kind[] = "heartbeat";
    NEED(kind, h, steps);
    NEED(kind, h, running);
    NEED(kind, h, waiting);
    NEED(kind, h, kv_pages_used);
    NEED(kind, h, kv_pages_total);
    NEED(kind, h, prompt_tokens);
    NEED(kind, h, generated_tokens);
    NEED(kind, h, in_step);
    if (h->has_imbalance) NEED_FLOAT(kind, h, imbalance, 0, LIMIT_RANKS);
    if (h->paused > LIMIT_QUEUE_PER_MODEL + LIMIT_REQUESTS_PER_ENGINE)
        return fail(ST_FORMAT, "heartbeat: paused is %u, at most %d requests are taken", h->paused,
                    LIMIT_QUEUE_PER_MODEL + LIMIT_REQUESTS_PER_ENGINE);
    if (h->n_collective_steps != 0 && h->n_collective_steps != LIMIT_COLLECTIVE_BUCKETS)
        return fail(ST_FORMAT, "heartbeat: %zu collective_steps, allowed are 0 and %d", h->n_collective_steps,
                    LIMIT_COLLECTIVE_BUCKETS);
    return check_ranks(kind, h->ranks, h->n_ranks);
}

static status check_logprobs(const char *kind, logprob_message *const *p, size_t n, const engine_bounds *b) {
    uint32_t vocab = or_limit(b->vocab, LIMIT_VOCAB);
    for (size_t i = 0; i < n; i++) {
        NEED_RANGE(kind, p[i], token_id, 0, (int64_t)vocab - 1);
        /* log-softmax in float32 may round a certainty to slightly more than 0. */
        NEED_FLOAT(kind, p[i], logprob, -INFINITY, 1e-3);
        if (p[i]->n_top > LIMIT_LOGPROBS)
            return fail(ST_FORMAT, "%s: %zu top entries, at most %d are allowed", kind, p[i]->n_top,
                        LIMIT_LOGPROBS);
        for (size_t k = 0; k < p[i]->n_top; k++) {
            NEED_RANGE(kind, p[i]->top[k], token_id, 0, (int64_t)vocab - 1);
            NEED_FLOAT(kind, p[i]->top[k], logprob, -INFINITY, 1e-3);
        }
    }
    return ST_OK;
}

static status check_prompt_logprobs(const Gemmad__Engine__PromptLogprobs *p, const engine_bounds *b) {
    static const char kind[] = "prompt_logprobs";
    uint32_t context = or_limit(b->context_tokens, LIMIT_CONTEXT_TOKENS);
    TRY(check_id(kind, p->has_id, p->id));
    NEED_RANGE(kind, p, first_position, 1, context); /* nothing predicts position 0 */
    if (p->n_logprobs == 0 || p->n_logprobs > context)
        return fail(ST_FORMAT, "%s: %zu entries, allowed are 1 to %u", kind, p->n_logprobs, context);
    return check_logprobs(kind, p->logprobs, p->n_logprobs, b);
}

static status check_tokens(const Gemmad__Engine__Tokens *t, const engine_bounds *b) {
    static const char kind[] = "tokens";
    uint32_t context = or_limit(b->context_tokens, LIMIT_CONTEXT_TOKENS);
    TRY(check_id(kind, t->has_id, t->id));
    if (t->n_token_ids == 0 || t->n_token_ids > context)
        return fail(ST_FORMAT, "%s: %zu token_ids, allowed are 1 to %u", kind, t->n_token_ids, context);
    if (t->n_logprobs != 0 && t->n_logprobs != t->n_token_ids)
        return fail(ST_FORMAT, "%s: %zu logprobs for %zu token_ids", kind, t->n_logprobs, t->n_token_ids);
    TRY(tokens_in_vocab(kind, "token_ids", t->token_ids, t->n_token_ids, b));
    return check_logprobs(kind, t->logprobs, t->n_logprobs, b);
}

static status check_finished(const Gemmad__Engine__Finished *f, const engine_bounds *b) {
    static const char kind[] = "finished";
    static const char *const reasons[] = {"stop", "length", "cancelled", "error"};
    TRY(check_id(kind, f->has_id, f->id));
    TRY(text_within(kind, "finish_reason", f->finish_reason, 15));
    bool known = false;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        known |= !strcmp(f->finish_reason, reasons[i]);
    if (!known)
        return fail(ST_FORMAT, "finished: finish_reason is none of stop, length, cancelled and error");
    NEED(kind, f, queue_us);
    NEED(kind, f, prefill_us);
    NEED(kind, f, decode_us);
    if (f->has_stop_token_id) TRY(tokens_in_vocab(kind, "stop_token_id", &f->stop_token_id, 1, b));
    if (strcmp(f->finish_reason, "error") != 0) return ST_OK;
    TRY(text_within(kind, "error_status", f->error_status, 31));
    return text_within(kind, "error_text", f->error_text, ENGINE_TEXT_BYTES_MAX);
}

status engine_check_from_leader(const engine_frame *f, const engine_bounds *b) {
    switch (f->kind_case) {
    case GEMMAD__ENGINE__FRAME__KIND_HELLO: return check_hello(f->hello);
    case GEMMAD__ENGINE__FRAME__KIND_HEARTBEAT: return check_heartbeat(f->heartbeat);
    case GEMMAD__ENGINE__FRAME__KIND_STARTED:
        TRY(check_id("started", f->started->has_id, f->started->id));
        NEED("started", f->started, queue_us);
        NEED_RANGE("started", f->started, cached_tokens, 0,
                   or_limit(b->context_tokens, LIMIT_CONTEXT_TOKENS));
        return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_PROGRESS:
        TRY(check_id("progress", f->progress->has_id, f->progress->id));
        NEED_RANGE("progress", f->progress, prefilled_tokens, 0,
                   or_limit(b->context_tokens, LIMIT_CONTEXT_TOKENS));
        return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_PROMPT_LOGPROBS: return check_prompt_logprobs(f->prompt_logprobs, b);
    case GEMMAD__ENGINE__FRAME__KIND_TOKENS: return check_tokens(f->tokens, b);
    case GEMMAD__ENGINE__FRAME__KIND_FINISHED: return check_finished(f->finished, b);
    case GEMMAD__ENGINE__FRAME__KIND_FAILED:
        return text_within("failed", "text", f->failed->text, ENGINE_TEXT_BYTES_MAX);
    default: return fail(ST_FORMAT, "a leader does not send a frame of the kind %s", frame_kind_name(f));
    }
}

static status check_sampling(const Gemmad__Engine__Sampling *s, const engine_bounds *b) {
    static const char kind[] = "submit";
    uint32_t context = or_limit(b->context_tokens, LIMIT_CONTEXT_TOKENS);
    if (!s) return fail(ST_FORMAT, "submit: sampling is missing");
    NEED_RANGE(kind, s, max_tokens, 1, context);
    NEED_FLOAT(kind, s, temperature, 0, 2);
    NEED_FLOAT(kind, s, top_p, 0x1p-149, 1);
    NEED(kind, s, top_k);
    NEED_FLOAT(kind, s, min_p, 0, 1);
    NEED(kind, s, seed);
    NEED_FLOAT(kind, s, repetition_penalty, 0x1p-149, (double)0x1.fffffep127f);
    NEED_FLOAT(kind, s, presence_penalty, -0x1.fffffep127, 0x1.fffffep127);
    NEED_FLOAT(kind, s, frequency_penalty, -0x1.fffffep127, 0x1.fffffep127);
    NEED_RANGE(kind, s, logprobs, -1, LIMIT_LOGPROBS);
    NEED_RANGE(kind, s, prompt_logprobs, -1, LIMIT_LOGPROBS);
    if (s->n_stop_token_ids > LIMIT_STOP_TOKENS * 2)
        return fail(ST_FORMAT, "submit: %zu stop_token_ids, at most %d are allowed", s->n_stop_token_ids,
                    LIMIT_STOP_TOKENS * 2);
    TRY(tokens_in_vocab(kind, "stop_token_ids", s->stop_token_ids, s->n_stop_token_ids, b));
    if (s->n_logit_bias > LIMIT_LOGIT_BIAS)
        return fail(ST_FORMAT, "submit: %zu logit_bias entries, at most %d are allowed", s->n_logit_bias,
                    LIMIT_LOGIT_BIAS);
    for (size_t i = 0; i < s->n_logit_bias; i++) {
        NEED_RANGE("submit: logit_bias", s->logit_bias[i], token_id, 0,
                   (int64_t)or_limit(b->vocab, LIMIT_VOCAB) - 1);
        NEED_FLOAT(kind, s->logit_bias[i], bias, -0x1.fffffep127, 0x1.fffffep127);
    }
    return ST_OK;
}

status engine_check_submit(const Gemmad__Engine__Submit *s, const engine_bounds *b) {
    static const char kind[] = "submit";
    uint32_t context = or_limit(b->context_tokens, LIMIT_CONTEXT_TOKENS);
    TRY(check_id(kind, s->has_id, s->id));
    if (s->n_tokens == 0 || s->n_tokens > context)
        return fail(ST_FORMAT, "submit: %zu tokens, allowed are 1 to %u", s->n_tokens, context);
    NEED_RANGE(kind, s, prompt_count, 1, (int64_t)s->n_tokens);
    NEED(kind, s, sample_index);
    NEED(kind, s, priority);
    NEED(kind, s, deadline_ms);
    if (s->sample_index >= LIMIT_SAMPLES)
        return fail(ST_FORMAT, "submit: sample_index is %u, a prompt has at most %d samples", s->sample_index,
                    LIMIT_SAMPLES);
    if (s->has_grammar && (s->grammar.len == 0 || s->grammar.len > LIMIT_GRAMMAR_BYTES))
        return fail(ST_FORMAT, "submit: a grammar of %zu bytes, allowed are 1 to %d", s->grammar.len,
                    LIMIT_GRAMMAR_BYTES);
    if (s->has_grammar && s->same_grammar)
        return fail(ST_FORMAT, "submit: a grammar, and the same as before");
    TRY(check_sampling(s->sampling, b));
    /* max_tokens counts from the prompt's end: what a replayed request has already emitted is part of it. */
    if (s->n_tokens - s->prompt_count >= s->sampling->max_tokens)
        return fail(ST_FORMAT, "submit: %zu tokens were emitted already, max_tokens is %u",
                    s->n_tokens - s->prompt_count, s->sampling->max_tokens);
    if ((uint64_t)s->prompt_count + s->sampling->max_tokens > context)
        return fail(ST_FORMAT, "submit: a prompt of %u tokens and max_tokens %u pass the context of %u",
                    s->prompt_count, s->sampling->max_tokens, context);
    return tokens_in_vocab(kind, "tokens", s->tokens, s->n_tokens, b);
}

status engine_check_from_gemmad(const engine_frame *f, const engine_bounds *b) {
    switch (f->kind_case) {
    case GEMMAD__ENGINE__FRAME__KIND_WELCOME:
        NEED_RANGE("welcome", f->welcome, version, ENGINE_LINK_VERSION, ENGINE_LINK_VERSION);
        NEED_RANGE("welcome", f->welcome, engine_grace_ms, 0, INT64_C(1) << 42);
        return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_SUBMIT: return engine_check_submit(f->submit, b);
    case GEMMAD__ENGINE__FRAME__KIND_CANCEL: return check_id("cancel", f->cancel->has_id, f->cancel->id);
    case GEMMAD__ENGINE__FRAME__KIND_PAUSE:
        TRY(check_id("pause", f->pause->has_id, f->pause->id));
        NEED("pause", f->pause, paused);
        return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_VOCABULARY:
        NEED("vocabulary", f->vocabulary, data);
        if (f->vocabulary->data.len == 0 || f->vocabulary->data.len > LIMIT_VOCABULARY_BYTES)
            return fail(ST_FORMAT, "vocabulary: %zu bytes, allowed are 1 to %d", f->vocabulary->data.len,
                        LIMIT_VOCABULARY_BYTES);
        return ST_OK;
    case GEMMAD__ENGINE__FRAME__KIND_DRAIN:
    case GEMMAD__ENGINE__FRAME__KIND_PING: return ST_OK;
    default: return fail(ST_FORMAT, "gemmad does not send a frame of the kind %s", frame_kind_name(f));
    }
}

bool engine_secret_equal(const uint8_t *a, const uint8_t *b, size_t n) {
    volatile uint8_t differ = 0;
    for (size_t i = 0; i < n; i++) differ |= (uint8_t)(a[i] ^ b[i]);
    return differ == 0;
}
