/* NCCL's calls: communicators, groups, and what goes into a stream. What ranks do when they meet is in nccl_meet.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "nccl_meet.h"
#include "sim.h"

static __thread char last_error[160];
static __thread unsigned depth;                 /* of groups */
static __thread nccl_call *grouped, **grouped_end;
static __thread ncclComm_t opening;             /* in a group: to be waited for at its end */

static ncclResult_t refuse(ncclResult_t r, const char *why) {
    snprintf(last_error, sizeof last_error, "%s", why);
    return r;
}

const char *ncclGetErrorString(ncclResult_t r) {
    static const char *const texts[] = {"no error", "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
                                        "unhandled system error (run with NCCL_DEBUG=INFO for details)",
                                        "internal error - please report this issue to the NCCL developers",
                                        "invalid argument (run with NCCL_DEBUG=WARN for details)",
                                        "invalid usage (run with NCCL_DEBUG=WARN for details)",
                                        "remote process exited or there was a network error", "NCCL operation in progress"};
    return (unsigned)r < sizeof texts / sizeof *texts ? texts[r] : "unknown result code";
}
const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return last_error;
}
ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

/* ---- communicators ---- */

static void comm_release(ncclComm_t comm) {
    if (__atomic_sub_fetch(&comm->references, 1, __ATOMIC_ACQ_REL) > 0) return;
    nccl_clique_leave(comm);
    free(comm);
}
static ncclResult_t comm_state(ncclComm_t comm) {
    ncclResult_t r = nccl_clique_state(comm);
    if (r != ncclSuccess) return r;
    return comm->finalizing && __atomic_load_n(&comm->pending, __ATOMIC_ACQUIRE) > 0 ? ncclInProgress : ncclSuccess;
}
/* Blocking: until the state is no longer "in progress". */
static ncclResult_t settle(ncclComm_t comm) {
    if (!comm->blocking) return ncclInProgress;
    ncclResult_t r = nccl_clique_wait(comm);
    while (r == ncclSuccess && (r = comm_state(comm)) == ncclInProgress) {
        sim_device_wait(comm->device, true);
        r = ncclSuccess;
    }
    return r == ncclInvalidUsage ? refuse(r, "Duplicate GPU detected: two ranks on one device") : r;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
    *comm = NULL;
    if (config && (config->magic != 0xcafebeef || config->size > sizeof *config))
        return refuse(ncclInvalidArgument, "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
    if (nranks < 1 || nranks > NCCL_RANKS_MAX || rank < 0 || rank >= nranks)
        return refuse(ncclInvalidArgument, "Invalid rank requested");
    if (sim_capture_forbids() != cudaSuccess) return refuse(ncclInvalidUsage, "a communicator in a capture");
    if (sim_device_failed(sim_device_current()) != cudaSuccess) return refuse(ncclUnhandledCudaError, "the device has failed");
    ncclComm_t c = memory_alloc(sizeof *c);
    c->references = 1;
    c->rank = rank;
    c->device = sim_device_current();
    c->blocking = !config || config->blocking != 0;
    ncclResult_t r = nccl_clique_join(c, &id, nranks);
    if (r != ncclSuccess) {
        free(c);
        return refuse(r, "this unique id is not known, or the rank is there already");
    }
    *comm = c;
    if (depth > 0) {
        c->next_opening = opening;
        opening = c;
        return c->blocking ? ncclSuccess : ncclInProgress;
    }
    r = settle(c);
    if (r != ncclSuccess && r != ncclInProgress) {
        comm_release(c);
        *comm = NULL;
    }
    return r;
}
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(comm, nranks, id, rank, NULL);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (!comm) return refuse(ncclInvalidArgument, "no communicator");
    *error = comm_state(comm);
    if (*error == ncclSuccess && __atomic_exchange_n(&comm->unasked, 0, __ATOMIC_ACQ_REL)) *error = ncclInProgress;
    return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    if (!comm || comm->finalizing) return refuse(ncclInvalidArgument, "finalized twice");
    comm->finalizing = true;
    return settle(comm);
}
/* As NCCL does from 2.22 on, also where a communicator does not block. */
static void wait_for_graphs(ncclComm_t comm) {
    while (__atomic_load_n(&comm->recorded, __ATOMIC_ACQUIRE) > 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!comm) return ncclSuccess;
    if (comm_state(comm) != ncclSuccess && comm->finalizing && !comm->blocking)
        return refuse(ncclInvalidUsage, "destroyed before it was finalized");
    if (!comm->finalizing) {
        comm->finalizing = true;
        while (comm_state(comm) == ncclInProgress && nccl_clique_state(comm) == ncclSuccess) sim_device_wait(comm->device, true);
    }
    wait_for_graphs(comm);
    comm_release(comm);
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (!comm) return ncclSuccess;
    nccl_clique_abort(comm);
    wait_for_graphs(comm);
    comm_release(comm);
    return ncclSuccess;
}

