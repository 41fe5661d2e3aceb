#include "shard/sched/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sample/penalties.h"

typedef struct sequence {
    sched_request r;
    struct sequence *next; /* waiting queue */
    uint64_t submitted_ns, started_ns, prefilled_ns;
    uint32_t slot;
    uint32_t done; /* tokens whose KV is written or planned */
    uint32_t token_cap;
    uint32_t generated; /* drawn here, without those already emitted */
    uint32_t *pages[KV_KINDS];
    uint32_t page_count[KV_KINDS];
    uint32_t pages_placed; /* sliding pages put into the slot's table so far */
    uint32_t planned;      /* rows in the current step */
    bool finished;
} sequence;

struct sched {
    sched_options o;
    kv_pages *pages;
    sequence **slot;    /* [slots]; NULL: free */
    sequence **running; /* in order of arrival */
    uint32_t running_count, waiting_count;
    sequence *wait_first, **wait_end;
    uint64_t steps, prompt_tokens, generated_tokens;
    sequence **span_owner; /* [slots]: of the current step's spans */
};

static uint64_t now(const sched *s) { return s->o.clock.now_ns(s->o.clock.context); }

sched_options sched_options_of(const instance *in, sched_sink sink) {
    sched_options o = {.slots = in->plan.slots,
                       .rows_max = in->plan.rows_max,
                       .chunk_max = in->plan.chunk_max,
                       .context = in->plan.context,
                       .vocab = in->config->vocab,
                       .window = budget_window(in->config),
                       .slabs = in->plan.slabs,
                       .clock = clock_system,
                       .sink = sink};
    for (int kind = 0; kind < KV_KINDS; kind++) {
        o.pages_per_slab[kind] = in->plan.geometry.pages_per_slab[kind];
        o.uses[kind] = in->plan.geometry.page_bytes[kind] > 0;
    }
    return o;
}

