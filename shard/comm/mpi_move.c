#include <sched.h>
#include <time.h>

#include "base/clock.h"
#include "shard/comm/mpi_internal.h"

enum { TAG = 1, YIELD_AFTER_NS = 10000, YIELDS = 100, NAP_NS_LEAST = 20000, NAP_NS_MOST = 200000 };

/* Non-blocking calls and a loop of our own: a blocking one can neither be left when a rank is lost, nor
 * give its core to the rank it waits for when there are more ranks than cores. */
static status complete(mpi_state *s, int n) {
    uint64_t start = clock_now_ns(), now = start, nap = NAP_NS_LEAST;
    for (uint32_t turns = 0;; turns++) {
        int done = 0;
        MPI_TRY(MPI_Testall(n, s->requests, &done, MPI_STATUSES_IGNORE));
        if (done) break;
        if (window_aborted(&s->w)) return window_abort_status(&s->w);
        now = clock_now_ns();
        if (now - start < s->spin_ns) {
            if (now - start > YIELD_AFTER_NS) sched_yield();
            turns = 0;
            continue;
        }
        if (now - s->looked_ns > (uint64_t)WINDOW_SLICE_MS * 1000000) {
            s->looked_ns = now;
            mpi_look_after(s);
        }
        if (turns < YIELDS) {
            sched_yield();
        } else {
            nanosleep(&(struct timespec){.tv_nsec = (long)nap}, NULL);
            if (nap < NAP_NS_MOST) nap *= 2;
        }
    }
    s->w.wait_ns += clock_now_ns() - start;
    return ST_OK;
}

static char *slot_at(mpi_state *s, uint32_t rank, comm_span span) {
    return window_slot(&s->w, rank) + span.at;
}

static status post_receives(mpi_state *s, const comm_round *round, int *n) {
    for (uint32_t r = 0; r < s->c.size; r++) {
        if (s->is_local[r]) continue;
        /* One rank of this host takes a slot that all of them read. */
        if (round->gather && s->carrier[r] != s->c.where.local_rank) continue;
        comm_span span = round->span(round->context, r, s->c.rank);
        if (span.bytes == 0) continue;
        MPI_TRY(MPI_Irecv(slot_at(s, r, span), (int)span.bytes, MPI_BYTE, (int)r, TAG, s->world,
                          &s->requests[(*n)++]));
    }
    return ST_OK;
}

static status post_send(mpi_state *s, const comm_round *round, uint32_t to, int *n) {
    comm_span span = round->span(round->context, s->c.rank, to);
    if (span.bytes == 0) return ST_OK;
    MPI_TRY(MPI_Isend(slot_at(s, s->c.rank, span), (int)span.bytes, MPI_BYTE, (int)to, TAG, s->world,
                      &s->requests[(*n)++]));
    return ST_OK;
}

status mpi_move(comm *c, const comm_round *round) {
    mpi_state *s = c->state;
    int n = 0;
    TRY(post_receives(s, round, &n));
    /* Each rank begins with the one after it, or all would send to the same one first. */
    if (round->gather) {
        for (uint32_t i = 1; i < c->where.nodes; i++)
            TRY(post_send(s, round, s->node_rank[(c->where.node + i) % c->where.nodes], &n));
    } else {
        for (uint32_t i = 1; i < c->size; i++) {
            uint32_t to = (c->rank + i) % c->size;
            if (!s->is_local[to]) TRY(post_send(s, round, to, &n));
        }
    }
    return n ? complete(s, n) : ST_OK;
}

void mpi_look_after(void *state) {
    mpi_state *s = state;
    if (atomic_flag_test_and_set(&s->looking)) return;
    uint32_t lost = s->hub ? wake_hub_lost(s->hub) : WINDOW_ELSEWHERE;
    if (s->link && wake_link_peer(s->link) != WAKE_PEER_LOST) lost = 0;
    atomic_flag_clear(&s->looking);
    if (lost == 0) return;
    window_abort(&s->w, lost);
    /* The ranks of every other host are connected to this one: hand it on. */
    if (s->hub) wake_hub_shut(s->hub);
    else wake_link_shut(s->link);
}
