/* Opening a GPU's exchanges, the thread that watches them, and the calls of comm.h handed to the way they take. */
#include "shard/comm/cuda/cuda_comm.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "shard/comm/cuda/cuda_comm_internal.h"

/* ---- failures ---- */

status cuda_state_cuda(cudaError_t e, const char *what) {
    int device = -1;
    (void)cudaGetLastError(); /* else the next look at launches would find it again */
    (void)cudaGetDevice(&device);
    return fail(e == cudaErrorMemoryAllocation ? ST_NO_MEMORY : ST_UNAVAILABLE, "GPU %d: %s: %s (%s)", device, what,
                cudaGetErrorString(e), cudaGetErrorName(e));
}

status cuda_state_launched(void) {
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? ST_OK : cuda_state_cuda(e, "starting a kernel");
}

status cuda_state_check(cuda_state *s) {
    if (atomic_load(&s->failed)) {
        char text[STATUS_TEXT_MAX];
        pthread_mutex_lock(&s->lock);
        snprintf(text, sizeof text, "%s", s->failure);
        pthread_mutex_unlock(&s->lock);
        return fail(ST_PEER, "%s", text);
    }
    return comm_look_after(&s->c);
}

/* Kernels that wait for others end; NCCL's part is the watch's. */
static void let_go(cuda_state *s) {
    if (s->abort_word) __atomic_store_n(s->abort_word, 1, __ATOMIC_RELEASE);
    (void)sem_post(&s->wake);
}

/* own: what happened is not known from another rank. */
static status break_it(cuda_state *s, bool own) {
    bool first = false;
    pthread_mutex_lock(&s->lock);
    if (!atomic_load(&s->failed)) {
        snprintf(s->failure, sizeof s->failure, "%s", status_text());
        atomic_store(&s->failed, true);
        first = true;
    }
    pthread_mutex_unlock(&s->lock);
    if (first) {
        /* Before anybody hears of it, who may be quick to end this process. */
        if (own) log_error("exchanges between GPUs end: %s", s->failure);
        else log_warn("exchanges between GPUs end: %s", s->failure);
        /* Before kernels end, since what they leave behind is no sum: the engine thread, back from waiting for its stream,
         * meets an aborted comm before it can use it. */
        comm_abort(s->ranks);
        let_go(s);
    }
    return cuda_state_check(s);
}

status cuda_state_break(cuda_state *s) { return break_it(s, true); }

status cuda_state_give_up(cuda_state *s, status st) {
    if (st == ST_OK) return ST_OK;
    char text[STATUS_TEXT_MAX];
    snprintf(text, sizeof text, "%s", status_text());
    (void)cuda_state_break(s);
    return fail(st, "%s", text);
}

static void abort_from_here(comm *c) {
    cuda_state *s = state_of(c);
    comm_abort(s->ranks);
    let_go(s);
}

static void *watch_main(void *argument) {
    cuda_state *s = argument;
    (void)cudaSetDevice(s->device);
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += CUDA_COMM_WATCH_MS * 1000000;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        (void)sem_timedwait(&s->wake, &until);
        if (atomic_load(&s->closing)) return NULL;
        if (!atomic_load(&s->failed)) {
            status st = comm_look_after(&s->c);
            if (st == ST_OK) st = comm_look_after(s->ranks);
            if (st != ST_OK) (void)break_it(s, false);
            else if (nccl_part_look(s) != ST_OK) (void)break_it(s, true);
        }
        if (atomic_load(&s->failed)) nccl_part_abort(s);
    }
}

/* ---- what opening needs ---- */

status cuda_state_settle(cuda_state *s, uint32_t seconds, const char *what) {
    uint64_t until = clock_now_ns() + seconds * 1000000000ull;
    cudaError_t e;
    while ((e = cudaStreamQuery(s->stream)) == cudaErrorNotReady) {
        if (clock_now_ns() >= until) return fail(ST_TIMEOUT, "%s: not done after %u seconds", what, seconds);
        sched_yield();
    }
    if (e != cudaSuccess) return cuda_state_cuda(e, what);
    return cuda_state_check(s);
}

typedef struct verdict {
    uint32_t status;
    char text[STATUS_TEXT_MAX / 2];
} verdict;

status cuda_state_agree(cuda_state *s, status mine) {
    verdict own, *all = memory_alloc_array(s->c.size, sizeof *all);
    memset(&own, 0, sizeof own);
    own.status = mine;
    if (mine != ST_OK) snprintf(own.text, sizeof own.text, "%s", status_text());
    status st = comm_all_gather(s->ranks, &own, sizeof own, all);
    if (mine != ST_OK) st = fail(mine, "%s", own.text);
    for (uint32_t r = 0; r < s->c.size && st == ST_OK; r++)
        if (all[r].status != ST_OK) st = fail((status)all[r].status, "rank %u: %s", r, all[r].text);
    free(all);
    return st;
}

