/* Pages of a sequence, and the places where a prefix cache enters. */
#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sched/sched_internal.h"

/* A window's pages of a long prompt are kept once in so many chunks: they cost as much as a window. */
enum { CHUNKS_BETWEEN_POINTS = 8, QUESTION_PAGES = 4 };

static uint32_t pages_of(uint64_t positions) {
    return (uint32_t)((positions + KV_TOKENS_PER_PAGE - 1) / KV_TOKENS_PER_PAGE);
}

void pages_ahead(const sched *s, const sequence *q, uint64_t count[KV_KINDS]) {
    uint32_t chunk = q->r.token_count - q->done;
    if (chunk > s->o.chunk_max) chunk = s->o.chunk_max;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint32_t held = q->end[kind] - q->first[kind];
        uint32_t need = kv_pages_needed((kv_kind)kind, (uint64_t)q->r.token_count + 1, s->o.window, chunk);
        count[kind] = s->o.uses[kind] && need > held ? need - held : 0;
    }
}

void pages_count(sched *s, const sequence *q, uint64_t count[KV_KINDS]) {
    for (int kind = 0; kind < KV_KINDS; kind++)
        for (uint32_t i = q->first[kind]; i < q->end[kind]; i++) {
            uint32_t *round = &s->counted[kind][q->page[kind][i]];
            count[kind] += *round != s->count_round;
            *round = s->count_round;
        }
}

/* The first sliding page that a row at a position looks at. */
static uint32_t first_in_window(const sched *s, uint32_t position) {
    uint32_t least = position + 1 > s->o.window ? position + 1 - s->o.window : 0;
    return least / KV_TOKENS_PER_PAGE;
}

static void release_first(sched *s, sequence *q, kv_kind kind) {
    uint32_t *page = &q->page[kind][q->first[kind]++];
    kv_pages_release(s->pages, kind, page, 1);
    *page = KV_NO_PAGE;
    s->blocked = NULL;
}

static bool drop_before(sched *s, sequence *q, uint32_t page) {
    bool any = false;
    while (q->first[KV_SLIDING] < page && q->first[KV_SLIDING] < q->end[KV_SLIDING]) {
        release_first(s, q, KV_SLIDING);
        any = true;
    }
    return any;
}

void pages_drop_left(sched *s, sequence *q) {
    if (s->o.uses[KV_SLIDING])
        drop_before(s, q, first_in_window(s, q->done / KV_TOKENS_PER_PAGE * KV_TOKENS_PER_PAGE));
}

/* Sources of a page before anybody is preempted: a page that q keeps for the sake of the prefix cache alone, then what the
 * cache has. */
static bool find_page(sched *s, sequence *q, kv_kind kind) {
    if (s->o.uses[KV_SLIDING] && drop_before(s, q, first_in_window(s, q->done))) return true;
    return prefix_reclaim_for(s, kind);
}

bool pages_cover(sched *s, sequence *q, uint32_t end) {
    for (int kind = 0; kind < KV_KINDS; kind++) {
        if (!s->o.uses[kind]) continue;
        for (; q->end[kind] < pages_of(end); q->end[kind]++) {
            uint32_t *page = &q->page[kind][q->end[kind]];
            while (!kv_pages_take_one(s->pages, (kv_kind)kind, page))
                if (!find_page(s, q, (kv_kind)kind)) return false;
        }
    }
    return true;
}

uint32_t pages_covered(const sched *s, const sequence *q) {
    uint32_t pages = UINT32_MAX / KV_TOKENS_PER_PAGE;
    for (int kind = 0; kind < KV_KINDS; kind++)
        if (s->o.uses[kind] && q->end[kind] < pages) pages = q->end[kind];
    return pages * KV_TOKENS_PER_PAGE;
}

void pages_release_all(sched *s, sequence *q) {
    for (int kind = 0; kind < KV_KINDS; kind++) {
        while (q->first[kind] < q->end[kind]) release_first(s, q, (kv_kind)kind);
        free(q->page[kind]);
        q->page[kind] = NULL;
        q->first[kind] = q->end[kind] = q->sent_first[kind] = q->sent_end[kind] = 0;
    }
    q->done = 0;
}

