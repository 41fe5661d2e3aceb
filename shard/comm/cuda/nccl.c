/* Exchanges by NCCL. The communicator does not block: a call returns at once, and the engine thread asks until NCCL has put
 * it on the stream. So the lock is never held long, and the watch can abort at any moment, while ranks are connecting too.
 * Abort and destruction wait for recordings of calls to be destroyed (NCCL from 2.22 on), which is the engine thread's to do:
 * that thread may call them only when it has, and the watch only without the lock.
 * A call costs the host a thread start of NCCL's, some 20 µs, which recorded steps do not pay again. */
#ifdef GEMMAD_WITH_NCCL
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "shard/comm/cuda/cuda_comm_internal.h"
#include "shard/comm/cuda/nccl_library.h"

struct nccl_part {
    ncclComm_t comm; /* guarded by lock; NULL once aborted */
};

enum { SHARE_FLOATS = 32 };

int nccl_part_version(void) {
    int version = 0;
    if (nccl_library_open() != ST_OK) return 0;
    return nccl.GetVersion(&version) == ncclSuccess ? version : -1;
}

static status nccl_failed(ncclResult_t r, const char *what, ncclComm_t link) {
    const char *detail = nccl.GetLastError(link);
    return fail(ST_PEER, "NCCL, %s: %s%s%s", what, nccl.GetErrorString(r), detail && *detail ? ": " : "",
                detail ? detail : "");
}

/* ---- one call: begin … end ---- */

/* ST_OK: the lock is held and the communicator is there. */
static status begin(cuda_state *s) {
    TRY(cuda_state_check(s));
    pthread_mutex_lock(&s->lock);
    if (s->nccl->comm) return ST_OK;
    pthread_mutex_unlock(&s->lock);
    return cuda_state_check(s);
}

/* r is what the call gave. Gives the lock back, and returns when all of the call is on the stream. until_ns 0: as long as it
 * takes; others may be needed for it the first time, and if one is gone the watch ends it. */
static status end(cuda_state *s, ncclResult_t r, const char *what, uint64_t until_ns) {
    while (r == ncclInProgress) {
        pthread_mutex_unlock(&s->lock);
        if (until_ns && clock_now_ns() >= until_ns)
            return fail(ST_TIMEOUT, "NCCL, %s: not done after %d seconds", what, CUDA_COMM_CONNECT_SECONDS);
        sched_yield();
        TRY(begin(s));
        ncclResult_t asked = nccl.CommGetAsyncError(s->nccl->comm, &r);
        if (asked != ncclSuccess) r = asked;
    }
    status st = r == ncclSuccess ? ST_OK : nccl_failed(r, what, s->nccl->comm);
    pthread_mutex_unlock(&s->lock);
    return st == ST_OK ? ST_OK : cuda_state_break(s);
}

static void note(ncclResult_t *first, ncclResult_t r) {
    if (*first == ncclSuccess && r != ncclInProgress) *first = r;
}
static ncclResult_t group_end(ncclResult_t in_group) {
    ncclResult_t r = nccl.GroupEnd();
    return in_group != ncclSuccess ? in_group : r;
}

/* ---- open and close ---- */

/* Rank 0's id, or its failure, for all. */
static status share_id(cuda_state *s, ncclUniqueId *id) {
    status st = ST_OK;
    memset(id, 0, sizeof *id);
    if (s->c.rank == 0) {
        ncclResult_t r = nccl.GetUniqueId(id);
        if (r != ncclSuccess) st = nccl_failed(r, "beginning", NULL);
    }
    TRY(cuda_state_agree(s, st));
    return comm_broadcast(s->ranks, id, sizeof *id, 0);
}

static status connect_ranks(cuda_state *s, ncclUniqueId id) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    TRY(cuda_state_check(s));
    pthread_mutex_lock(&s->lock);
    ncclResult_t r = nccl.CommInitRankConfig(&s->nccl->comm, (int)s->c.size, id, (int)s->c.rank, &config);
    if (r != ncclSuccess && r != ncclInProgress) s->nccl->comm = NULL; /* there is nothing to abort */
    return end(s, r, "connecting", clock_now_ns() + CUDA_COMM_CONNECT_SECONDS * 1000000000ull);
}

/* Every kind of call once, at its sizes: what NCCL connects or takes only when it is first needed, it has from now on. */
static status warm_up(cuda_state *s, float *x) {
    size_t *bytes = memory_alloc_array(s->c.size, sizeof *bytes);
    status st = ST_OK;
    TRY_OR_FAIL(nccl_all_reduce(s, x, 4));
    TRY_OR_FAIL(nccl_all_reduce(s, x, s->small_floats));
    TRY_OR_FAIL(nccl_all_reduce(s, x, s->scratch_floats));
    for (uint32_t r = 0; r < s->c.size; r++) bytes[r] = 4096;
    TRY_OR_FAIL(nccl_all_to_all_v(s, x, bytes, s->scratch, bytes));
    TRY_OR_FAIL(nccl_broadcast(s, x, 4096, 0));
    TRY_OR_FAIL(nccl_barrier(s));
    st = cuda_state_settle(s, CUDA_COMM_CONNECT_SECONDS, "the first exchanges by NCCL");
fail:
    free(bytes);
    return st;
}

