/* From the session's events to those of the rpc. */
#include <stdlib.h>

#include "base/memory.h"
#include "daemon/queue/chat_finish.h"
#include "daemon/queue/generation.h"
#include "daemon/queue/logprob_message.h"

static generation *owner(void *sample) { return ((generation_sample *)sample)->owner; }
static uint32_t index_of(const generation_sample *s) { return (uint32_t)(s - s->owner->sample); }

static uint64_t backlog_bytes(void *context) {
    const generation *g = owner(context);
    return g->call->ops->backlog_bytes(g->call);
}

static void started(void *context, uint32_t cached_tokens) {
    generation_sample *sample = context;
    generation *g = sample->owner;
    sample->started = true;
    core_ticket_started(&g->ticket);
    if (g->told_started) return;
    g->told_started = true;
    g->cached_tokens = cached_tokens;
    Gemmad__V1__Started s = GEMMAD__V1__STARTED__INIT;
    s.request_id = (char *)g->ticket.request_id;
    s.has_prompt_tokens = s.has_cached_tokens = s.has_seed = 1;
    s.prompt_tokens = g->prompt_tokens;
    s.cached_tokens = cached_tokens;
    s.seed = g->seed;
    g->ops->send(g, GENERATION_STARTED, &s);
}

static void progress(void *context, uint32_t prefilled_tokens) {
    generation *g = owner(context);
    if (index_of(context) > 0) return; /* the prompt is the same for all */
    Gemmad__V1__Progress p = GEMMAD__V1__PROGRESS__INIT;
    p.has_prefilled_tokens = p.has_prompt_tokens = 1;
    p.prefilled_tokens = prefilled_tokens;
    p.prompt_tokens = g->prompt_tokens;
    g->ops->send(g, GENERATION_PROGRESS, &p);
}

static void prompt_logprobs(void *context, uint32_t first_position, const token_queue *q, size_t count) {
    generation *g = owner(context);
    Gemmad__V1__PromptLogprobs p = GEMMAD__V1__PROMPT_LOGPROBS__INIT;
    p.has_first_position = 1;
    p.first_position = first_position;
    p.n_logprobs = count;
    p.logprobs = logprob_messages(q, count);
    g->ops->send(g, GENERATION_PROMPT_LOGPROBS, &p);
    logprob_messages_free(p.logprobs);
}

void generation_tokens_make(generation_tokens *out, const answer_part *part) {
    size_t n = part->token_count;
    *out = (generation_tokens){.ids = memory_alloc_array(n, sizeof *out->ids), .id_count = n};
    for (size_t i = 0; i < n; i++) out->ids[i] = part->tokens->token[i].id;
    /* The engine gives them with every token of a request or with none. */
    if (n > 0 && part->tokens->token[0].has_logprob) {
        out->logprob_count = n;
        out->logprobs = logprob_messages(part->tokens, n);
    }
}

void generation_tokens_close(generation_tokens *t) {
    logprob_messages_free(t->logprobs);
    free(t->ids);
}

static void delta(void *context, const answer_part *part) {
    generation *g = owner(context);
    g->ops->delta(g, index_of(context), part);
}

static void send_finished(generation *g, uint32_t index, const session_end *end) {
    Gemmad__V1__Finished f = GEMMAD__V1__FINISHED__INIT;
    Gemmad__V1__Usage u = GEMMAD__V1__USAGE__INIT;
    Gemmad__V1__Timings t = GEMMAD__V1__TIMINGS__INIT;
    u.has_prompt_tokens = u.has_cached_tokens = u.has_completion_tokens = u.has_reasoning_tokens = 1;
    u.prompt_tokens = g->prompt_tokens;
    u.cached_tokens = g->cached_tokens;
    u.completion_tokens = g->completion_tokens;
    u.reasoning_tokens = g->reasoning_tokens;
    t.has_queue_ms = t.has_prefill_ms = t.has_decode_ms = 1;
    t.queue_ms = end->queue_ms;
    t.prefill_ms = end->prefill_ms;
    t.decode_ms = end->decode_ms;
    t.has_first_token_ms = end->first_token_ms > 0;
    t.first_token_ms = end->first_token_ms;
    f.has_index = 1;
    f.index = index;
    f.finish_reason = (char *)end->reason;
    f.usage = g->live == 0 ? &u : NULL;
    f.timings = &t;
    chat_finish said = {0};
    if (end->parser) chat_finish_make(&said, end->parser);
    f.n_malformed = said.malformed_count;
    f.malformed = said.malformed;
    f.has_truncated_call = said.has_truncated;
    f.truncated_call = said.truncated;
    metrics_count(g->ticket.engine->metrics, METRICS_MALFORMED_CALLS, said.malformed_count + said.has_truncated);
    g->ops->send(g, GENERATION_FINISHED, &f);
    chat_finish_close(&said);
}

static bool may_pause(void *context) { return !owner(context)->core->draining; }

static void go_on(void *context) {
    generation_sample *sample = context;
    if (sample->session) session_drained(sample->session);
}

static void pace(void *context, bool paused) {
    generation_sample *sample = context;
    core *c = sample->owner->core;
    sample->is_paused = paused;
    sample->paused.go_on = go_on;
    sample->paused.context = sample;
    if (paused) core_paused_begin(c, &sample->paused);
    else core_paused_end(c, &sample->paused);
}

static void ended(void *context, const session_end *end) {
    generation_sample *sample = context;
    generation *g = sample->owner;
    sample->session = NULL;
    g->live--;
    g->completion_tokens += end->completion_tokens;
    if (end->parser) g->reasoning_tokens += chat_parser_reasoning_tokens(end->parser);
    request_log_sample(&g->log, end);
    if (sample->is_paused) core_paused_end(g->core, &sample->paused);
    core_ticket_ended(&g->ticket, sample->started);
    if (end->st != ST_OK) generation_fail(g, end->st, end->text);
    else if (g->failure == ST_OK) send_finished(g, index_of(sample), end);
    generation_release(g);
}

const session_sink generation_sink = {backlog_bytes, started,   progress, prompt_logprobs,
                                      delta,         may_pause, pace,     ended};