/* ---- calls, in stream order ---- */

typedef struct nccl_work {
    sim_work base;
    ncclComm_t comm;
    nccl_call *calls;
    int *pending;             /* of the communicator, unless this is a node of a graph */
    bool in_graph;
} nccl_work;

static void work_run(sim_work *w) {
    nccl_work *n = (nccl_work *)w;
    nccl_calls_run(n->comm, n->calls);
    if (n->pending) __atomic_sub_fetch(n->pending, 1, __ATOMIC_RELEASE);
    n->pending = NULL;
}
static void calls_free(nccl_call *c) {
    while (c) {
        nccl_call *next = c->next;
        free(c);
        c = next;
    }
}
static void work_close(sim_work *w) {
    nccl_work *n = (nccl_work *)w;
    if (n->pending) __atomic_sub_fetch(n->pending, 1, __ATOMIC_RELEASE); /* the device failed before it ran */
    if (n->in_graph) __atomic_sub_fetch(&n->comm->recorded, 1, __ATOMIC_RELEASE);
    calls_free(n->calls);
    comm_release(n->comm);
    free(n);
}

/* Takes over the calls, all of one communicator and stream. */
static ncclResult_t calls_enqueue(nccl_call *calls) {
    ncclComm_t comm = calls->comm;
    cudaStream_t stream = calls->stream;
    enum cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    int device = sim_device_current();
    nccl_work *w = memory_alloc(sizeof *w);
    cudaSetDevice(comm->device);
    (void)cudaStreamIsCapturing(stream, &capturing);
    bool in_graph = capturing != cudaStreamCaptureStatusNone;
    *w = (nccl_work){{work_run, work_close, 1}, comm, calls, in_graph ? NULL : &comm->pending, in_graph};
    __atomic_add_fetch(in_graph ? &comm->recorded : &comm->pending, 1, __ATOMIC_ACQ_REL);
    __atomic_add_fetch(&comm->references, 1, __ATOMIC_RELAXED);
    bool blocking = comm->blocking;
    cudaError_t e = sim_enqueue(stream, &w->base);
    cudaSetDevice(device);
    if (e != cudaSuccess) return refuse(ncclUnhandledCudaError, cudaGetErrorString(e));
    if (blocking) return ncclSuccess;
    __atomic_store_n(&comm->unasked, 1, __ATOMIC_RELEASE);
    return ncclInProgress;
}

/* What a group gives back whose parts gave these: the first error, or that something goes on. */
static ncclResult_t together(ncclResult_t a, ncclResult_t b) {
    return b != ncclSuccess && (a == ncclSuccess || a == ncclInProgress) ? b : a;
}