static status compare_settings(cuda_state *s) {
    char mine[CUDA_COMM_SETTINGS_MAX];
    size_t *bytes = memory_alloc_array(s->c.size, sizeof *bytes), own = cards_settings(mine), sum = 0;
    char *all = NULL;
    status st = comm_all_gather(s->ranks, &own, sizeof own, bytes);
    if (st != ST_OK) goto fail;
    for (uint32_t r = 0; r < s->c.size; r++) sum += bytes[r];
    all = memory_alloc(sum + 1);
    TRY_OR_FAIL(comm_all_gather_v(s->ranks, mine, bytes, all));
    const char *other = all;
    for (uint32_t r = 0; r < s->c.size && st == ST_OK; other += bytes[r++]) st = cards_compare_settings(all, other, r);
    if (st == ST_OK) st = cards_check_settings();
fail:
    free(all);
    free(bytes);
    return st;
}

static status take_memory(cuda_state *s) {
    void *device = NULL;
    size_t least = s->c.size * s->small_floats;
    s->scratch_floats = s->large_bytes / sizeof *s->scratch;
    if (s->scratch_floats < least) s->scratch_floats = least;
    CUDA_TRY(cudaMalloc((void **)&s->scratch, s->scratch_floats * sizeof *s->scratch));
    CUDA_TRY(cudaHostAlloc((void **)&s->abort_word, sizeof *s->abort_word, cudaHostAllocMapped | cudaHostAllocPortable));
    *s->abort_word = 0;
    CUDA_TRY(cudaHostGetDevicePointer(&device, s->abort_word, 0));
    s->abort_word_device = device;
    return ST_OK;
}

static status start_watch(cuda_state *s) {
    int code = pthread_create(&s->watch, NULL, watch_main, s);
    s->watching = code == 0;
    return code == 0 ? ST_OK : fail(ST_NO_MEMORY, "the thread that watches exchanges was not started: %s", strerror(code));
}

/* Peer memory is an offer: where it cannot be had, the other way is taken. Where it is broken, NCCL's own setting for that, which
 * all ranks have alike, turns it off here too. */
static status try_peer(cuda_state *s, const cuda_comm_options *o) {
    if (o->no_peer || cards_setting_on("NCCL_P2P_DISABLE") || !cards_one_host(s->cards, s->c.size)) return ST_OK;
    if (!o->test_shared_device && cards_check_devices(s->cards, s->c.size) != ST_OK) return ST_OK;
    status st = peer_part_open(s);
    if (st == ST_OK) return ST_OK;
    TRY(comm_look_after(s->ranks));
    if (s->c.rank == 0) log_info("no sums over peer memory: %s", status_text());
    peer_part_close(s);
    return ST_OK;
}

static void describe(cuda_state *s) {
    const char *way = s->nccl ? "nccl" : s->staged ? "staged" : "self";
    snprintf(s->way, sizeof s->way, "%s%s", way, s->short_by_peer ? ", short sums through peer memory" : "");
}

static status open_ways(cuda_state *s, const cuda_comm_options *o) {
    bool alone = s->c.size == 1 && !o->test_shared_device, nccl = s->cards[0].nccl != 0 && !o->staged;
    s->c.is_ordered = alone || nccl;
    if (alone) return ST_OK;
    if (!o->staged) TRY(compare_settings(s));
    if (nccl && !o->test_shared_device) TRY(cards_check_devices(s->cards, s->c.size));
    TRY(cuda_state_agree(s, take_memory(s)));
    TRY(cuda_state_agree(s, start_watch(s)));
    if (o->staged) return staged_part_open(s);
    if (!nccl) {
        if (s->c.rank == 0) log_warn("without NCCL exchanges between GPUs go through host memory");
        TRY(staged_part_open(s));
        TRY(try_peer(s, o));
        s->short_by_peer = s->peer != NULL;
        return ST_OK;
    }
    TRY(nccl_part_open(s));
    TRY(try_peer(s, o));
    return measure_ways(s, &s->c.is_ordered, &s->short_by_peer);
}

static void close_state(comm *c) {
    cuda_state *s = state_of(c);
    /* Kernels that wait for somebody who will not come end here, after a little. */
    if (s->watching && cuda_state_settle(s, CUDA_COMM_CLOSE_SECONDS, "closing") == ST_TIMEOUT) {
        atomic_store(&s->c.self_aborted, true);
        let_go(s);
        nccl_part_abort(s);
    }
    peer_part_close(s);
    nccl_part_close(s);
    if (s->watching) {
        atomic_store(&s->closing, true);
        (void)sem_post(&s->wake);
        pthread_join(s->watch, NULL);
    }
    staged_part_close(s);
    if (s->scratch) (void)cudaFree(s->scratch);
    if (s->abort_word) (void)cudaFreeHost(s->abort_word);
    (void)sem_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s->nccl);
    free(s->cards);
    free(s->c.same);
    free(s);
}

