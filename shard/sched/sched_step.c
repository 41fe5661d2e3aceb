/* One step: rows, pages for them, the plan; and what comes of it. */
#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sample/penalties.h"
#include "shard/sched/sched_internal.h"

/* ---- rows ---- */

static bool decodes(const sequence *q) { return q->r.token_count - q->done == 1; }

static bool prefill_before(const sequence *a, const sequence *b) {
    if (a->r.priority != b->r.priority) return a->r.priority > b->r.priority;
    if (a->client->service != b->client->service) return a->client->service < b->client->service;
    return a->order < b->order;
}

/* Sequences that decode get their row; those that do not are put into s->prefill in their order. */
static uint32_t choose_decodes(sched *s, uint32_t *decoding) {
    uint32_t prompts = 0;
    *decoding = 0;
    for (uint32_t i = 0; i < s->running_count; i++) {
        sequence *q = s->running[i];
        q->planned = 0;
        if (q->paused) continue;
        if (decodes(q)) {
            q->planned = 1;
            ++*decoding;
            continue;
        }
        uint32_t at = prompts++;
        for (; at > 0 && prefill_before(q, s->prefill[at - 1]); at--) s->prefill[at] = s->prefill[at - 1];
        s->prefill[at] = q;
    }
    return prompts;
}

/* A row for every stream, and prompts as far as the budget goes. There are as many rows as slots at least, so streams
 * always leave one to each prompt. */
static void choose_rows(sched *s) {
    uint32_t decoding, prompts = choose_decodes(s, &decoding), left = s->o.rows_max - decoding;
    double ns = budget_for_prompts(&s->budget, decoding, s->o.prefill_min_share);
    for (uint32_t i = 0; i < prompts && left > 0; i++) {
        sequence *q = s->prefill[i];
        uint32_t count = q->r.token_count - q->done;
        if (count > s->o.chunk_max) count = s->o.chunk_max;
        if (count > left) count = left;
        if (!s->o.fixed_chunk) count = budget_rows(&s->budget, q->done, count, &ns);
        else if (count > s->o.fixed_chunk) count = s->o.fixed_chunk;
        q->planned = count;
        left -= count;
    }
}

/* ---- pages ---- */

/* Takes what the planned rows write. Whoever stands behind q gives way; with nobody left behind, q computes what its pages
 * hold and goes on when others have ended. */
static void reserve(sched *s, sequence *q) {
    pages_drop_left(s, q);
    while (!pages_cover(s, q, q->done + q->planned)) {
        sequence *victim = s->running[s->running_count - 1];
        if (victim == q) break;
        preempt(s, victim);
    }
    uint32_t room = pages_covered(s, q) - q->done;
    if (q->planned > room) q->planned = room;
    if (q->planned > 0 || s->running_count > 1) return;
    /* Alone, and still no page: its own lie scattered over slabs of both kinds. From an empty pool it fits. */
    s->sole = q;
    q->no_prefix = true;
    preempt(s, q);
}

static void reserve_all(sched *s) {
    uint32_t rows = 0;
    for (uint32_t i = 0; i < s->running_count; i++) {
        if (s->running[i]->planned) reserve(s, s->running[i]);
        if (i < s->running_count) rows += s->running[i]->planned;
    }
    if (rows > 0 || s->running_count == s->running_paused) return;
    /* Streams wait for pages, and prompts were left out for the sake of streams: the first of all goes on, for whom
     * everybody gives way. */
    sequence *q = s->running[0];
    q->planned = q->r.token_count - q->done;
    if (q->planned > s->o.chunk_max) q->planned = s->o.chunk_max;
    reserve(s, q);
}

/* ---- the plan ---- */

static void tell_open(plan *p, sequence *q) {
    if (!q->open_due) return;
    q->open_due = false;
    plan_open *o = plan_add_open(p);
    o->slot = q->slot;
    o->params = q->r.sampling;
    if (!penalties_wanted(&q->r.sampling)) return;
    o->prompt_count = q->r.prompt_count;
    o->history_count = q->r.token_count;
    o->first_history = plan_add_tokens(p, q->r.tokens, q->r.token_count);
}