status sched_open(sched **out, const sched_options *o) {
    INVARIANT(o->chunk_max > 0 && o->chunk_max <= o->rows_max && o->slots > 0 && o->slots <= o->rows_max);
    sched *s = memory_alloc(sizeof *s);
    s->o = *o;
    s->slot = memory_alloc_array(o->slots, sizeof *s->slot);
    s->running = memory_alloc_array(o->slots, sizeof *s->running);
    s->span_owner = memory_alloc_array(o->slots, sizeof *s->span_owner);
    s->wait_end = &s->wait_first;
    status st = kv_pages_open(&s->pages, o->slabs, o->pages_per_slab);
    if (st != ST_OK) {
        sched_close(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

static void sequence_free(sequence *q) {
    for (int kind = 0; kind < KV_KINDS; kind++) free(q->pages[kind]);
    free(q->r.tokens);
    free(q);
}

void sched_close(sched *s) {
    if (!s) return;
    for (uint32_t i = 0; i < s->running_count; i++) sequence_free(s->running[i]);
    while (s->wait_first) {
        sequence *q = s->wait_first;
        s->wait_first = q->next;
        sequence_free(q);
    }
    kv_pages_close(s->pages);
    free(s->slot);
    free(s->running);
    free(s->span_owner);
    free(s);
}

static uint64_t last_position(const sequence *q) {
    return (uint64_t)q->r.prompt_count + q->r.sampling.max_tokens;
}

static void pages_wanted(const sched *s, const sequence *q, uint32_t count[KV_KINDS]) {
    for (int kind = 0; kind < KV_KINDS; kind++)
        count[kind] =
            s->o.uses[kind] ? kv_pages_needed(kind, last_position(q), s->o.window, s->o.chunk_max) : 0;
}

static status tell_finished(sched *s, const sequence *q, const char *reason, bool stopped,
                            uint32_t stop_token, status error) {
    uint64_t t = now(s);
    sched_finish f = {.reason = reason, .has_stop_token = stopped, .stop_token = stop_token, .error = error};
    f.error_text = error == ST_OK ? NULL : status_text();
    f.queue_us = ((q->started_ns ? q->started_ns : t) - q->submitted_ns) / 1000;
    if (q->started_ns) f.prefill_us = ((q->prefilled_ns ? q->prefilled_ns : t) - q->started_ns) / 1000;
    if (q->prefilled_ns) f.decode_us = (t - q->prefilled_ns) / 1000;
    return s->o.sink.finished(s->o.sink.context, q->r.id, &f);
}

static status validate(const sched *s, const sequence *q) {
    const sched_request *r = &q->r;
    if (r->prompt_count == 0 || r->token_count < r->prompt_count)
        return fail(ST_INVALID, "prompt of %u tokens in %u", r->prompt_count, r->token_count);
    if (r->sampling.max_tokens == 0 || r->token_count - r->prompt_count >= r->sampling.max_tokens)
        return fail(ST_INVALID, "max_tokens is %u, %u were emitted already", r->sampling.max_tokens,
                    r->token_count - r->prompt_count);
    if (last_position(q) > s->o.context)
        return fail(ST_INVALID, "prompt of %u tokens and max_tokens %u exceed the context of %u",
                    r->prompt_count, r->sampling.max_tokens, s->o.context);
    for (uint32_t i = 0; i < r->token_count; i++)
        if (r->tokens[i] >= s->o.vocab)
            return fail(ST_INVALID, "token %u is %u, the vocabulary has %u", i, r->tokens[i], s->o.vocab);
    uint32_t count[KV_KINDS];
    pages_wanted(s, q, count);
    if (!kv_pages_could_hold(s->pages, count))
        return fail(ST_KV_FULL,
                    "%llu tokens need %u full and %u sliding KV pages, more than all %u slabs hold",
                    (unsigned long long)last_position(q), count[KV_FULL], count[KV_SLIDING], s->o.slabs);
    return ST_OK;
}

status sched_submit(sched *s, sched_request *request) {
    sequence *q = memory_alloc(sizeof *q);
    q->r = *request;
    q->token_cap = q->r.token_count;
    request->tokens = NULL;
    q->submitted_ns = now(s);
    status st = validate(s, q);
    if (st != ST_OK) {
        status told = tell_finished(s, q, "error", false, 0, st);
        sequence_free(q);
        return told;
    }
    *s->wait_end = q;
    s->wait_end = &q->next;
    s->waiting_count++;
    return ST_OK;
}

/* ---- ends ---- */

static void release(sched *s, sequence *q) {
    for (int kind = 0; kind < KV_KINDS; kind++)
        kv_pages_release(s->pages, kind, q->pages[kind], q->page_count[kind]);
    s->slot[q->slot] = NULL;
    uint32_t i = 0;
    while (s->running[i] != q) i++;
    memmove(s->running + i, s->running + i + 1, (s->running_count - i - 1) * sizeof *s->running);
    s->running_count--;
    sequence_free(q);
}

static status drop_waiting(sched *s, sequence **at, const char *reason, status error) {
    sequence *q = *at;
    *at = q->next;
    if (s->wait_end == &q->next) s->wait_end = at;
    s->waiting_count--;
    status st = tell_finished(s, q, reason, false, 0, error);
    sequence_free(q);
    return st;
}

status sched_cancel(sched *s, uint64_t id) {
    for (sequence **at = &s->wait_first; *at; at = &(*at)->next)
        if ((*at)->r.id == id) return drop_waiting(s, at, "cancelled", ST_OK);
    for (uint32_t i = 0; i < s->running_count; i++) {
        sequence *q = s->running[i];
        if (q->r.id != id) continue;
        status st = tell_finished(s, q, "cancelled", false, 0, ST_OK);
        release(s, q);
        return st;
    }
    return ST_OK;
}

static bool expired(const sched *s, const sequence *q, uint64_t t) {
    (void)s;
    return q->r.deadline_ms && t - q->submitted_ns > q->r.deadline_ms * 1000000u;
}

static status expire(sched *s) {
    uint64_t t = now(s);
    for (sequence **at = &s->wait_first; *at;) {
        if (!expired(s, *at, t)) {
            at = &(*at)->next;
            continue;
        }
        TRY(drop_waiting(s, at, "error", fail(ST_TIMEOUT, "the deadline passed while the request waited")));
    }
    for (uint32_t i = 0; i < s->running_count;) {
        sequence *q = s->running[i];
        if (!expired(s, q, t)) {
            i++;
            continue;
        }
        TRY(tell_finished(s, q, "error", false, 0,
                          fail(ST_TIMEOUT, "the deadline passed after %u tokens", q->generated)));
        release(s, q);
    }
    return ST_OK;
}

/* ---- admission ---- */

static status admit(sched *s, plan *p, sequence *q, uint32_t slot) {
    q->slot = slot;
    q->started_ns = now(s);
    s->slot[slot] = q;
    s->running[s->running_count++] = q;
    plan_open *o = plan_add_open(p);
    o->slot = slot;
    o->params = q->r.sampling;
    if (penalties_wanted(&q->r.sampling)) {
        o->prompt_count = q->r.prompt_count;
        o->history_count = q->r.token_count;
        o->first_history = plan_add_tokens(p, q->r.tokens, q->r.token_count);
    }
    for (uint32_t i = 0; i < q->page_count[KV_FULL]; i++)
        plan_add_page(p, slot, KV_FULL, i, q->pages[KV_FULL][i]);
    s->prompt_tokens += q->r.prompt_count;
    return s->o.sink.started(s->o.sink.context, q->r.id, 0, (q->started_ns - q->submitted_ns) / 1000);
}

static status admit_waiting(sched *s, plan *p) {
    while (s->wait_first && s->running_count < s->o.slots) {
        sequence *q = s->wait_first;
        pages_wanted(s, q, q->page_count);
        for (int kind = 0; kind < KV_KINDS; kind++)
            q->pages[kind] = memory_alloc_array(q->page_count[kind], sizeof *q->pages[kind]);
        status st = kv_pages_take(s->pages, q->page_count, q->pages);
        if (st != ST_OK) { /* it waits, and so do those behind it: first come, first served */
            for (int kind = 0; kind < KV_KINDS; kind++) {
                free(q->pages[kind]);
                q->pages[kind] = NULL;
                q->page_count[kind] = 0;
            }
            return st == ST_KV_FULL ? ST_OK : st;
        }
        s->wait_first = q->next;
        if (!s->wait_first) s->wait_end = &s->wait_first;
        q->next = NULL;
        s->waiting_count--;
        uint32_t slot = 0;
        while (s->slot[slot]) slot++;
        TRY(admit(s, p, q, slot));
    }
    return ST_OK;
}

/* ---- the step ---- */

/* A sliding layer needs only its window: page i of the sequence lies where page i - ring did, whose positions
 * the window has left when position 64·i is written. */
static void place_sliding_pages(const sched *s, plan *p, sequence *q, uint32_t end) {
    if (!s->o.uses[KV_SLIDING]) return;
    uint32_t ring = q->page_count[KV_SLIDING], need = (end + KV_TOKENS_PER_PAGE - 1) / KV_TOKENS_PER_PAGE;
    for (; q->pages_placed < need; q->pages_placed++)
        plan_add_page(p, q->slot, KV_SLIDING, q->pages_placed, q->pages[KV_SLIDING][q->pages_placed % ring]);
}

static void add_span(sched *s, plan *p, sequence *q, uint32_t count) {
    uint32_t end = q->done + count;
    bool last = end == q->r.token_count;
    bool logprobs =
        q->r.sampling.prompt_logprobs >= 0 && q->done < q->r.prompt_count && q->r.prompt_count > 1;
    place_sliding_pages(s, p, q, end);
    uint32_t first = plan_add_tokens(p, q->r.tokens + q->done, count);
    plan_span *span = plan_add_span(p);
    span->slot = q->slot;
    span->position = q->done;
    span->count = count;
    span->first_input = first;
    span->draw = last;
    span->logits = logprobs ? PLAN_LOGITS_ALL : last ? PLAN_LOGITS_LAST : PLAN_LOGITS_NONE;
    if (!last && end < q->r.prompt_count) span->next_token = q->r.tokens[end];
    s->span_owner[p->span_count - 1] = q;
    q->planned = count;
}

status sched_plan(sched *s, plan *p) {
    plan_clear(p);
    p->step = ++s->steps;
    TRY(expire(s));
    TRY(admit_waiting(s, p));
    uint32_t left = s->o.rows_max;
    /* Sequences that decode go first: one row each, so that a long prompt never stops a stream. */
    for (uint32_t i = 0; i < s->running_count && left; i++) {
        sequence *q = s->running[i];
        q->planned = 0;
        if (q->r.token_count - q->done != 1) continue;
        add_span(s, p, q, 1);
        left--;
    }
    for (uint32_t i = 0; i < s->running_count && left; i++) {
        sequence *q = s->running[i];
        if (q->planned) continue;
        uint32_t count = q->r.token_count - q->done;
        if (count > s->o.chunk_max) count = s->o.chunk_max;
        if (count > left) count = left;
        add_span(s, p, q, count);
        left -= count;
    }
    return ST_OK;
}

static status take_token(sched *s, sequence *q, const sample_result *r) {
    if (!q->prefilled_ns) q->prefilled_ns = now(s);
    if (q->r.token_count == q->token_cap) {
        q->token_cap = q->token_cap + q->token_cap / 2 + 64;
        q->r.tokens = memory_grow(q->r.tokens, q->token_cap * sizeof *q->r.tokens);
    }
    q->r.tokens[q->r.token_count++] = r->token;
    q->generated++;
    s->generated_tokens++;
    TRY(s->o.sink.token(s->o.sink.context, q->r.id, r->token, r->has_logprob ? &r->logprob : NULL));
    const sampling *p = &q->r.sampling;
    for (uint32_t i = 0; i < p->stop_token_count; i++)
        if (p->stop_token[i] == r->token) {
            q->finished = true;
            return tell_finished(s, q, "stop", true, r->token, ST_OK);
        }
    if (q->r.token_count - q->r.prompt_count == p->max_tokens) {
        q->finished = true;
        return tell_finished(s, q, "length", false, 0, ST_OK);
    }
    return ST_OK;
}

status sched_take_result(void *context, const runner_result *result) {
    sched *s = context;
    sequence *q = s->span_owner[result->span];
    if (result->drawn) return take_token(s, q, &result->sample);
    uint32_t position = q->done + result->row + 1;
    if (position >= q->r.prompt_count) return ST_OK; /* a token emitted before, computed again */
    return s->o.sink.prompt_logprobs(s->o.sink.context, q->r.id, position, &result->sample.logprob, 1);
}

status sched_step_done(sched *s) {
    for (uint32_t i = 0; i < s->running_count;) {
        sequence *q = s->running[i];
        q->done += q->planned;
        bool prefilling = q->planned && q->done < q->r.prompt_count;
        q->planned = 0;
        if (prefilling) TRY(s->o.sink.progress(s->o.sink.context, q->r.id, q->done));
        if (q->finished) release(s, q);
        else i++;
    }
    return ST_OK;
}

bool sched_has_work(const sched *s) { return s->running_count > 0 || s->wait_first; }
uint32_t sched_running(const sched *s) { return s->running_count; }
uint32_t sched_waiting(const sched *s) { return s->waiting_count; }
uint32_t sched_slabs_used(const sched *s) { return kv_pages_slabs_used(s->pages); }
uint64_t sched_prompt_tokens(const sched *s) { return s->prompt_tokens; }
uint64_t sched_generated_tokens(const sched *s) { return s->generated_tokens; }
