/* Weights into device memory by way of pinned buffers (device_load.h): a stream and two buffers a thread, so that a thread
 * reads into one while the copy engine empties the other. */
#include <stdio.h>
#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/cuda/devices.h"
#include "shard/kernels/cuda/cuda_backend.h"
#include "shard/kernels/device_load.h"

enum { STAGES = 2, STAGE_ALIGN = 4096 };

typedef struct lane {
    cudaStream_t stream;
    cudaEvent_t gone[STAGES]; /* what was last sent from the buffer has left it */
    char *stage[STAGES];
    bool sent[STAGES]; /* gone has been recorded */
    uint32_t at;       /* the buffer that stage gave last */
    cudaError_t error; /* of waiting; said by the next send */
} lane;

struct device_loader {
    int device;
    uint32_t threads;
    size_t stage_bytes;
    char *buffers; /* pinned, those of all lanes */
    lane *lanes;   /* [threads] */
};

static status check(cudaError_t e, const char *what) {
    if (e == cudaSuccess) return ST_OK;
    int device = -1;
    (void)cudaGetDevice(&device);
    return fail(cuda_status_of(e), "GPU %d: %s: %s (%s)", device, what, cuda_cause_of(e), cudaGetErrorName(e));
}

static void load_close(device_loader *l) {
    if (!l) return;
    (void)cudaSetDevice(l->device);
    for (uint32_t t = 0; l->lanes && t < l->threads; t++) {
        lane *n = &l->lanes[t];
        if (n->stream) (void)cudaStreamSynchronize(n->stream);
        for (int i = 0; i < STAGES; i++)
            if (n->gone[i]) (void)cudaEventDestroy(n->gone[i]);
        if (n->stream) (void)cudaStreamDestroy(n->stream);
    }
    if (l->buffers) (void)cudaFreeHost(l->buffers);
    free(l->lanes);
    free(l);
}

static status open_lane(lane *n, char *buffers, size_t stage_bytes) {
    TRY(check(cudaStreamCreateWithFlags(&n->stream, cudaStreamNonBlocking), "a stream that loads weights"));
    for (int i = 0; i < STAGES; i++) {
        n->stage[i] = buffers + i * stage_bytes;
        /* Who waits sleeps: threads may be more than cores, and the others read files meanwhile. */
        TRY(check(cudaEventCreateWithFlags(&n->gone[i], cudaEventDisableTiming | cudaEventBlockingSync),
                  "an event of loading weights"));
    }
    n->at = STAGES - 1;
    return ST_OK;
}

static status load_open(device_loader **out, backend *b, uint32_t threads, size_t stage_bytes) {
    *out = NULL;
    INVARIANT(threads > 0);
    cudaStream_t before = cuda_of(b)->stream;
    device_loader *l = memory_alloc(sizeof *l);
    l->device = cuda_of(b)->device;
    l->threads = threads;
    l->stage_bytes = (stage_bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
    l->lanes = memory_alloc_array(threads, sizeof *l->lanes);
    size_t bytes = l->stage_bytes * STAGES * threads;
    char what[96];
    snprintf(what, sizeof what, "%zu bytes of pinned memory to load weights through", bytes);
    /* The memory that weights go to may still be on its way to being zeroed. */
    status st = check(cudaSetDevice(l->device), "choosing the GPU");
    if (st == ST_OK) st = check(cudaStreamSynchronize(before), "waiting for the GPU before weights are loaded");
    if (st == ST_OK) st = check(cudaHostAlloc((void **)&l->buffers, bytes, cudaHostAllocDefault), what);
    for (uint32_t t = 0; st == ST_OK && t < threads; t++)
        st = open_lane(&l->lanes[t], l->buffers + t * STAGES * l->stage_bytes, l->stage_bytes);
    if (st == ST_OK) *out = l;
    else load_close(l);
    return st;
}

static void *load_stage(device_loader *l, uint32_t thread) {
    INVARIANT(thread < l->threads);
    lane *n = &l->lanes[thread];
    n->at = (n->at + 1) % STAGES;
    if (!n->sent[n->at]) return n->stage[n->at];
    n->sent[n->at] = false;
    cudaError_t e = cudaSetDevice(l->device); /* each thread has a device of its own that it is about */
    if (e == cudaSuccess) e = cudaEventSynchronize(n->gone[n->at]);
    if (n->error == cudaSuccess) n->error = e;
    return n->stage[n->at];
}

static status load_send(device_loader *l, uint32_t thread, void *device_to, size_t bytes) {
    INVARIANT(thread < l->threads && bytes <= l->stage_bytes);
    lane *n = &l->lanes[thread];
    static const char what[] = "copying weights to the GPU";
    TRY(check(n->error, what));
    TRY(check(cudaSetDevice(l->device), what));
    TRY(check(cudaMemcpyAsync(device_to, n->stage[n->at], bytes, cudaMemcpyHostToDevice, n->stream), what));
    TRY(check(cudaEventRecord(n->gone[n->at], n->stream), what));
    n->sent[n->at] = true;
    return ST_OK;
}

static status load_finish(device_loader *l) {
    static const char what[] = "copying weights to the GPU";
    TRY(check(cudaSetDevice(l->device), what));
    for (uint32_t t = 0; t < l->threads; t++) {
        TRY(check(l->lanes[t].error, what));
        TRY(check(cudaStreamSynchronize(l->lanes[t].stream), what));
        for (int i = 0; i < STAGES; i++) l->lanes[t].sent[i] = false;
    }
    return ST_OK;
}

const device_load_ops *cuda_load_ops(void) {
    static const device_load_ops ops = {load_open, load_stage, load_send, load_finish, load_close};
    return &ops;
}
