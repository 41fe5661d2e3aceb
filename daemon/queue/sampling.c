#include "daemon/queue/sampling.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/memory.h"
#include "base/utf8.h"

/* Written so that NaN fails every comparison. */
static status read_float(const char *field, bool has, float value, float least, bool least_itself, float most,
                         float *out) {
    if (!has) return ST_OK;
    if (!((least_itself ? value >= least : value > least) && value <= most))
        return fail(ST_INVALID, "sampling.%s is %g, and must be in %c%g, %g]", field, (double)value,
                    least_itself ? '[' : '(', (double)least, (double)most);
    *out = value;
    return ST_OK;
}

static status read_floats(const Gemmad__V1__Sampling *s, engine_sampling *e) {
    TRY(read_float("temperature", s->has_temperature, s->temperature, 0, true, 2, &e->temperature));
    TRY(read_float("top_p", s->has_top_p, s->top_p, 0, false, 1, &e->top_p));
    TRY(read_float("min_p", s->has_min_p, s->min_p, 0, true, 1, &e->min_p));
    TRY(read_float("repetition_penalty", s->has_repetition_penalty, s->repetition_penalty, 0, false, 10,
                   &e->repetition_penalty));
    TRY(read_float("presence_penalty", s->has_presence_penalty, s->presence_penalty, -2, true, 2,
                   &e->presence_penalty));
    return read_float("frequency_penalty", s->has_frequency_penalty, s->frequency_penalty, -2, true, 2,
                      &e->frequency_penalty);
}

/* More than the vocabulary has is all of it; more than the limit is refused. */
static status read_top_n(const char *field, uint32_t value, uint32_t vocab, int32_t *out) {
    if (value > LIMIT_LOGPROBS)
        return fail(ST_INVALID, "sampling.%s is %u, at most %d", field, value, LIMIT_LOGPROBS);
    *out = (int32_t)(value < vocab ? value : vocab);
    return ST_OK;
}

static status read_logprobs(const Gemmad__V1__Sampling *s, uint32_t vocab, engine_sampling *e) {
    if (s->has_logprobs) TRY(read_top_n("logprobs", s->logprobs, vocab, &e->logprobs));
    if (s->has_prompt_logprobs) {
        if (s->has_want_prompt_logprobs && !s->want_prompt_logprobs)
            return fail(ST_INVALID, "sampling.prompt_logprobs is %u, and want_prompt_logprobs is false",
                        s->prompt_logprobs);
        TRY(read_top_n("prompt_logprobs", s->prompt_logprobs, vocab, &e->prompt_logprobs));
    } else if (s->want_prompt_logprobs) {
        e->prompt_logprobs = 0;
    }
    return ST_OK;
}

static status read_stop_strings(const Gemmad__V1__Sampling *s, bool has_text, stop_matcher *stop) {
    if (s->n_stop > 0 && !has_text)
        return fail(
            ST_INVALID,
            "sampling.stop: the model has no tokenizer, so its text is not known; use stop_token_ids");
    if (s->n_stop > LIMIT_STOP_STRINGS)
        return fail(ST_INVALID, "sampling.stop has %zu strings, at most %d", s->n_stop, LIMIT_STOP_STRINGS);
    for (size_t i = 0; i < s->n_stop; i++) {
        size_t n = s->stop[i].len, valid = utf8_check(s->stop[i].data, n);
        if (n == 0 || n > LIMIT_STOP_BYTES)
            return fail(ST_INVALID, "sampling.stop[%zu] has %zu bytes, and must have 1 to %d", i, n,
                        LIMIT_STOP_BYTES);
        if (valid < n) return fail(ST_INVALID, "sampling.stop[%zu] is not UTF-8 at byte %zu", i, valid);
        stop_add(stop, s->stop[i].data, n);
    }
    return ST_OK;
}

status sampling_add_stop(sampling_plan *p, uint32_t id) {
    const uint32_t most = sizeof p->stop_token / sizeof *p->stop_token;
    for (uint32_t i = 0; i < p->engine.stop_token_count; i++)
        if (p->stop_token[i] == id) return ST_OK;
    if (p->engine.stop_token_count == most)
        return fail(ST_INVALID, "sampling.stop_token_ids and the model's end tokens are more than %u together", most);
    p->stop_token[p->engine.stop_token_count++] = id;
    return ST_OK;
}

static status read_stop_tokens(const Gemmad__V1__Sampling *s, const model_facts *facts, sampling_plan *p) {
    if (s->n_stop_token_ids > LIMIT_STOP_TOKENS)
        return fail(ST_INVALID, "sampling.stop_token_ids has %zu ids, at most %d", s->n_stop_token_ids,
                    LIMIT_STOP_TOKENS);
    TRY(sampling_check_ids("sampling.stop_token_ids", s->stop_token_ids, s->n_stop_token_ids, facts->vocab));
    for (uint32_t i = 0; i < facts->end_token_count && !s->ignore_eos; i++)
        TRY(sampling_add_stop(p, facts->end_token[i]));
    for (size_t i = 0; i < s->n_stop_token_ids; i++) TRY(sampling_add_stop(p, s->stop_token_ids[i]));
    return ST_OK;
}

