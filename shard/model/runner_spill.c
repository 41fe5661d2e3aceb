/* A step's files. A page that one rank cannot read is lost for all: the leader hears what every rank did, and has the text
 * computed again. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "shard/model/runner_internal.h"

void *runner_page(const runner *r, kv_kind kind, uint32_t page) {
    uint32_t per_slab = r->geometry.pages_per_slab[kind];
    return (char *)r->pool + page / per_slab * r->geometry.slab_bytes +
           page % per_slab * r->geometry.page_bytes[kind];
}

void *runner_host_page(runner *r, kv_kind kind, uint32_t page) {
    if (r->b->is_host) return runner_page(r, kind, page);
    uint64_t sliding = r->geometry.page_bytes[KV_SLIDING], full = r->geometry.page_bytes[KV_FULL];
    if (!r->page) r->page = memory_alloc(sliding > full ? sliding : full);
    return r->page;
}

void runner_send_page(runner *r, kv_kind kind, uint32_t page) {
    if (!r->b->is_host)
        r->ops->put(r->b, runner_page(r, kind, page), r->page, r->geometry.page_bytes[kind]);
}

static status write_page(runner *r, const spill_page *what, uint32_t page) {
    void *bytes = runner_host_page(r, what->kind, page);
    if (!r->b->is_host)
        TRY(r->ops->get(r->b, bytes, runner_page(r, what->kind, page), r->geometry.page_bytes[what->kind]));
    return spill_write(r->o.spill, what, bytes);
}

static status read_page(runner *r, kv_kind kind, const uint8_t *key, uint32_t page) {
    TRY(spill_read(r->o.spill, kind, key, runner_host_page(r, kind, page)));
    runner_send_page(r, kind, page);
    return ST_OK;
}

static bool carry_out(runner *r, const spill_op *op) {
    kv_kind kind = op->what.kind;
    status st = ST_OK;
    switch ((spill_action)op->action) {
    case SPILL_WRITE: st = write_page(r, &op->what, op->page); break;
    case SPILL_READ: st = read_page(r, kind, op->what.key, op->page); break;
    case SPILL_REMOVE: spill_remove(r->o.spill, kind, op->what.key); break;
    }
    if (st == ST_OK) return true;
    uint64_t n = ++r->spill_failures; /* a full disk fails often */
    if ((n & (n - 1)) == 0)
        log_warn("--spill: failure %llu: %s; what is lost is computed again", (unsigned long long)n,
                 status_text());
    return false;
}

status runner_spill(runner *r, const plan *p) {
    uint32_t n = p->spill_count, ranks = r->o.split->ranks;
    if (n == 0) return ST_OK;
    INVARIANT(r->o.spill);
    if (n > r->spilled_cap) {
        r->spilled_cap = n * 2;
        r->spilled = memory_grow(r->spilled, (size_t)r->spilled_cap * (ranks + 1));
    }
    uint8_t *all = r->spilled + n;
    for (uint32_t i = 0; i < n; i++) r->spilled[i] = carry_out(r, &p->spill[i]);
    TRY(comm_all_gather(r->o.ranks, r->spilled, n, all));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t rank = 0; rank < ranks; rank++) r->spilled[i] &= all[(size_t)rank * n + i];
    return ST_OK;
}

const uint8_t *runner_spilled(const runner *r) { return r->spilled; }
