/* What is no exchange: who is where, waking, giving up. And the back end `self`. */
#include "shard/comm/comm.h"

#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/comm/comm_internal.h"

uint32_t comm_rank(const comm *c) { return c->rank; }
uint32_t comm_size(const comm *c) { return c->size; }
comm_node comm_where(const comm *c) { return c->where; }

/* Of `self` nothing is left to put on a stream. */
bool comm_is_ordered(const comm *c) { return c->is_ordered || (!c->window && !c->back->all_reduce); }

comm_stats comm_statistics(const comm *c) {
    comm_stats s = c->stats;
    if (c->window) s.wait_ns += c->window->wait_ns;
    return s;
}

status comm_wake(comm *c) {
    INVARIANT(c->rank == 0 && !c->back->all_reduce);
    if (!c->window) return atomic_load(&c->self_aborted) ? fail(ST_PEER, "rank 0 failed or gave up") : ST_OK;
    if (window_aborted(c->window)) return window_abort_status(c->window);
    window_wake(c->window);
    return c->back->wake ? c->back->wake(c) : ST_OK;
}

status comm_wait(comm *c, int timeout_ms) {
    INVARIANT(c->rank != 0 && c->window);
    status st = c->back->wait ? c->back->wait(c, timeout_ms)
                              : window_wait_wake(c->window, c->wakes_taken, timeout_ms);
    if (st == ST_OK) c->wakes_taken++;
    return st;
}

void comm_while_waiting(comm *c, const void *next, size_t bytes) {
    if (!c->window) return;
    c->window->next = next;
    c->window->next_end = (const char *)next + bytes;
}

void comm_abort(comm *c) {
    if (c->window) window_abort(c->window, c->rank);
    else atomic_store(&c->self_aborted, true);
    if (c->back->abort) c->back->abort(c);
}

status comm_look_after(comm *c) {
    if (!c->window) return atomic_load(&c->self_aborted) ? fail(ST_PEER, "rank %u gave up", c->rank) : ST_OK;
    if (c->window->look_after) c->window->look_after(c->window->context);
    return window_aborted(c->window) ? window_abort_status(c->window) : ST_OK;
}

void comm_close(comm *c) {
    if (c && c->back->close) c->back->close(c);
}

static void self_close(comm *c) { free(c); }

status comm_self_open(comm **out) {
    static const comm_back_end self = {.close = self_close};
    comm *c = memory_alloc(sizeof *c);
    c->size = 1;
    c->where = (comm_node){.nodes = 1, .local_ranks = 1};
    c->back = &self;
    *out = c;
    return ST_OK;
}
