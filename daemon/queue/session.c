#include "daemon/queue/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"

struct session {
    engine *engine;
    uint64_t engine_id;
    auth_key *who;
    const session_sink *sink;
    void *context;
    answer answer;
    token_queue prompt_logprobs;
    uint32_t prompt_position; /* of the first in prompt_logprobs */
    bool progress_waits;
    uint32_t prefilled_tokens;
    uint32_t *ending; /* [ending_count]: the tokens that end the answer */
    uint32_t ending_count;
    bool ended_by_token;
    bool cancel_sent, paused;
    bool engine_done; /* finished or failed was called */
    unsigned depth;   /* calls of ours on the stack: the engine may answer from inside engine_cancel, a
                         transport from inside a send, and the session must outlive them all */
    status why;       /* not ST_OK: the client is not served any more, and this is what it is told */
    char why_text[STATUS_TEXT_MAX];
    status engine_status;
    char engine_text[STATUS_TEXT_MAX];
    session_end end;
    char reason[16];
    uint64_t deadline_ms, arrival_ns, submitted_ns, started_ns, first_token_ns, last_token_ns;
    metrics_engine *metrics;
    uint32_t prompt_tokens; /* 0 for the samples of a prompt after its first, which count it */
};

static void session_free(session *s) {
    answer_close(&s->answer);
    token_queue_close(&s->prompt_logprobs);
    free(s->ending);
    free(s);
}

static uint64_t backlog(const session *s) { return s->sink->backlog_bytes(s->context); }

/* Whether the client may be sent another event. At the end all of it goes: what waits has its bound already.
 */
static bool room(const session *s) {
    return s->why == ST_OK && (s->engine_done || backlog(s) < LIMIT_BACKLOG_BYTES);
}

/* Half of the bound apart, so that a client that reads one event at a time does not cost a frame for each. */
static void set_pace(session *s) {
    if (s->why != ST_OK || s->engine_done || s->cancel_sent) return;
    uint64_t unread = backlog(s);
    bool paused = s->sink->may_pause(s->context) &&
                  (unread >= LIMIT_BACKLOG_BYTES || (s->paused && unread > LIMIT_BACKLOG_BYTES / 2));
    if (paused == s->paused) return;
    s->paused = paused;
    engine_pause(s->engine, s->engine_id, paused);
    s->sink->paused(s->context, paused);
}

static void flush(session *s) {
    if (s->progress_waits && room(s)) {
        s->progress_waits = false;
        s->sink->progress(s->context, s->prefilled_tokens);
    }
    while (s->prompt_logprobs.count > 0 && room(s)) {
        size_t n = token_queue_fit(&s->prompt_logprobs, s->prompt_logprobs.count, LIMIT_EVENT_BYTES);
        s->sink->prompt_logprobs(s->context, s->prompt_position, &s->prompt_logprobs, n);
        token_queue_drop(&s->prompt_logprobs, n);
        s->prompt_position += (uint32_t)n;
    }
    answer_part part;
    while (s->prompt_logprobs.count == 0 && room(s) && answer_take(&s->answer, LIMIT_EVENT_BYTES, &part)) {
        s->sink->delta(s->context, &part);
        answer_drop(&s->answer, &part);
    }
    set_pace(s);
}

static double ms_between(uint64_t from_ns, uint64_t to_ns) {
    return from_ns && to_ns > from_ns ? (double)(to_ns - from_ns) / 1e6 : 0;
}

/* An engine that died after the answer was complete left no timings: then ours. */
static void measure(session *s) {
    uint64_t now = clock_now_ns();
    s->end.queue_ms = ms_between(s->submitted_ns, s->started_ns);
    s->end.prefill_ms = ms_between(s->started_ns, s->first_token_ns);
    s->end.decode_ms = ms_between(s->first_token_ns, now);
}

static metrics_counter outcome(const session *s) {
    const session_end *e = &s->end;
    if (e->st == ST_CANCELLED || e->st == ST_TIMEOUT) return METRICS_ABORT;
    if (e->st != ST_OK) return METRICS_ERROR;
    if (!strcmp(e->reason, "stop") || !strcmp(e->reason, "tool_calls")) return METRICS_STOP;
    return !strcmp(e->reason, "length") ? METRICS_LENGTH : METRICS_ABORT;
}

