#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sched/sched_internal.h"

uint64_t sched_now(const sched *s) { return s->o.clock.now_ns(s->o.clock.context); }

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
    INVARIANT(o->prefill_min_share <= LIMIT_PREFILL_SHARE);
    sched *s = memory_alloc(sizeof *s);
    s->o = *o;
    if (!s->o.prefill_min_share) s->o.prefill_min_share = SCHED_MIN_SHARE;
    s->next_deadline_ns = UINT64_MAX;
    s->slot = memory_alloc_array(o->slots, sizeof *s->slot);
    s->running = memory_alloc_array(o->slots, sizeof *s->running);
    s->prefill = memory_alloc_array(o->slots, sizeof *s->prefill);
    s->span_owner = memory_alloc_array(o->slots, sizeof *s->span_owner);
    for (int kind = 0; kind < KV_KINDS; kind++)
        s->counted[kind] =
            memory_alloc_array((size_t)o->slabs * o->pages_per_slab[kind], sizeof **s->counted);
    status st = kv_pages_open(&s->pages, o->slabs, o->pages_per_slab);
    if (st != ST_OK) {
        sched_close(s);
        return st;
    }
    s->grammars = grammar_book_open(o->vocab);
    s->allowed = allowed_sets_open(o->vocab);
    if (s->o.prefix.open) s->o.prefix.open(s->o.prefix.context, s->pages);
    *out = s;
    return ST_OK;
}

void sched_close(sched *s) {
    if (!s) return;
    while (s->all_first) sequence_end(s, s->all_first);
    if (s->o.prefix.close) s->o.prefix.close(s->o.prefix.context);
    kv_pages_close(s->pages);
    for (int kind = 0; kind < KV_KINDS; kind++) free(s->counted[kind]);
    grammar_book_close(s->grammars);
    allowed_sets_close(s->allowed);
    free(s->slot);
    free(s->running);
    free(s->prefill);
    free(s->span_owner);
    free(s);
}

uint64_t last_position(const sequence *q) { return (uint64_t)q->r.prompt_count + q->r.sampling.max_tokens; }

status tell_finished(sched *s, const sequence *q, const char *reason, bool stopped, uint32_t stop_token,
                     status error) {
    uint64_t t = sched_now(s);
    sched_finish f = {.reason = reason, .has_stop_token = stopped, .stop_token = stop_token, .error = error};
    f.error_text = error == ST_OK ? NULL : status_text();
    f.queue_us = ((q->started_ns ? q->started_ns : t) - q->submitted_ns) / 1000;
    if (q->started_ns) f.prefill_us = ((q->prefilled_ns ? q->prefilled_ns : t) - q->started_ns) / 1000;
    if (q->prefilled_ns) f.decode_us = (t - q->prefilled_ns) / 1000;
    return s->o.sink.finished(s->o.sink.context, q->r.id, &f);
}

/* ---- coming ---- */

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
    for (int kind = 0; kind < KV_KINDS; kind++)
        count[kind] = s->o.uses[kind]
                          ? kv_pages_needed((kv_kind)kind, last_position(q), s->o.window, s->o.chunk_max)
                          : 0;
    if (!kv_pages_could_hold(s->pages, count))
        return fail(ST_KV_FULL,
                    "%llu tokens need %u full and %u sliding KV pages, more than all %u slabs hold",
                    (unsigned long long)last_position(q), count[KV_FULL], count[KV_SLIDING], s->o.slabs);
    return ST_OK;
}

static uint64_t deadline_ns(const sequence *q) {
    return q->r.deadline_ms ? q->submitted_ns + q->r.deadline_ms * 1000000u : UINT64_MAX;
}

status sched_submit(sched *s, sched_request *request) {
    sequence *q = memory_alloc(sizeof *q);
    q->r = *request;
    q->token_cap = q->r.token_count;
    q->told_logprobs = 1; /* nothing predicts position 0 */
    request->tokens = NULL;
    q->submitted_ns = sched_now(s);
    request->grammar = NULL;
    bool follows = q->r.grammar || q->r.same_grammar;
    status st = grammar_arrive(s, q);
    if (st == ST_OK) st = validate(s, q);
    if (st == ST_OK && follows) st = grammar_begin(s, q);
    if (st != ST_OK) {
        status told = tell_finished(s, q, "error", false, 0, st);
        free(q->r.tokens);
        free(q);
        return told;
    }
    q->order = ++s->orders;
    q->all_previous = s->all_last;
    if (s->all_last) s->all_last->all_next = q;
    else s->all_first = q;
    s->all_last = q;
    if (deadline_ns(q) < s->next_deadline_ns) s->next_deadline_ns = deadline_ns(q);
    queue_join(s, q);
    queue_wait(s, q);
    return ST_OK;
}