void pages_tell(plan *p, sequence *q) {
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint32_t dropped = q->first[kind] < q->sent_end[kind] ? q->first[kind] : q->sent_end[kind];
        for (uint32_t i = q->sent_first[kind]; i < dropped; i++)
            plan_add_page(p, q->slot, (kv_kind)kind, i, PLAN_NO_TOKEN);
        uint32_t from = q->sent_end[kind] > q->first[kind] ? q->sent_end[kind] : q->first[kind];
        for (uint32_t i = from; i < q->end[kind]; i++)
            plan_add_page(p, q->slot, (kv_kind)kind, i, q->page[kind][i]);
        q->sent_first[kind] = q->first[kind];
        q->sent_end[kind] = q->end[kind];
    }
}

/* ---- the prefix cache ---- */

static bool hold_prefix(sched *s, sequence *q) {
    const sched_prefix *p = &s->o.prefix;
    uint32_t pages = p->find(p->context, q->r.id, q->r.tokens, q->r.token_count);
    if (pages == SCHED_PREFIX_LATER) return false;
    q->parting = p->parting ? p->parting(p->context, q->r.id) : 0;
    if (pages == 0) return true;
    INVARIANT((uint64_t)pages * KV_TOKENS_PER_PAGE <
              q->r.token_count); /* the last token's logits are needed */
    p->hold(p->context, q->r.id, pages, q->page);
    q->done = pages * KV_TOKENS_PER_PAGE;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        if (!s->o.uses[kind]) continue;
        q->end[kind] = pages;
        q->first[kind] = kind == KV_SLIDING ? first_in_window(s, q->done) : 0;
    }
    return true;
}

bool prefix_begin(sched *s, sequence *q) {
    size_t n = pages_of(last_position(q));
    for (int kind = 0; kind < KV_KINDS; kind++) {
        q->page[kind] = memory_alloc_array(n, sizeof **q->page);
        for (size_t i = 0; i < n; i++) q->page[kind][i] = KV_NO_PAGE;
    }
    bool logprobs = q->r.sampling.prompt_logprobs >= 0 && q->told_logprobs < q->r.prompt_count;
    return !s->o.prefix.find || q->no_prefix || logprobs || hold_prefix(s, q);
}

static void add_point(sched *s, sequence *q, uint32_t pages, bool lasts) {
    const sched_prefix *p = &s->o.prefix;
    if (!p->add || pages == 0) return;
    if (s->o.uses[KV_SLIDING] && q->first[KV_SLIDING] > first_in_window(s, pages * KV_TOKENS_PER_PAGE))
        return;
    (lasts || !p->pass ? p->add : p->pass)(p->context, q->r.id, q->r.tokens, pages,
                                           (const uint32_t *const *)q->page);
}

/* Whether a point lies behind `from` and not behind `to`, in pages. */
static bool passed(uint32_t point, uint32_t from, uint32_t to) { return point > from && point <= to; }

void prefix_computed(sched *s, sequence *q, uint32_t from) {
    uint32_t first = from / KV_TOKENS_PER_PAGE, last = q->done / KV_TOKENS_PER_PAGE;
    /* Where the same prompt can go on from: its last token is always computed. */
    uint32_t prompt = (q->r.prompt_count - 1) / KV_TOKENS_PER_PAGE;
    uint32_t every = CHUNKS_BETWEEN_POINTS * s->o.chunk_max / KV_TOKENS_PER_PAGE;
    if (every == 0) every = 1;
    for (uint32_t point = (first / every + 1) * every; point <= last && point < prompt; point += every)
        add_point(s, q, point, false);
    if (passed(q->parting, first, last) && q->parting < prompt) add_point(s, q, q->parting, true);
    /* A document often ends in a question shorter than this. */
    uint32_t before = prompt > QUESTION_PAGES ? prompt - QUESTION_PAGES : 0;
    if (passed(before, first, last)) add_point(s, q, before, true);
    if (passed(prompt, first, last)) add_point(s, q, prompt, true);
}

void prefix_keep(sched *s, sequence *q) { add_point(s, q, q->done / KV_TOKENS_PER_PAGE, true); }

bool prefix_reclaim_for(sched *s, kv_kind kind) {
    const sched_prefix *p = &s->o.prefix;
    if (!p->reclaim || !p->reclaim(p->context, kind, 1)) return false;
    s->blocked = NULL;
    return true;
}
