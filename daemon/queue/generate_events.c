/* Generate: from the session's events to GenerateEvent messages. */
#include <stdlib.h>

#include "base/memory.h"
#include "daemon/queue/generate.h"
#include "daemon/queue/logprob_message.h"

static void send_event(generate *g, Gemmad__V1__GenerateEvent *e) { g->call->ops->send(g->call, &e->base); }

static generate *owner(void *sample) { return ((generate_sample *)sample)->owner; }
static uint32_t index_of(const generate_sample *s) { return (uint32_t)(s - s->owner->sample); }

static uint64_t backlog_bytes(void *context) {
    const generate *g = owner(context);
    return g->call->ops->backlog_bytes(g->call);
}

static void started(void *context, uint32_t cached_tokens) {
    generate_sample *sample = context;
    generate *g = sample->owner;
    sample->started = true;
    core_ticket_started(&g->ticket);
    if (g->told_started) return;
    g->told_started = true;
    g->cached_tokens = cached_tokens;
    Gemmad__V1__GenerateEvent e = GEMMAD__V1__GENERATE_EVENT__INIT;
    Gemmad__V1__Started s = GEMMAD__V1__STARTED__INIT;
    s.request_id = (char *)g->ticket.request_id;
    s.has_prompt_tokens = s.has_cached_tokens = s.has_seed = 1;
    s.prompt_tokens = g->prompt_tokens;
    s.cached_tokens = cached_tokens;
    s.seed = g->seed;
    e.event_case = GEMMAD__V1__GENERATE_EVENT__EVENT_STARTED;
    e.started = &s;
    send_event(g, &e);
}

static void progress(void *context, uint32_t prefilled_tokens) {
    generate *g = owner(context);
    if (index_of(context) > 0) return; /* the prompt is the same for all */
    Gemmad__V1__GenerateEvent e = GEMMAD__V1__GENERATE_EVENT__INIT;
    Gemmad__V1__Progress p = GEMMAD__V1__PROGRESS__INIT;
    p.has_prefilled_tokens = p.has_prompt_tokens = 1;
    p.prefilled_tokens = prefilled_tokens;
    p.prompt_tokens = g->prompt_tokens;
    e.event_case = GEMMAD__V1__GENERATE_EVENT__EVENT_PROGRESS;
    e.progress = &p;
    send_event(g, &e);
}

static void prompt_logprobs(void *context, uint32_t first_position, const token_queue *q, size_t count) {
    generate *g = owner(context);
    Gemmad__V1__GenerateEvent e = GEMMAD__V1__GENERATE_EVENT__INIT;
    Gemmad__V1__PromptLogprobs p = GEMMAD__V1__PROMPT_LOGPROBS__INIT;
    p.has_first_position = 1;
    p.first_position = first_position;
    p.n_logprobs = count;
    p.logprobs = logprob_messages(q, count);
    e.event_case = GEMMAD__V1__GENERATE_EVENT__EVENT_PROMPT_LOGPROBS;
    e.prompt_logprobs = &p;
    send_event(g, &e);
    logprob_messages_free(p.logprobs);
}

static void delta(void *context, const answer_part *part) {
    generate *g = owner(context);
    Gemmad__V1__GenerateEvent e = GEMMAD__V1__GENERATE_EVENT__INIT;
    Gemmad__V1__GenerateDelta d = GEMMAD__V1__GENERATE_DELTA__INIT;
    uint32_t *ids = memory_alloc_array(part->token_count, sizeof *ids);
    for (size_t i = 0; i < part->token_count; i++) ids[i] = part->tokens->token[i].id;
    d.has_index = d.has_text = 1;
    d.index = index_of(context);
    d.text = (ProtobufCBinaryData){part->text_bytes, (uint8_t *)part->text};
    d.n_token_ids = part->token_count;
    d.token_ids = ids;
    /* The engine gives them with every token of a request or with none. */
    if (part->token_count > 0 && part->tokens->token[0].has_logprob) {
        d.n_logprobs = part->token_count;
        d.logprobs = logprob_messages(part->tokens, part->token_count);
    }
    e.event_case = GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA;
    e.delta = &d;
    send_event(g, &e);
    logprob_messages_free(d.logprobs);
    free(ids);
}

static void send_finished(generate *g, uint32_t index, const session_end *end) {
    Gemmad__V1__GenerateEvent e = GEMMAD__V1__GENERATE_EVENT__INIT;
    Gemmad__V1__Finished f = GEMMAD__V1__FINISHED__INIT;
    Gemmad__V1__Usage u = GEMMAD__V1__USAGE__INIT;
    Gemmad__V1__Timings t = GEMMAD__V1__TIMINGS__INIT;
    u.has_prompt_tokens = u.has_cached_tokens = u.has_completion_tokens = u.has_reasoning_tokens = 1;
    u.prompt_tokens = g->prompt_tokens;
    u.cached_tokens = g->cached_tokens;
    u.completion_tokens = g->completion_tokens;
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
    e.event_case = GEMMAD__V1__GENERATE_EVENT__EVENT_FINISHED;
    e.finished = &f;
    send_event(g, &e);
}

static bool may_pause(void *context) { return !owner(context)->core->draining; }

static void go_on(void *context) {
    generate_sample *sample = context;
    if (sample->session) session_drained(sample->session);
}

static void pace(void *context, bool paused) {
    generate_sample *sample = context;
    core *c = sample->owner->core;
    sample->is_paused = paused;
    sample->paused.go_on = go_on;
    sample->paused.context = sample;
    if (paused) core_paused_begin(c, &sample->paused);
    else core_paused_end(c, &sample->paused);
}

static void ended(void *context, const session_end *end) {
    generate_sample *sample = context;
    generate *g = sample->owner;
    sample->session = NULL;
    g->live--;
    g->completion_tokens += end->completion_tokens;
    request_log_sample(&g->log, end);
    if (sample->is_paused) core_paused_end(g->core, &sample->paused);
    core_ticket_ended(&g->ticket, sample->started);
    if (end->st != ST_OK) generate_fail(g, end->st, end->text);
    else if (g->failure == ST_OK) send_finished(g, index_of(sample), end);
    generate_release(g);
}

const session_sink generate_sink = {backlog_bytes, started,   progress, prompt_logprobs,
                                    delta,         may_pause, pace,     ended};