static int by_token(const void *a, const void *b) {
    uint32_t x = ((const engine_bias *)a)->token, y = ((const engine_bias *)b)->token;
    return (x > y) - (x < y);
}

static status read_bias(const Gemmad__V1__Sampling *s, uint32_t vocab, sampling_plan *p) {
    size_t n = s->n_logit_bias;
    if (n > LIMIT_LOGIT_BIAS)
        return fail(ST_INVALID, "sampling.logit_bias has %zu entries, at most %d", n, LIMIT_LOGIT_BIAS);
    p->bias = memory_alloc_array(n, sizeof *p->bias);
    for (size_t i = 0; i < n; i++) {
        const Gemmad__V1__LogitBias *b = s->logit_bias[i];
        if (!b->has_token_id || !b->has_bias)
            return fail(ST_INVALID, "sampling.logit_bias[%zu] has no %s", i,
                        b->has_token_id ? "bias" : "token_id");
        if (b->token_id >= vocab)
            return fail(ST_INVALID, "sampling.logit_bias[%zu].token_id is %u, and the vocabulary has %u", i,
                        b->token_id, vocab);
        if (!(b->bias >= -100 && b->bias <= 100))
            return fail(ST_INVALID, "sampling.logit_bias[%zu].bias is %g, and must be in [-100, 100]", i,
                        (double)b->bias);
        p->bias[i] = (engine_bias){b->token_id, b->bias};
    }
    qsort(p->bias, n, sizeof *p->bias, by_token);
    for (size_t i = 1; i < n; i++)
        if (p->bias[i].token == p->bias[i - 1].token)
            return fail(ST_INVALID, "sampling.logit_bias has two entries for token %u", p->bias[i].token);
    p->engine.bias = p->bias;
    p->engine.bias_count = (uint32_t)n;
    return ST_OK;
}

static status read_all(sampling_plan *p, const Gemmad__V1__Sampling *s, const model_facts *facts,
                       bool has_text) {
    engine_sampling *e = &p->engine;
    if (s->has_n && (s->n == 0 || s->n > LIMIT_SAMPLES))
        return fail(ST_INVALID, "sampling.n is %u, and must be 1 to %d", s->n, LIMIT_SAMPLES);
    p->n = s->has_n ? s->n : 1;
    if (s->has_max_tokens && s->max_tokens == 0)
        return fail(ST_INVALID, "sampling.max_tokens is 0, at least 1");
    p->has_max_tokens = s->has_max_tokens;
    e->max_tokens = s->max_tokens;
    TRY(read_floats(s, e));
    if (s->has_top_k && s->top_k > facts->vocab)
        return fail(ST_INVALID, "sampling.top_k is %u, and the vocabulary has %u", s->top_k, facts->vocab);
    if (s->has_top_k) e->top_k = s->top_k;
    TRY(read_logprobs(s, facts->vocab, e));
    TRY(read_stop_strings(s, has_text, &p->stop));
    TRY(read_stop_tokens(s, facts, p));
    TRY(read_bias(s, facts->vocab, p));
    if (s->has_seed) e->seed = s->seed;
    else if (getrandom(&e->seed, sizeof e->seed, 0) != (ssize_t)sizeof e->seed)
        return fail_errno(ST_INTERNAL, "cannot draw a seed");
    return ST_OK;
}

status sampling_read(sampling_plan *out, const Gemmad__V1__Sampling *s, const model_facts *facts,
                     bool has_text) {
    static const Gemmad__V1__Sampling absent = GEMMAD__V1__SAMPLING__INIT;
    *out = (sampling_plan){.engine = {.temperature = (float)facts->default_temperature,
                                      .top_p = (float)facts->default_top_p,
                                      .top_k = facts->default_top_k,
                                      .repetition_penalty = 1,
                                      .logprobs = -1,
                                      .prompt_logprobs = -1}};
    status st = read_all(out, s ? s : &absent, facts, has_text);
    if (st != ST_OK) sampling_close(out);
    else out->engine.stop_token = out->stop_token;
    return st;
}

void sampling_close(sampling_plan *p) {
    free(p->bias);
    stop_close(&p->stop);
    *p = (sampling_plan){0};
}

status sampling_fit(sampling_plan *p, size_t prompt_tokens, const model_facts *facts) {
    uint32_t context = facts->context_tokens;
    if (prompt_tokens == 0) return fail(ST_INVALID, "the prompt has no tokens");
    if (prompt_tokens >= context)
        return fail(ST_INVALID, "the prompt has %zu tokens, and the context %u: no room for an answer",
                    prompt_tokens, context);
    uint32_t left = context - (uint32_t)prompt_tokens;
    if (p->has_max_tokens && p->engine.max_tokens > left)
        return fail(
            ST_INVALID,
            "the prompt has %zu tokens and sampling.max_tokens is %u: together %llu, and the context is %u",
            prompt_tokens, p->engine.max_tokens, (unsigned long long)prompt_tokens + p->engine.max_tokens,
            context);
    if (!p->has_max_tokens) p->engine.max_tokens = left;
    return ST_OK;
}

status sampling_check_ids(const char *field, const uint32_t *ids, size_t n, uint32_t vocab) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= vocab)
            return fail(ST_INVALID, "%s[%zu] is %u, and the vocabulary has %u", field, i, ids[i], vocab);
    return ST_OK;
}
