/* The back end `mpi`. Ranks of a host meet in a shared window as with `fork`; what travels between hosts
 * is whole slots, point to point. MPI_Allgather and MPI_Bcast of plain bytes are used at open only. */
#include "shard/comm/mpi_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "proto/limits.h"

enum { CONNECT_MS = 30000, SECRET_BYTES_MIN = 16 };

/* MPI is a library of one instance a process, hence the one static of this folder. Guarded by the engine
 * thread. */
static struct {
    bool started, broken; /* broken: a rank gave up, so that collective calls of MPI may never return */
    mpi_state *states;
} mpi;

status mpi_fail(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
    return fail(ST_PEER, "%s: %.*s", what, length, text);
}

status comm_mpi_start(int *argc, char ***argv) {
    int provided = 0;
    INVARIANT(!mpi.started);
    int code = MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    if (code != MPI_SUCCESS) return fail(ST_UNAVAILABLE, "MPI_Init_thread: code %d", code);
    mpi.started = true;
    if (provided < MPI_THREAD_FUNNELED)
        return fail(ST_UNSUPPORTED, "this MPI library does not allow threads");
    return ST_OK;
}

static void release(mpi_state *s) {
    if (s->win != MPI_WIN_NULL) MPI_Win_free(&s->win);
    if (s->node != MPI_COMM_NULL) MPI_Comm_free(&s->node);
    if (s->world != MPI_COMM_NULL) MPI_Comm_free(&s->world);
    memory_unmap(s->own_memory, s->own_bytes);
    free(s->node_of);
    free(s->local_of);
    free(s->node_size);
    free(s->node_rank);
    free(s->carrier);
    free(s->is_local);
    free(s->requests);
    free(s->c.parts);
    free(s);
}

void comm_mpi_stop(void) {
    if (!mpi.started) return;
    mpi.started = false;
    if (mpi.broken) {
        log_warn("MPI is left without MPI_Finalize, which would wait for ranks that failed");
        return;
    }
    while (mpi.states) {
        mpi_state *s = mpi.states;
        mpi.states = s->next;
        release(s);
    }
    MPI_Finalize();
}

/* What one rank has to say at open, gathered by all. */
static status gather_words(mpi_state *s, uint32_t mine, uint32_t *all) {
    MPI_TRY(MPI_Allgather(&mine, 1, MPI_UINT32_T, all, 1, MPI_UINT32_T, s->world));
    return ST_OK;
}