/* ---- going ---- */

void sequence_end(sched *s, sequence *q) {
    if (q->queue) {
        queue_take_out(s, q);
        s->waiting_paused -= q->paused;
    } else {
        stop_running(s, q);
    }
    queue_leave(s, q);
    if (s->o.prefix.forget) s->o.prefix.forget(s->o.prefix.context, q->r.id);
    if (s->sole == q) s->sole = NULL;
    if (s->blocked == q) s->blocked = NULL;
    if (q->all_next) q->all_next->all_previous = q->all_previous;
    else s->all_last = q->all_previous;
    if (q->all_previous) q->all_previous->all_next = q->all_next;
    else s->all_first = q->all_next;
    grammar_state_close(q->grammar);
    free(q->r.tokens);
    free(q);
}

static sequence *find(const sched *s, uint64_t id) {
    sequence *q = s->all_first;
    while (q && q->r.id != id) q = q->all_next;
    return q;
}

status sched_cancel(sched *s, uint64_t id) {
    sequence *q = find(s, id);
    if (!q) return ST_OK;
    status st = tell_finished(s, q, "cancelled", false, 0, ST_OK);
    sequence_end(s, q);
    return st;
}

status sched_pause(sched *s, uint64_t id, bool paused) {
    sequence *q = find(s, id);
    if (!q || q->paused == paused) return ST_OK;
    if (q->queue) {
        q->paused = paused;
        s->waiting_paused += paused ? 1 : -1u;
    } else {
        running_remove(s, q);
        q->paused = paused;
        running_insert(s, q);
    }
    /* Others must not wait for who does not go on. */
    if (paused && s->sole == q) s->sole = NULL;
    s->blocked = NULL;
    return ST_OK;
}

status sched_expire(sched *s) {
    uint64_t t = sched_now(s);
    if (t <= s->next_deadline_ns) return ST_OK;
    s->next_deadline_ns = UINT64_MAX;
    for (sequence *q = s->all_first, *next; q; q = next) {
        next = q->all_next;
        if (t <= deadline_ns(q)) {
            if (deadline_ns(q) < s->next_deadline_ns) s->next_deadline_ns = deadline_ns(q);
            continue;
        }
        status late = q->started ? fail(ST_TIMEOUT, "the deadline passed after %u tokens", q->generated)
                                 : fail(ST_TIMEOUT, "the deadline passed while the request waited");
        status st = tell_finished(s, q, "error", false, 0, late);
        sequence_end(s, q);
        TRY(st);
    }
    return ST_OK;
}

/* ---- counts ---- */

void sched_fix_chunk(sched *s, uint32_t rows) { s->o.fixed_chunk = rows; }
static bool spills(const sched *s) { return s->o.prefix.busy && s->o.prefix.busy(s->o.prefix.context); }
bool sched_has_work(const sched *s) {
    return s->running_count > s->running_paused || queue_next(s) || spills(s);
}
uint32_t sched_running(const sched *s) { return s->running_count; }
uint32_t sched_waiting(const sched *s) { return s->waiting_count; }
uint32_t sched_paused(const sched *s) { return s->running_paused + s->waiting_paused; }
uint64_t sched_preemptions(const sched *s) { return s->preemptions; }
uint32_t sched_slabs_used(const sched *s) { return kv_pages_slabs_used(s->pages); }
uint64_t sched_prompt_tokens(const sched *s) { return s->prompt_tokens; }
uint64_t sched_generated_tokens(const sched *s) { return s->generated_tokens; }
uint64_t sched_step_ns(const sched *s) { return s->budget.step_ns; }
kv_pages *sched_pages(sched *s) { return s->pages; }

static uint32_t most_per_slab(const sched *s) {
    const uint32_t *n = s->o.pages_per_slab;
    return n[KV_FULL] > n[KV_SLIDING] ? n[KV_FULL] : n[KV_SLIDING];
}

uint64_t sched_pages_used(const sched *s) {
    uint64_t used = 0;
    for (int kind = 0; kind < KV_KINDS; kind++)
        used +=
            (uint64_t)kv_pages_used(s->pages, (kv_kind)kind) * most_per_slab(s) / s->o.pages_per_slab[kind];
    return used;
}

uint64_t sched_pages_total(const sched *s) { return (uint64_t)s->o.slabs * most_per_slab(s); }