/* Times are those of whole answers: what a client broke off says nothing of how long answers take. */
static void count_end(const session *s) {
    const session_end *e = &s->end;
    metrics_engine *m = s->metrics;
    metrics_counter how = outcome(s);
    metrics_count(m, how, 1);
    if (how != METRICS_STOP && how != METRICS_LENGTH) return;
    metrics_observe(m, METRICS_E2E_SECONDS, ms_between(s->arrival_ns, clock_now_ns()) / 1e3);
    metrics_observe(m, METRICS_QUEUE_SECONDS, e->queue_ms / 1e3);
    metrics_observe(m, METRICS_PREFILL_SECONDS, e->prefill_ms / 1e3);
    metrics_observe(m, METRICS_DECODE_SECONDS, e->decode_ms / 1e3);
    metrics_observe(m, METRICS_INFERENCE_SECONDS, (e->prefill_ms + e->decode_ms) / 1e3);
    metrics_observe(m, METRICS_REQUEST_GENERATION_TOKENS, e->completion_tokens);
    if (s->prompt_tokens) metrics_observe(m, METRICS_REQUEST_PROMPT_TOKENS, s->prompt_tokens);
    if (e->completion_tokens > 1)
        metrics_observe(m, METRICS_OUTPUT_TOKEN_SECONDS, e->decode_ms / 1e3 / (e->completion_tokens - 1));
}

static void end(session *s) {
    bool complete = s->answer.stopped || s->ended_by_token;
    if (s->why == ST_OK && (s->engine_status == ST_OK || complete)) {
        answer_end(&s->answer, complete || !strcmp(s->reason, "stop"));
        complete = s->answer.stopped || s->ended_by_token;
    }
    flush(s);
    if (s->engine_status != ST_OK) measure(s);
    session_end *e = &s->end;
    e->parser = s->answer.parser;
    e->reason = complete ? "stop" : s->reason;
    if (!strcmp(e->reason, "stop") && answer_has_calls(&s->answer)) e->reason = "tool_calls";
    e->first_token_ms = s->first_token_ns ? ms_between(s->arrival_ns, s->first_token_ns) : 0;
    if (s->why != ST_OK) {
        e->st = s->why;
        e->text = s->why_text;
    } else if (s->engine_status != ST_OK && !complete) {
        e->st = s->engine_status;
        e->text = s->engine_text;
    } else if (!complete && !strcmp(s->reason, "cancelled") && s->deadline_ms &&
               ms_between(s->submitted_ns, clock_now_ns()) >= (double)s->deadline_ms) {
        e->st = fail(ST_TIMEOUT, "the deadline passed");
        e->text = status_text();
    }
    count_end(s);
    s->sink->ended(s->context, e);
    session_free(s);
}

static void enter(session *s) { s->depth++; }
static void leave(session *s) {
    /* The depth is kept while ending, so that a cancel from inside the last events does not end it again. */
    if (s->depth == 1 && s->engine_done) end(s);
    else s->depth--;
}

static void cancel_engine(session *s) {
    if (s->cancel_sent || s->engine_done) return;
    s->cancel_sent = true;
    engine_cancel(s->engine, s->engine_id);
}

static void give_up(session *s, status st, const char *text) {
    if (s->why != ST_OK) return;
    s->why = st;
    snprintf(s->why_text, sizeof s->why_text, "%s", text);
}

void session_cancel(session *s, status st, const char *text) {
    INVARIANT(st != ST_OK);
    enter(s);
    give_up(s, st, text);
    cancel_engine(s);
    leave(s);
}

/* Before anything is added, so that one large event of the engine does not condemn a client that reads well.
 */
static bool overflows(session *s) {
    uint64_t held = answer_bytes(&s->answer) + token_queue_bytes(&s->prompt_logprobs);
    if (held <= LIMIT_OVERSHOOT_BYTES) return false;
    unsigned long long unread = backlog(s), waiting = held;
    status st =
        s->sink->may_pause(s->context)
            ? fail(ST_INTERNAL,
                   "the engine does not pause: %llu bytes of events unread and %llu more waiting, at most %d",
                   unread, waiting, LIMIT_OVERSHOOT_BYTES)
            : fail(ST_UNAVAILABLE, "gemmad is draining, and the client has left %llu bytes of events unread",
                   unread + waiting);
    give_up(s, st, status_text());
    return true;
}

static bool takes_no_more(const session *s) {
    return s->why != ST_OK || s->answer.stopped || s->ended_by_token;
}

static void on_started(void *context, uint32_t cached_tokens) {
    session *s = context;
    enter(s);
    s->started_ns = clock_now_ns();
    s->end.cached_tokens = cached_tokens;
    if (s->why == ST_OK) s->sink->started(s->context, cached_tokens);
    leave(s);
}

static void on_progress(void *context, uint32_t prefilled_tokens) {
    session *s = context;
    enter(s);
    s->prefilled_tokens = prefilled_tokens;
    s->progress_waits = true;
    flush(s);
    leave(s);
}

