/* Windows in the memory of all GPUs of a host, and short sums over them (peer.cu has the argument why they hold). */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/comm/cuda/cuda_comm_internal.h"

/* As WINDOW_FIRST_ROUND: every run crosses the wrap. Memory is set bytewise, hence the equal bytes. */
enum { FIRST_ROUND_BYTE = 0xFF, LANE_ALIGN = 128 };

struct peer_part {
    peer_view view;
    void *own;                      /* window, flags, rounds: one piece of memory */
    void *opened[PEER_RANKS_MAX];   /* what was mapped by a handle */
    bool offered, attached, mapped; /* others may have `own`; all ranks have all; some by handles */
};

/* Where other ranks find this one's memory. */
typedef struct peer_offer {
    cudaIpcMemHandle_t handle;
    uint64_t address;
} peer_offer;

static size_t window_floats(const cuda_state *s) {
    size_t lane = (s->small_floats + PEER_LANES - 1) / PEER_LANES + 4;
    if (lane < PEER_LANE_FLOATS) lane = PEER_LANE_FLOATS;
    lane = (lane + LANE_ALIGN - 1) / LANE_ALIGN * LANE_ALIGN;
    return 2 * PEER_LANES * lane;
}
enum { FLAG_WORDS = PEER_LANES * PEER_RANKS_MAX };

/* Whether another rank's address is good here; a process cannot open its own handles. */
static bool shares_addresses(const cuda_state *s, uint32_t rank) {
    return cards_same_process(&s->cards[rank], &s->cards[s->c.rank]) && !s->test_handles;
}

/* Whether this rank's GPU reaches all the others', and is allowed to where it takes their addresses. Memory that is opened by a
 * handle allows it by itself; asking for it would take memory of that GPU for a context of this process. */
static status reach(cuda_state *s) {
    for (uint32_t r = 0; r < s->c.size; r++) {
        const rank_card *theirs = &s->cards[r];
        int device = 0, can = 0;
        if (cards_same_device(theirs, &s->cards[s->c.rank])) continue;
        cudaError_t e = cudaDeviceGetByPCIBusId(&device, theirs->bus);
        if (e == cudaSuccess) e = cudaDeviceCanAccessPeer(&can, s->device, device);
        if (e == cudaSuccess && can && shares_addresses(s, r)) {
            e = cudaDeviceEnablePeerAccess(device, 0);
            if (e == cudaErrorPeerAccessAlreadyEnabled) e = cudaSuccess;
        }
        (void)cudaGetLastError();
        if (e != cudaSuccess || !can)
            return fail(ST_UNSUPPORTED, "rank %u does not reach the memory of rank %u's GPU %s%s%s", s->c.rank, r, theirs->bus,
                        e == cudaSuccess ? "" : ": ", e == cudaSuccess ? "" : cudaGetErrorString(e));
    }
    return ST_OK;
}

static status take(cuda_state *s, peer_offer *offer) {
    peer_part *p = s->peer;
    size_t bytes = window_floats(s) * sizeof(float) + (FLAG_WORDS + PEER_LANES) * sizeof(uint32_t);
    CUDA_TRY(cudaMalloc(&p->own, bytes));
    CUDA_TRY(cudaMemsetAsync(p->own, FIRST_ROUND_BYTE, bytes, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    offer->address = (uint64_t)(uintptr_t)p->own;
    CUDA_TRY(cudaIpcGetMemHandle(&offer->handle, p->own));
    return ST_OK;
}

static status attach(cuda_state *s, const peer_offer *offers) {
    peer_part *p = s->peer;
    peer_view *v = &p->view;
    for (uint32_t r = 0; r < s->c.size; r++) {
        char *base = (char *)(uintptr_t)offers[r].address;
        bool mapped = r != s->c.rank && !shares_addresses(s, r);
        if (r == s->c.rank) base = p->own;
        if (mapped) {
            CUDA_TRY(cudaIpcOpenMemHandle(&p->opened[r], offers[r].handle, cudaIpcMemLazyEnablePeerAccess));
            base = p->opened[r];
            p->mapped = true;
        }
        v->window[r] = (float *)(void *)base;
        v->flags[r] = (uint32_t *)(void *)(base + window_floats(s) * sizeof(float));
    }
    v->rounds = v->flags[s->c.rank] + FLAG_WORDS;
    v->abort_word = s->abort_word_device;
    v->rank = s->c.rank;
    v->ranks = s->c.size;
    v->lane_floats = (uint32_t)(window_floats(s) / 2 / PEER_LANES);
    return ST_OK;
}

status peer_part_open(cuda_state *s) {
    if (s->c.size > PEER_RANKS_MAX)
        return fail(ST_UNSUPPORTED, "%u ranks, peer memory is for %d at most", s->c.size, PEER_RANKS_MAX);
    s->peer = memory_alloc(sizeof *s->peer);
    TRY(cuda_state_agree(s, reach(s)));
    peer_offer mine, *offers = memory_alloc_array(s->c.size, sizeof *offers);
    memset(&mine, 0, sizeof mine);
    status st = cuda_state_agree(s, take(s, &mine));
    if (st == ST_OK) st = comm_all_gather(s->ranks, &mine, sizeof mine, offers);
    s->peer->offered = st == ST_OK;
    if (st == ST_OK) st = cuda_state_agree(s, attach(s, offers));
    s->peer->attached = st == ST_OK;
    free(offers);
    return st;
}

/* Another rank's kernel may still read this rank's window: a last round in every lane says that it does not. If the others do
 * not come to it, or all of this ended in disorder, the memory stays until the process ends. So does what others mapped by a
 * handle: they would have to close it first, and nobody waits for that. */
static bool all_have_read(cuda_state *s) {
    if (!s->peer->attached || cuda_state_check(s) != ST_OK) return false;
    cuda_comm_peer_meet(s->stream, &s->peer->view);
    if (cuda_state_launched() == ST_OK && cuda_state_settle(s, CUDA_COMM_CLOSE_SECONDS, "closing peer memory") == ST_OK) return true;
    __atomic_store_n(s->abort_word, 1, __ATOMIC_RELEASE);
    return false;
}

void peer_part_close(cuda_state *s) {
    peer_part *p = s->peer;
    if (!p) return;
    bool alone = !p->offered || (all_have_read(s) && !p->mapped);
    for (uint32_t r = 0; r < PEER_RANKS_MAX; r++)
        if (p->opened[r]) (void)cudaIpcCloseMemHandle(p->opened[r]);
    if (p->own && alone) (void)cudaFree(p->own);
    (void)cudaGetLastError();
    free(p);
    s->peer = NULL;
}

status peer_all_reduce(cuda_state *s, float *x, size_t count) {
    INVARIANT(count <= s->small_floats);
    TRY(cuda_state_check(s));
    cuda_comm_peer_sum(s->stream, &s->peer->view, x, count);
    return cuda_state_launched();
}