/* Log-probabilities of the prompt that no step before has told. */
static bool tells_prompt(const sequence *q) {
    return q->r.sampling.prompt_logprobs >= 0 && q->told_logprobs < q->r.prompt_count &&
           q->done + q->planned >= q->told_logprobs;
}

static void add_span(sched *s, plan *p, sequence *q) {
    uint32_t end = q->done + q->planned;
    bool last = end == q->r.token_count;
    budget_count_rows(&s->budget, q->done, q->planned, decodes(q));
    tell_open(p, q);
    pages_tell(p, q);
    uint32_t first = plan_add_tokens(p, q->r.tokens + q->done, q->planned);
    plan_span *span = plan_add_span(p);
    span->slot = q->slot;
    span->position = q->done;
    span->count = q->planned;
    span->first_input = first;
    span->draw = last;
    span->logits = tells_prompt(q) ? PLAN_LOGITS_ALL : last ? PLAN_LOGITS_LAST : PLAN_LOGITS_NONE;
    if (!last && end < q->r.prompt_count) span->next_token = q->r.tokens[end];
    grammar_tell(s, p, q, span);
    s->span_owner[p->span_count - 1] = q;
}

status sched_plan(sched *s, plan *p) {
    plan_clear(p);
    p->step = ++s->steps;
    TRY(sched_expire(s));
    TRY(admit_waiting(s));
    choose_rows(s);
    reserve_all(s);
    budget_step_begin(&s->budget, sched_now(s));
    for (uint32_t i = 0; i < s->running_count; i++)
        if (s->running[i]->planned) add_span(s, p, s->running[i]);
    if (s->o.prefix.plan) s->o.prefix.plan(s->o.prefix.context, p);
    return ST_OK;
}

/* ---- results ---- */

static status take_token(sched *s, sequence *q, const sample_result *r) {
    if (!q->prefilled_ns) q->prefilled_ns = sched_now(s);
    if (q->r.token_count == q->token_cap) {
        q->token_cap = q->token_cap + q->token_cap / 2 + 64;
        q->r.tokens = memory_grow(q->r.tokens, q->token_cap * sizeof *q->r.tokens);
    }
    q->r.tokens[q->r.token_count++] = r->token;
    q->generated++;
    s->generated_tokens++;
    queue_served(q);
    TRY(s->o.sink.token(s->o.sink.context, q->r.id, r->token, r->has_logprob ? &r->logprob : NULL));
    const sampling *p = &q->r.sampling;
    for (uint32_t i = 0; i < p->stop_token_count; i++)
        if (p->stop_token[i] == r->token) {
            q->finished = true;
            return tell_finished(s, q, "stop", true, r->token, ST_OK);
        }
    status st = grammar_took(q, r->token);
    if (st != ST_OK || grammar_ended(q)) { /* with ignore_eos no stop token ends it, but nothing may follow */
        q->finished = true;
        return tell_finished(s, q, st == ST_OK ? "stop" : "error", st == ST_OK, r->token, st);
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
    /* A token emitted before, or one whose log-probability was told before: both computed again. */
    if (position >= q->r.prompt_count || position < q->told_logprobs) return ST_OK;
    q->told_logprobs = position + 1;
    return s->o.sink.prompt_logprobs(s->o.sink.context, q->r.id, position, &result->sample.logprob, 1);
}

static status advance(sched *s, sequence *q) {
    uint32_t from = q->done;
    q->done += q->planned;
    q->planned = 0;
    prefix_computed(s, q, from);
    if (q->done >= q->r.prompt_count) {
        queue_prompt_computed(q);
        return ST_OK;
    }
    if (q->done <= q->told_progress) return ST_OK;
    q->told_progress = q->done;
    return s->o.sink.progress(s->o.sink.context, q->r.id, q->done);
}

void sched_spilled(sched *s, const uint8_t *ok) {
    if (s->o.prefix.done) s->o.prefix.done(s->o.prefix.context, ok);
}

status sched_step_done(sched *s) {
    budget_step_done(&s->budget, sched_now(s));
    for (uint32_t i = 0; i < s->running_count;) {
        sequence *q = s->running[i];
        if (q->planned) TRY(advance(s, q));
        if (!q->finished) {
            i++;
            continue;
        }
        prefix_keep(s, q);
        sequence_end(s, q);
    }
    return ST_OK;
}
