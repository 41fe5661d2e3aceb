/* Who gets a slot, and who gives his up. */
#include <string.h>

#include "shard/sched/sched_internal.h"

/* ---- running ---- */

void running_insert(sched *s, sequence *q) {
    uint32_t i = s->running_count++;
    for (; i > 0 && queue_before(q, s->running[i - 1]); i--) s->running[i] = s->running[i - 1];
    s->running[i] = q;
    s->running_paused += q->paused;
}

void running_remove(sched *s, sequence *q) {
    uint32_t i = 0;
    while (s->running[i] != q) i++;
    memmove(s->running + i, s->running + i + 1, (s->running_count - i - 1) * sizeof *s->running);
    s->running_count--;
    s->running_paused -= q->paused;
}

void stop_running(sched *s, sequence *q) {
    pages_release_all(s, q);
    s->slot[q->slot] = NULL;
    s->blocked = NULL;
    running_remove(s, q);
    q->client->running--;
    q->planned = 0;
}

void preempt(sched *s, sequence *q) {
    prefix_keep(s, q);
    stop_running(s, q);
    s->waiting_paused += q->paused;
    s->preemptions++;
    queue_return(s, q);
}

/* ---- room ---- */

/* What q needs for the tokens it has, with what the running ones still need for theirs and one page more for each, so
 * that a start is not paid with a preemption a few tokens later. */
static void pages_wanted(const sched *s, const sequence *q, uint64_t count[KV_KINDS]) {
    pages_ahead(s, q, count);
    for (uint32_t i = 0; i < s->running_count; i++) {
        uint64_t more[KV_KINDS];
        if (s->running[i]->paused) continue;
        pages_ahead(s, s->running[i], more);
        for (int kind = 0; kind < KV_KINDS; kind++) count[kind] += more[kind];
        if (s->o.uses[KV_FULL]) count[KV_FULL]++;
    }
}

static bool reclaim_any(sched *s, const uint64_t count[KV_KINDS]) {
    kv_kind kind = count[KV_FULL] > kv_pages_free(s->pages, KV_FULL) ? KV_FULL : KV_SLIDING;
    return prefix_reclaim_for(s, kind);
}

static bool may_displace(const sequence *q, const sequence *victim) {
    return victim->paused || victim->r.priority < q->r.priority;
}

/* Whether q fits beside those it may not displace, if the prefix cache gave all and fragments are left aside: nothing is
 * thrown away for somebody who has to wait all the same. */
static bool could_fit(sched *s, const sequence *q) {
    uint64_t pages[KV_KINDS];
    double slabs = 0;
    pages_ahead(s, q, pages);
    s->count_round++;
    pages_count(s, q, pages);
    for (uint32_t i = 0; i < s->running_count && !may_displace(q, s->running[i]); i++) {
        uint64_t more[KV_KINDS];
        pages_ahead(s, s->running[i], more);
        pages_count(s, s->running[i], more);
        for (int kind = 0; kind < KV_KINDS; kind++) pages[kind] += more[kind];
        if (s->o.uses[KV_FULL]) pages[KV_FULL]++;
    }
    for (int kind = 0; kind < KV_KINDS; kind++) slabs += (double)pages[kind] / s->o.pages_per_slab[kind];
    return slabs <= kv_pages_slabs(s->pages);
}

/* One step towards room for q; false: there is none to be had. */
static bool gain_room(sched *s, sequence *q) {
    uint64_t count[KV_KINDS];
    pages_wanted(s, q, count);
    if (s->running_count < s->o.slots && reclaim_any(s, count)) return true;
    if (s->running_count > 0) {
        sequence *victim = s->running[s->running_count - 1];
        if (!may_displace(q, victim)) return false;
        preempt(s, victim);
        return true;
    }
    /* Alone it fits into an empty pool, which the pages of its own prefix keep from being empty, or those that somebody
     * holds for a moment, who is not asked again here. */
    if (q->done == 0) return false;
    pages_release_all(s, q);
    q->no_prefix = true;
    return prefix_begin(s, q);
}

static bool has_room(const sched *s, const sequence *q) {
    uint64_t count[KV_KINDS];
    if (s->running_count == s->o.slots) return false;
    pages_wanted(s, q, count);
    return kv_pages_fit(s->pages, count);
}

static bool make_room(sched *s, sequence *q) {
    if (s->blocked == q) return false;
    /* No look at the prefix cache for a slot that nobody gives up. */
    if (s->running_count == s->o.slots && !may_displace(q, s->running[s->running_count - 1])) return false;
    if (!prefix_begin(s, q)) {
        pages_release_all(s, q);
        return false;
    }
    bool could = has_room(s, q) || could_fit(s, q);
    while (!has_room(s, q))
        if (!could || !gain_room(s, q)) {
            pages_release_all(s, q);
            if (s->running_count > 0) s->blocked = q;
            return false;
        }
    return true;
}

/* ---- start ---- */

static status start(sched *s, sequence *q) {
    queue_take_out(s, q);
    q->slot = 0;
    while (s->slot[q->slot]) q->slot++;
    s->slot[q->slot] = q;
    running_insert(s, q);
    q->client->running++;
    queue_started(q, q->r.token_count - q->done);
    q->open_due = true;
    q->no_prefix = false;
    if (q->started) return ST_OK;
    q->started = true;
    q->started_ns = sched_now(s);
    s->prompt_tokens += q->r.prompt_count;
    uint32_t cached = q->done < q->r.prompt_count ? q->done : q->r.prompt_count;
    q->told_progress = cached;
    if (s->o.prefix.started) s->o.prefix.started(s->o.prefix.context, q->r.prompt_count, cached);
    return s->o.sink.started(s->o.sink.context, q->r.id, cached, (q->started_ns - q->submitted_ns) / 1000);
}

status admit_waiting(sched *s) {
    for (sequence *q; (q = queue_next(s)) && make_room(s, q);) TRY(start(s, q));
    return ST_OK;
}