static void on_prompt_logprobs(void *context, uint32_t first_position, const engine_logprob *p, uint32_t n) {
    session *s = context;
    enter(s);
    if (s->why == ST_OK && !overflows(s)) {
        uint64_t expected = s->prompt_position + s->prompt_logprobs.count;
        if (first_position != expected) {
            status st = fail(ST_INTERNAL, "the engine's prompt log-probabilities go on at %u, not %llu",
                             first_position, (unsigned long long)expected);
            give_up(s, st, status_text());
        } else {
            for (uint32_t i = 0; i < n; i++) token_queue_add(&s->prompt_logprobs, p[i].token, &p[i]);
            flush(s);
        }
    }
    if (s->why != ST_OK) cancel_engine(s);
    leave(s);
}

static bool is_ending(const session *s, uint32_t token) {
    for (uint32_t i = 0; i < s->ending_count; i++)
        if (s->ending[i] == token) return true;
    return false;
}

/* Tokens that came together share the time since the last. */
static void count_tokens(session *s, uint32_t n) {
    uint64_t now = clock_now_ns(), since = s->last_token_ns;
    uint32_t gaps = n;
    s->last_token_ns = now;
    if (!s->first_token_ns) {
        s->first_token_ns = since = now;
        gaps = n - 1;
        metrics_observe(s->metrics, METRICS_FIRST_TOKEN_SECONDS, ms_between(s->arrival_ns, now) / 1e3);
        metrics_count(s->metrics, METRICS_PROMPT_TOKENS, s->prompt_tokens);
    }
    for (uint32_t i = 0; i < gaps; i++)
        metrics_observe(s->metrics, METRICS_INTER_TOKEN_SECONDS, ms_between(since, now) / 1e3 / n);
}

static void on_tokens(void *context, const uint32_t *tokens, uint32_t n, const engine_logprob *logprobs) {
    session *s = context;
    enter(s);
    if (!takes_no_more(s) && !overflows(s)) {
        uint32_t before = s->end.completion_tokens;
        count_tokens(s, n);
        for (uint32_t i = 0; i < n && !takes_no_more(s); i++) {
            s->ended_by_token = is_ending(s, tokens[i]);
            answer_add(&s->answer, tokens[i], logprobs ? &logprobs[i] : NULL, s->ended_by_token);
            s->end.completion_tokens++;
            auth_key_tokens(s->who, 1);
        }
        metrics_count(s->metrics, METRICS_GENERATION_TOKENS, s->end.completion_tokens - before);
        flush(s);
    }
    if (s->why != ST_OK || s->answer.stopped) cancel_engine(s);
    leave(s);
}

void session_drained(session *s) {
    if (!s->paused) return;
    enter(s);
    flush(s);
    leave(s);
}

static void on_finished(void *context, const char *reason, const engine_timings *t) {
    session *s = context;
    enter(s);
    INVARIANT(!s->engine_done);
    s->engine_done = true;
    snprintf(s->reason, sizeof s->reason, "%s", reason);
    s->end.queue_ms = (double)t->queue_us / 1e3;
    s->end.prefill_ms = (double)t->prefill_us / 1e3;
    s->end.decode_ms = (double)t->decode_us / 1e3;
    leave(s);
}

static void on_failed(void *context, status st, const char *text) {
    session *s = context;
    enter(s);
    INVARIANT(!s->engine_done && st != ST_OK);
    s->engine_done = true;
    s->engine_status = st;
    snprintf(s->engine_text, sizeof s->engine_text, "%s", text);
    leave(s);
}

status session_open(session **out, const session_options *o) {
    static const engine_listener listener = {on_started, on_progress, on_prompt_logprobs,
                                             on_tokens,  on_finished, on_failed};
    *out = NULL;
    session *s = memory_alloc(sizeof *s);
    s->engine = o->engine;
    s->sink = o->sink;
    s->context = o->context;
    s->arrival_ns = o->arrival_ns;
    s->who = o->who;
    s->metrics = o->metrics;
    s->prompt_tokens = o->request->sample_index == 0 ? o->request->prompt_count : 0;
    s->deadline_ms = o->request->deadline_ms;
    s->submitted_ns = clock_now_ns();
    s->prompt_position = 1; /* nothing predicts the first token */
    s->ending_count = o->request->sampling.stop_token_count;
    s->ending = memory_alloc_array(s->ending_count, sizeof *s->ending);
    if (s->ending_count > 0)
        memcpy(s->ending, o->request->sampling.stop_token, s->ending_count * sizeof *s->ending);
    status st = engine_submit(o->engine, o->request, &listener, s, &s->engine_id);
    if (st != ST_OK) {
        session_free(s);
        return st;
    }
    stop_matcher stop;
    stop_copy(&stop, o->stop);
    answer_open(&s->answer, o->tokenizer, &stop, o->form);
    *out = s;
    return ST_OK;
}
