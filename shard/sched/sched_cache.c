#include "shard/sched/sched_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kv/prefix_spill.h"

enum { STEP_BYTES = 32 << 20 /* of every rank that a step may read or write: some 20 ms */ };

/* What is remembered of a request between calls. */
typedef struct asked {
    struct asked *next;
    uint64_t id;
    prefix_chain chain;
    prefix_hit hit;
    uint32_t parting;
} asked;

struct sched_cache {
    prefix_cache *memory;
    prefix_spill *spill; /* NULL: none */
    kv_pages *book;
    prefix_options options;
    uint32_t pages_per_slab[KV_KINDS];
    asked *requests;
    /* until open */
    const instance *in;
};

/* ---- pages of the scheduler's book ---- */

static void retain(void *context, kv_kind kind, uint32_t page) {
    kv_pages_retain(((sched_cache *)context)->book, kind, page);
}

static void release(void *context, kv_kind kind, uint32_t page) {
    kv_pages_release(((sched_cache *)context)->book, kind, &page, 1);
}

static uint32_t references(void *context, kv_kind kind, uint32_t page) {
    return kv_pages_references(((sched_cache *)context)->book, kind, page);
}

static bool take(void *context, kv_kind kind, uint32_t *page) {
    sched_cache *c = context;
    while (!kv_pages_take_one(c->book, kind, page))
        if (!prefix_reclaim(c->memory, kind, 1)) return false;
    return true;
}

/* ---- open ---- */

void sched_cache_open(sched_cache **out, const sched_options *o, const instance *in) {
    sched_cache *c = memory_alloc(sizeof *c);
    kv_kind chain = o->uses[KV_FULL] ? KV_FULL : KV_SLIDING;
    uint64_t nodes = (uint64_t)o->slabs * o->pages_per_slab[chain];
    c->in = in;
    c->options = (prefix_options){.nodes = nodes < PREFIX_NODES_MAX ? (uint32_t)nodes : PREFIX_NODES_MAX,
                                  .window = o->window,
                                  .uses = {o->uses[0], o->uses[1]},
                                  .pages = {c, retain, release, references}};
    memcpy(c->pages_per_slab, o->pages_per_slab, sizeof c->pages_per_slab);
    *out = c;
}

static void cache_open(void *context, kv_pages *book) {
    sched_cache *c = context;
    c->book = book;
    prefix_open(&c->memory, &c->options);
    if (!c->in->spill) return;
    prefix_spill_options o = {.memory = c->memory,
                              .like = c->options,
                              .take = take,
                              .limit_bytes = c->in->spill_bytes,
                              .step_bytes = (uint64_t)STEP_BYTES * c->in->split->ranks,
                              .found = c->in->spilled,
                              .found_count = c->in->spilled_count};
    memcpy(o.file_bytes, c->in->spill_file_bytes, sizeof o.file_bytes);
    prefix_spill_open(&c->spill, &o);
}

static void asked_free(asked *a) {
    prefix_chain_free(&a->chain);
    free(a);
}

static void cache_close(void *context) {
    sched_cache *c = context;
    while (c->requests) {
        asked *a = c->requests;
        c->requests = a->next;
        asked_free(a);
    }
    prefix_spill_close(c->spill);
    prefix_close(c->memory);
    free(c);
}

/* ---- requests ---- */

static asked *request_of(sched_cache *c, uint64_t id, const uint32_t *tokens, uint32_t n) {
    asked *a = c->requests;
    while (a && a->id != id) a = a->next;
    if (!a) {
        a = memory_alloc(sizeof *a);
        a->id = id;
        a->next = c->requests;
        c->requests = a;
    }
    prefix_chain_extend(&a->chain, tokens, n);
    return a;
}

static void cache_forget(void *context, uint64_t id) {
    sched_cache *c = context;
    for (asked **at = &c->requests; *at; at = &(*at)->next) {
        asked *a = *at;
        if (a->id != id) continue;
        *at = a->next;
        asked_free(a);
        return;
    }
}