/* s->node: the ranks of this host, or of this rank's part of it. */
static status split(mpi_state *s, uint32_t ranks_per_node_max, bool *one_host) {
    MPI_Comm host;
    int rank, host_size;
    MPI_TRY(MPI_Comm_split_type(s->world, MPI_COMM_TYPE_SHARED, (int)s->c.rank, MPI_INFO_NULL, &host));
    MPI_TRY(MPI_Comm_rank(host, &rank));
    MPI_TRY(MPI_Comm_size(host, &host_size));
    *one_host = (uint32_t)host_size == s->c.size;
    if (ranks_per_node_max == 0) {
        s->node = host;
    } else {
        MPI_TRY(MPI_Comm_split(host, rank / (int)ranks_per_node_max, rank, &s->node));
        MPI_TRY(MPI_Comm_free(&host));
    }
    MPI_TRY(MPI_Comm_set_errhandler(s->node, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank(s->node, &rank));
    MPI_TRY(MPI_Comm_size(s->node, &host_size));
    s->c.where.local_rank = (uint32_t)rank;
    s->c.where.local_ranks = (uint32_t)host_size;
    return ST_OK;
}

/* Who is where, and who carries whose slots. */
static status survey(mpi_state *s) {
    comm *c = &s->c;
    uint32_t first = c->rank, nodes = 0, n = c->size;
    MPI_TRY(MPI_Bcast(&first, 1, MPI_UINT32_T, 0, s->node));
    s->node_of = memory_alloc_array(n, sizeof *s->node_of);
    s->local_of = memory_alloc_array(n, sizeof *s->local_of);
    s->node_size = memory_alloc_array(n, sizeof *s->node_size);
    s->node_rank = memory_alloc_array(n, sizeof *s->node_rank);
    s->carrier = memory_alloc_array(n, sizeof *s->carrier);
    s->is_local = memory_alloc_array(n, sizeof *s->is_local);
    TRY(gather_words(s, first, s->node_of));
    TRY(gather_words(s, c->where.local_rank, s->local_of));
    /* From first ranks to numbers: a node's first rank is the least of its ranks, so its number is already
     * there. */
    for (uint32_t r = 0; r < n; r++) s->node_of[r] = s->node_of[r] == r ? nodes++ : s->node_of[s->node_of[r]];
    c->where.node = s->node_of[c->rank];
    c->where.nodes = nodes;
    for (uint32_t r = 0; r < n; r++) s->node_size[s->node_of[r]]++;
    for (uint32_t r = 0; r < n; r++) {
        s->is_local[r] = s->node_of[r] == c->where.node;
        s->carrier[r] = s->is_local[r] ? s->local_of[r] : s->local_of[r] % c->where.local_ranks;
        if (s->local_of[r] == c->where.local_rank % s->node_size[s->node_of[r]])
            s->node_rank[s->node_of[r]] = r;
    }
    c->carrier = s->carrier;
    c->is_local = s->is_local;
    return ST_OK;
}

static status share_window(mpi_state *s, const comm_mpi_options *o) {
    uint32_t locals = s->c.where.local_ranks, me = s->c.where.local_rank, n = s->c.size;
    size_t slot_bytes = o->slot_bytes, bytes = window_bytes(locals, n, &slot_bytes);
    void *memory = NULL;
    if (locals == 1) {
        TRY(memory_map(&s->own_memory, bytes));
        s->own_bytes = bytes;
        memory = s->own_memory;
    } else {
        MPI_Aint size = 0;
        int unit = 1;
        uint32_t pad = 0;
        MPI_TRY(MPI_Win_allocate_shared(me == 0 ? (MPI_Aint)(bytes + WINDOW_ALIGN) : 0, 1, MPI_INFO_NULL,
                                        s->node, &memory, &s->win));
        MPI_TRY(MPI_Win_shared_query(s->win, 0, &size, &unit, &memory));
        if (me == 0) pad = (uint32_t)(-(uintptr_t)memory % WINDOW_ALIGN);
        MPI_TRY(MPI_Bcast(&pad, 1, MPI_UINT32_T, 0, s->node));
        memory = (char *)memory + pad;
    }
    if (me == 0) window_format(memory, locals);
    MPI_TRY(MPI_Barrier(s->node));
    if ((uintptr_t)memory % WINDOW_ALIGN != 0)
        return fail(ST_UNSUPPORTED, "MPI's shared window lies at different offsets in a cache line");
    window_attach(&s->w, memory, me, locals, n, slot_bytes, o->spin_us);
    s->spin_ns = s->w.spin_ns;
    return ST_OK;
}

static status connect_ranks(mpi_state *s, const comm_mpi_options *o, bool one_host) {
    char addresses[WAKE_ADDRESSES_BYTES] = "";
    wake_secret secret = {o->secret, o->secret_bytes};
    status st = ST_OK;
    if (s->c.rank == 0) st = wake_hub_open(&s->hub, s->c.size, one_host, addresses);
    /* Empty when the hub did not open: the others then find that out by themselves. */
    MPI_TRY(MPI_Bcast(addresses, sizeof addresses, MPI_CHAR, 0, s->world));
    TRY(st);
    addresses[sizeof addresses - 1] = 0;
    if (s->hub) return wake_hub_accept(s->hub, secret, CONNECT_MS);
    if (!addresses[0]) return fail(ST_PEER, "rank 0 does not listen for wake connections");
    return wake_link_open(&s->link, s->c.rank, addresses, secret, CONNECT_MS);
}

static status wake_others(comm *c) {
    mpi_state *s = c->state;
    return wake_hub_wake(s->hub, s->is_local);
}

/* A rank elsewhere than rank 0. */
static status wait_for_wake(comm *c, int timeout_ms) {
    mpi_state *s = c->state;
    uint64_t start = clock_now_ns(),
             until = timeout_ms < 0 ? UINT64_MAX : start + (uint64_t)timeout_ms * 1000000;
    status st = wake_link_wait(s->link, 0);
    while (st == ST_TIMEOUT) {
        if (window_aborted(&s->w)) return window_abort_status(&s->w);
        uint64_t now = clock_now_ns(), left = now < until ? until - now : 0;
        if (left == 0) return ST_TIMEOUT;
        uint32_t slice = WINDOW_SLICE_MS;
        if (left < (uint64_t)slice * 1000000) slice = (uint32_t)((left + 999999) / 1000000);
        st = wake_link_wait(s->link, now - start < s->spin_ns ? 0 : slice);
    }
    if (st == ST_PEER && wake_link_peer(s->link) == WAKE_PEER_LOST) mpi_look_after(s);
    return st;
}

static void abort_others(comm *c) {
    mpi_state *s = c->state;
    if (s->hub) wake_hub_shut(s->hub);
    else wake_link_shut(s->link);
}

/* MPI's objects stay until comm_mpi_stop: to release them is collective. */
static void close_mpi(comm *c) {
    mpi_state *s = c->state;
    if (window_aborted(&s->w)) mpi.broken = true;
    else window_leave(&s->w);
    wake_hub_close(s->hub);
    wake_link_close(s->link);
    s->hub = NULL;
    s->link = NULL;
}

static const comm_back_end one_node = {.abort = abort_others, .close = close_mpi};
static const comm_back_end rank_0_node = {
    .move = mpi_move, .wake = wake_others, .abort = abort_others, .close = close_mpi};
static const comm_back_end other_node = {
    .move = mpi_move, .wait = wait_for_wake, .abort = abort_others, .close = close_mpi};

/* Either every rank has its comm or none: a rank that failed would be waited for in the first exchange. */
static status agree(mpi_state *s, status mine) {
    uint32_t *all = memory_alloc_array(s->c.size, sizeof *all);
    status st = gather_words(s, mine, all);
    for (uint32_t r = 0; r < s->c.size && st == ST_OK && mine == ST_OK; r++)
        if (all[r] != ST_OK)
            st = fail(ST_PEER, "rank %u did not open its exchanges: %s", r, status_name(all[r]));
    free(all);
    return mine != ST_OK ? mine : st;
}

static status check_options(const comm_mpi_options *o, uint32_t ranks) {
    if (ranks > LIMIT_RANKS) return fail(ST_INVALID, "%u ranks, at most %d", ranks, LIMIT_RANKS);
    if (o->secret_bytes < SECRET_BYTES_MIN)
        return fail(ST_INVALID, "secret of %zu bytes, at least %d", o->secret_bytes, SECRET_BYTES_MIN);
    size_t slot_bytes = o->slot_bytes;
    (void)window_bytes(1, ranks, &slot_bytes);
    if (slot_bytes > INT_MAX) return fail(ST_INVALID, "slot of %zu bytes, at most %d", slot_bytes, INT_MAX);
    if (slot_bytes / ranks < COMM_CELL_BYTES_MIN)
        return fail(ST_INVALID, "slot of %zu bytes, %u ranks need %u", slot_bytes, ranks,
                    ranks * COMM_CELL_BYTES_MIN);
    return ST_OK;
}

static status open_state(mpi_state *s, const comm_mpi_options *o) {
    int rank, size;
    bool one_host = false;
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &s->world));
    MPI_TRY(MPI_Comm_set_errhandler(s->world, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank(s->world, &rank));
    MPI_TRY(MPI_Comm_size(s->world, &size));
    s->c.rank = (uint32_t)rank;
    s->c.size = (uint32_t)size;
    TRY(agree(s, check_options(o, s->c.size)));
    TRY(split(s, o->ranks_per_node_max, &one_host));
    TRY(survey(s));
    TRY(agree(s, share_window(s, o)));
    s->c.window = &s->w;
    s->c.state = s;
    s->c.parts = memory_alloc_array(s->c.size, sizeof *s->c.parts);
    s->requests = memory_alloc_array(2 * (size_t)s->c.size, sizeof *s->requests);
    s->c.back = s->c.where.nodes == 1 ? &one_node : s->c.where.node == 0 ? &rank_0_node : &other_node;
    TRY(agree(s, connect_ranks(s, o, one_host)));
    s->w.look_after = mpi_look_after;
    s->w.context = s;
    return ST_OK;
}

status comm_mpi_open(comm **out, const comm_mpi_options *options) {
    INVARIANT(mpi.started);
    mpi_state *s = memory_alloc(sizeof *s);
    s->world = s->node = MPI_COMM_NULL;
    s->win = MPI_WIN_NULL;
    s->next = mpi.states;
    mpi.states = s;
    status st = open_state(s, options);
    if (st == ST_OK) {
        *out = &s->c;
        return ST_OK;
    }
    /* What MPI holds goes in comm_mpi_stop, as after an orderly close. */
    wake_hub_close(s->hub);
    wake_link_close(s->link);
    s->hub = NULL;
    s->link = NULL;
    return st;
}