static ncclResult_t group_flush(void) {
    ncclResult_t result = ncclSuccess;
    while (grouped) {
        nccl_call *mine = NULL, **end = &mine, **at = &grouped;
        ncclComm_t comm = grouped->comm;
        cudaStream_t stream = grouped->stream;
        while (*at) {
            nccl_call *c = *at;
            if (c->comm == comm && c->stream == stream) {
                *at = c->next;
                c->next = NULL;
                *end = c;
                end = &c->next;
            } else {
                at = &c->next;
            }
        }
        result = together(result, calls_enqueue(mine));
    }
    grouped_end = &grouped;
    while (opening) {
        ncclComm_t c = opening;
        opening = c->next_opening;
        result = together(result, settle(c));
    }
    return result;
}

ncclResult_t ncclGroupStart(void) {
    if (depth++ == 0) grouped_end = &grouped;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
    if (depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd: not in a group call");
    return --depth > 0 ? ncclSuccess : group_flush();
}

static bool usable(const void *p, size_t bytes) {
    sim_place place = sim_memory_place(p, bytes ? bytes : 1, NULL);
    return bytes == 0 || place == SIM_DEVICE || place == SIM_PINNED;
}

static ncclResult_t call(nccl_call c, size_t from_parts, size_t to_parts) {
    ncclComm_t comm = c.comm;
    if (!comm) return refuse(ncclInvalidArgument, "no communicator");
    ncclResult_t state = comm_state(comm);
    if (state == ncclInProgress || __atomic_load_n(&comm->unasked, __ATOMIC_ACQUIRE))
        return refuse(ncclInvalidArgument, "Attempt to use communicator before the previous operation returned ncclSuccess");
    if (state != ncclSuccess) return refuse(state, "the communicator has failed");
    if (comm->finalizing) return refuse(ncclInvalidArgument, "the communicator is finalized");
    int size = nccl_clique_size(comm);
    if ((unsigned)c.type >= ncclNumTypes || c.peer < 0 || c.peer >= size) return refuse(ncclInvalidArgument, "type or peer");
    size_t bytes = c.count * nccl_type_bytes(c.type);
    if ((from_parts && !usable(c.from, bytes * from_parts)) || (to_parts && !usable(c.to, bytes * to_parts)))
        return refuse(ncclInvalidArgument, "a buffer is not memory of the device, or shorter than was said");
    if ((c.kind == NCCL_ALL_REDUCE || c.kind == NCCL_REDUCE_SCATTER) && !nccl_can_reduce(c.type, c.op))
        return refuse(ncclInvalidArgument, "the simulator does not have this type or operation");
    nccl_call *own = memory_alloc(sizeof *own);
    *own = c;
    if (depth == 0) return calls_enqueue(own);
    *grouped_end = own;
    grouped_end = &own->next;
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    return call((nccl_call){.kind = NCCL_SEND, .from = from, .count = count, .type = type, .peer = peer, .comm = comm,
                            .stream = stream}, 1, 0);
}
ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    return call((nccl_call){.kind = NCCL_RECV, .to = to, .count = count, .type = type, .peer = peer, .comm = comm,
                            .stream = stream}, 0, 1);
}
ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
    return call((nccl_call){.kind = NCCL_ALL_GATHER, .from = from, .to = to, .count = count, .type = type, .comm = comm,
                            .stream = stream}, 1, comm ? (size_t)nccl_clique_size(comm) : 1);
}
ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
    return call((nccl_call){.kind = NCCL_ALL_REDUCE, .from = from, .to = to, .count = count, .type = type, .op = op,
                            .comm = comm, .stream = stream}, 1, 1);
}
ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                               cudaStream_t stream) {
    return call((nccl_call){.kind = NCCL_REDUCE_SCATTER, .from = from, .to = to, .count = count, .type = type, .op = op,
                            .comm = comm, .stream = stream}, comm ? (size_t)nccl_clique_size(comm) : 1, 1);
}
ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
    return call((nccl_call){.kind = NCCL_BROADCAST, .from = from, .to = to, .count = count, .type = type, .peer = root,
                            .comm = comm, .stream = stream}, comm && comm->rank == root ? 1 : 0, 1);
}