static uint32_t cache_find(void *context, uint64_t id, const uint32_t *tokens, uint32_t n) {
    sched_cache *c = context;
    asked *a = request_of(c, id, tokens, n);
    a->hit = prefix_find(c->memory, &a->chain, tokens, n);
    if (c->spill && prefix_spill_find(c->spill, id, &a->chain, tokens, n, a->hit.pages))
        return SCHED_PREFIX_LATER;
    uint32_t on_disk = c->spill ? prefix_spill_known(c->spill, &a->chain, tokens, n) : 0;
    a->parting = on_disk > a->hit.known ? on_disk : a->hit.known;
    return a->hit.pages;
}

static uint32_t cache_parting(void *context, uint64_t id) {
    const asked *a = ((sched_cache *)context)->requests;
    while (a && a->id != id) a = a->next;
    return a ? a->parting : 0;
}

static void cache_hold(void *context, uint64_t id, uint32_t pages, uint32_t *const page[KV_KINDS]) {
    sched_cache *c = context;
    asked *a = request_of(c, id, NULL, 0);
    INVARIANT(a->hit.pages == pages);
    prefix_hold(c->memory, &a->hit, page);
}

static void cache_started(void *context, uint32_t queried, uint32_t hit) {
    prefix_count(((sched_cache *)context)->memory, queried, hit);
}

static void cache_pass(void *context, uint64_t id, const uint32_t *tokens, uint32_t pages,
                       const uint32_t *const page[KV_KINDS]) {
    sched_cache *c = context;
    asked *a = request_of(c, id, tokens, pages * KV_TOKENS_PER_PAGE);
    (void)prefix_add(c->memory, &a->chain, tokens, pages, page);
}

static void cache_add(void *context, uint64_t id, const uint32_t *tokens, uint32_t pages,
                      const uint32_t *const page[KV_KINDS]) {
    sched_cache *c = context;
    asked *a = request_of(c, id, tokens, pages * KV_TOKENS_PER_PAGE);
    (void)prefix_add(c->memory, &a->chain, tokens, pages, page);
    if (c->spill) prefix_spill_add(c->spill, &a->chain, tokens, pages, page);
}

static bool cache_reclaim(void *context, kv_kind kind, uint32_t n) {
    sched_cache *c = context;
    if (prefix_reclaim(c->memory, kind, n) || prefix_reclaim(c->memory, KV_KINDS - 1 - kind, n)) return true;
    /* Pages that wait to be written, and those that are being read, are the last to go. */
    return c->spill && (prefix_spill_flush(c->spill) || prefix_spill_abandon(c->spill));
}

/* ---- steps ---- */

static void cache_plan(void *context, plan *p) {
    sched_cache *c = context;
    uint32_t n = 0;
    if (!c->spill) return;
    const spill_op *ops = prefix_spill_plan(c->spill, &n);
    plan_add_spills(p, ops, n);
}

static void cache_done(void *context, const uint8_t *ok) {
    sched_cache *c = context;
    if (c->spill) prefix_spill_done(c->spill, ok);
}

static bool cache_busy(const void *context) {
    const sched_cache *c = context;
    return c->spill && prefix_spill_busy(c->spill);
}

sched_prefix sched_cache_hooks(sched_cache *c) {
    return (sched_prefix){.context = c,
                          .find = cache_find,
                          .hold = cache_hold,
                          .add = cache_add,
                          .reclaim = cache_reclaim,
                          .forget = cache_forget,
                          .pass = cache_pass,
                          .parting = cache_parting,
                          .started = cache_started,
                          .open = cache_open,
                          .plan = cache_plan,
                          .done = cache_done,
                          .busy = cache_busy,
                          .close = cache_close};
}

sched_cache_counts sched_cache_state(const sched_cache *c) {
    prefix_statistics s = prefix_state(c->memory);
    sched_cache_counts out = {.queried_tokens = s.queried_tokens, .hit_tokens = s.hit_tokens};
    uint32_t alone[KV_KINDS], most = c->pages_per_slab[KV_FULL] > c->pages_per_slab[KV_SLIDING]
                                         ? c->pages_per_slab[KV_FULL]
                                         : c->pages_per_slab[KV_SLIDING];
    prefix_alone(c->memory, alone);
    for (int kind = 0; kind < KV_KINDS; kind++)
        out.pages += (uint64_t)alone[kind] * most / c->pages_per_slab[kind];
    if (c->spill) out.spilled_bytes = prefix_spill_state(c->spill).bytes;
    return out;
}