status nccl_part_open(cuda_state *s) {
    ncclUniqueId id;
    float *x = NULL;
    nccl_part *part = memory_alloc(sizeof *part);
    pthread_mutex_lock(&s->lock); /* the watch is there already */
    s->nccl = part;
    pthread_mutex_unlock(&s->lock);
    TRY(share_id(s, &id));
    TRY(cuda_state_give_up(s, connect_ranks(s, id)));
    cudaError_t e = cudaMalloc((void **)&x, s->scratch_floats * sizeof *x);
    if (e == cudaSuccess) e = cudaMemsetAsync(x, 0, s->scratch_floats * sizeof *x, s->stream);
    status st = cuda_state_agree(s, e == cudaSuccess ? ST_OK : cuda_state_cuda(e, "memory for the first exchanges"));
    if (st == ST_OK) st = cuda_state_give_up(s, warm_up(s, x));
    (void)cudaFree(x);
    return st;
}

void nccl_part_abort(cuda_state *s) {
    pthread_mutex_lock(&s->lock);
    ncclComm_t link = s->nccl ? s->nccl->comm : NULL;
    if (link) s->nccl->comm = NULL;
    pthread_mutex_unlock(&s->lock); /* whoever calls NCCL has it; nobody does from here on */
    if (link) (void)nccl.CommAbort(link);
}