/* ---- the calls ---- */

static status all_reduce(comm *c, float *x, size_t count) {
    cuda_state *s = state_of(c);
    TRY(cuda_state_check(s));
    if (s->short_by_peer && count <= s->small_floats) return peer_all_reduce(s, x, count);
    if (s->nccl) return nccl_all_reduce(s, x, count);
    return s->staged ? staged_all_reduce(s, x, count) : ST_OK;
}

/* Of the only rank. */
static status keep(cuda_state *s, const void *in, size_t bytes, void *out) {
    if (bytes && in != out) CUDA_TRY(cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice, s->stream));
    return ST_OK;
}

static status all_gather_v(comm *c, const void *in, const size_t *bytes, void *out) {
    cuda_state *s = state_of(c);
    TRY(cuda_state_check(s));
    if (s->nccl) return nccl_all_gather_v(s, in, bytes, out);
    return s->staged ? staged_all_gather_v(s, in, bytes, out) : keep(s, in, bytes[0], out);
}

static status all_to_all_v(comm *c, const void *in, const size_t *send_bytes, void *out, const size_t *recv_bytes) {
    cuda_state *s = state_of(c);
    uint32_t me = s->c.rank;
    TRY(cuda_state_check(s));
    if (send_bytes[me] != recv_bytes[me])
        return fail(ST_MISMATCH, "rank %u sends itself %zu bytes, it expects %zu", me, send_bytes[me], recv_bytes[me]);
    if (s->nccl) return nccl_all_to_all_v(s, in, send_bytes, out, recv_bytes);
    return s->staged ? staged_all_to_all_v(s, in, send_bytes, out, recv_bytes) : keep(s, in, send_bytes[0], out);
}

static status broadcast(comm *c, void *data, size_t bytes, uint32_t root) {
    cuda_state *s = state_of(c);
    TRY(cuda_state_check(s));
    if (s->nccl) return nccl_broadcast(s, data, bytes, root);
    return s->staged ? staged_broadcast(s, data, bytes, root) : ST_OK;
}

static status barrier(comm *c) {
    cuda_state *s = state_of(c);
    TRY(cuda_state_check(s));
    if (s->nccl) return nccl_barrier(s);
    return s->staged ? staged_barrier(s) : ST_OK;
}

const char *cuda_comm_way(const comm *c) { return ((const cuda_state *)c)->way; }

status cuda_comm_open(comm **out, const cuda_comm_options *o) {
    static const comm_back_end table = {.abort = abort_from_here,
                                        .close = close_state,
                                        .all_reduce = all_reduce,
                                        .all_gather_v = all_gather_v,
                                        .all_to_all_v = all_to_all_v,
                                        .broadcast = broadcast,
                                        .barrier = barrier};
    cuda_state *s = memory_alloc(sizeof *s);
    uint32_t n = comm_size(o->ranks);
    s->c.rank = comm_rank(o->ranks);
    s->c.size = n;
    s->c.where = comm_where(o->ranks);
    s->c.back = &table;
    s->c.same = memory_alloc_array(n, sizeof *s->c.same);
    s->ranks = o->ranks;
    s->stream = o->stream;
    s->device = o->device;
    s->test_handles = o->test_handles;
    s->small_floats = o->small_floats_max ? o->small_floats_max : CUDA_COMM_SMALL_FLOATS;
    s->large_bytes = o->large_bytes_max ? o->large_bytes_max : CUDA_COMM_LARGE_BYTES;
    s->cards = memory_alloc_array(n, sizeof *s->cards);
    pthread_mutex_init(&s->lock, NULL);
    INVARIANT(sem_init(&s->wake, 0, 0) == 0);
    rank_card mine;
    cards_fill(&mine, o, s->small_floats, s->large_bytes);
    status st = comm_all_gather(o->ranks, &mine, sizeof mine, s->cards);
    if (st == ST_OK) st = cards_compare(s->cards, n);
    if (st == ST_OK) st = open_ways(s, o);
    if (st == ST_OK) {
        describe(s);
        if (s->c.rank == 0 && n > 1) log_info("exchanges between GPUs: %s", s->way);
        *out = &s->c;
        return ST_OK;
    }
    char text[STATUS_TEXT_MAX];
    snprintf(text, sizeof text, "%s", status_text());
    close_state(&s->c);
    return fail(st, "%s", text);
}