status nccl_part_look(cuda_state *s) {
    ncclResult_t r = ncclSuccess;
    status st = ST_OK;
    pthread_mutex_lock(&s->lock);
    if (s->nccl && s->nccl->comm) {
        ncclResult_t asked = nccl.CommGetAsyncError(s->nccl->comm, &r);
        if (asked != ncclSuccess) r = asked;
        if (r != ncclSuccess && r != ncclInProgress) st = nccl_failed(r, "an exchange", s->nccl->comm);
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* What this rank sent may still be on its way through its own NCCL, so others are waited for, a little. The watch still
 * looks, and ends it when one is gone. */
void nccl_part_close(cuda_state *s) {
    if (!s->nccl) return;
    uint64_t until = clock_now_ns() + CUDA_COMM_CLOSE_SECONDS * 1000000000ull;
    if (begin(s) == ST_OK) {
        ncclResult_t r = nccl.CommFinalize(s->nccl->comm);
        while (r == ncclInProgress && clock_now_ns() < until) {
            pthread_mutex_unlock(&s->lock);
            sched_yield();
            pthread_mutex_lock(&s->lock);
            if (!s->nccl->comm) break;
            if (nccl.CommGetAsyncError(s->nccl->comm, &r) != ncclSuccess) r = ncclInternalError;
        }
        if (s->nccl->comm && r == ncclSuccess) {
            (void)nccl.CommDestroy(s->nccl->comm);
            s->nccl->comm = NULL;
        }
        pthread_mutex_unlock(&s->lock);
    }
    nccl_part_abort(s);
}

/* ---- exchanges ---- */

static status reduce_small(cuda_state *s, float *x, size_t count) {
    TRY(begin(s));
    TRY(end(s, nccl.AllGather(x, s->scratch, count, ncclFloat32, s->nccl->comm, s->stream), "gathering", 0));
    cuda_comm_sum(s->stream, x, s->scratch, count, NULL, 0, s->c.size, count);
    return cuda_state_launched();
}

/* Where rank r's share of `count` elements begins. */
static size_t share_at(const cuda_state *s, size_t count, uint32_t rank) {
    size_t each = (count + s->c.size - 1) / s->c.size;
    each = (each + SHARE_FLOATS - 1) / SHARE_FLOATS * SHARE_FLOATS;
    return rank * each < count ? rank * each : count;
}

/* Shares of x between ranks: each rank's for me to the scratch (not of_sums), or each rank's sums to everybody. */
static status move_shares(cuda_state *s, float *x, size_t count, bool of_sums) {
    uint32_t me = s->c.rank;
    size_t mine_at = share_at(s, count, me), mine = share_at(s, count, me + 1) - mine_at;
    TRY(begin(s));
    ncclComm_t link = s->nccl->comm;
    ncclResult_t r = nccl.GroupStart();
    for (uint32_t q = 0; q < s->c.size; q++) {
        size_t at = share_at(s, count, q), theirs = share_at(s, count, q + 1) - at;
        if (q == me) continue;
        const float *from = of_sums ? x + mine_at : x + at;
        float *to = of_sums ? x + at : s->scratch + q * mine;
        size_t sent = of_sums ? mine : theirs, received = of_sums ? theirs : mine;
        if (sent) note(&r, nccl.Send(from, sent, ncclFloat32, (int)q, link, s->stream));
        if (received) note(&r, nccl.Recv(to, received, ncclFloat32, (int)q, link, s->stream));
    }
    return end(s, group_end(r), of_sums ? "gathering sums" : "exchanging shares", 0);
}

static status reduce_large(cuda_state *s, float *x, size_t count) {
    uint32_t me = s->c.rank, n = s->c.size;
    size_t at = share_at(s, count, me), mine = share_at(s, count, me + 1) - at, each = share_at(s, count, 1);
    TRY(move_shares(s, x, count, false));
    cuda_comm_sum(s->stream, x + at, s->scratch, mine, x + at, me, n, mine);
    TRY(cuda_state_launched());
    if (count != n * each) return move_shares(s, x, count, true);
    TRY(begin(s));
    return end(s, nccl.AllGather(x + at, x, each, ncclFloat32, s->nccl->comm, s->stream), "gathering sums", 0);
}

status nccl_all_reduce(cuda_state *s, float *x, size_t count) {
    if (count == 0) return ST_OK;
    if (count <= s->small_floats) return reduce_small(s, x, count);
    /* A share of each rank must fit into the scratch. */
    size_t piece = s->scratch_floats / s->c.size / SHARE_FLOATS * SHARE_FLOATS * s->c.size;
    for (size_t at = 0; at < count; at += piece) TRY(reduce_large(s, x + at, count - at < piece ? count - at : piece));
    return ST_OK;
}

status nccl_all_gather_v(cuda_state *s, const void *in, const size_t *bytes, void *out) {
    uint32_t n = s->c.size, me = s->c.rank;
    size_t at = 0, mine_at = 0;
    bool same = true;
    for (uint32_t q = 0; q < n; q++) {
        same = same && bytes[q] == bytes[0];
        if (q < me) mine_at += bytes[q];
    }
    if (same && bytes[0] == 0) return ST_OK;
    char *place = out;
    TRY(begin(s));
    ncclComm_t link = s->nccl->comm;
    if (same) return end(s, nccl.AllGather(in, out, bytes[0], ncclUint8, link, s->stream), "gathering", 0);
    ncclResult_t r = nccl.GroupStart();
    for (uint32_t q = 0; q < n; at += bytes[q++]) {
        if (q == me) continue;
        if (bytes[me]) note(&r, nccl.Send(in, bytes[me], ncclUint8, (int)q, link, s->stream));
        if (bytes[q]) note(&r, nccl.Recv(place + at, bytes[q], ncclUint8, (int)q, link, s->stream));
    }
    TRY(end(s, group_end(r), "gathering", 0));
    if (bytes[me] && place + mine_at != in)
        CUDA_TRY(cudaMemcpyAsync(place + mine_at, in, bytes[me], cudaMemcpyDeviceToDevice, s->stream));
    return ST_OK;
}

status nccl_all_to_all_v(cuda_state *s, const void *in, const size_t *send_bytes, void *out, const size_t *recv_bytes) {
    uint32_t n = s->c.size, me = s->c.rank;
    const char *block = in, *own = NULL;
    char *place = out, *own_place = NULL;
    TRY(begin(s));
    ncclComm_t link = s->nccl->comm;
    ncclResult_t r = nccl.GroupStart();
    for (uint32_t q = 0; q < n; q++) {
        if (q == me) own = block, own_place = place;
        if (q != me && send_bytes[q]) note(&r, nccl.Send(block, send_bytes[q], ncclUint8, (int)q, link, s->stream));
        if (q != me && recv_bytes[q]) note(&r, nccl.Recv(place, recv_bytes[q], ncclUint8, (int)q, link, s->stream));
        block += send_bytes[q];
        place += recv_bytes[q];
    }
    TRY(end(s, group_end(r), "all-to-all", 0));
    if (send_bytes[me]) CUDA_TRY(cudaMemcpyAsync(own_place, own, send_bytes[me], cudaMemcpyDeviceToDevice, s->stream));
    return ST_OK;
}

status nccl_broadcast(cuda_state *s, void *data, size_t bytes, uint32_t root) {
    if (bytes == 0) return ST_OK;
    TRY(begin(s));
    return end(s, nccl.Broadcast(data, data, bytes, ncclUint8, (int)root, s->nccl->comm, s->stream), "broadcast", 0);
}

status nccl_barrier(cuda_state *s) {
    TRY(begin(s));
    /* A float of every rank for every rank: nobody's stream has them all before all have come. */
    return end(s, nccl.AllGather(s->scratch + s->c.rank, s->scratch, 1, ncclFloat32, s->nccl->comm, s->stream), "barrier", 0);
}
#endif
