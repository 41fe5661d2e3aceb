#include "shard/kernels/cuda/graphs.h"

#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"

enum { GRAPHS_MAX = 64 };

typedef struct recorded {
    uint64_t key;
    cudaGraphExec_t graph;
} recorded;

struct cuda_graphs {
    recorded list[GRAPHS_MAX];
    uint32_t count;
    uint64_t key; /* of the recording that is under way */
};

status cuda_graphs_open(cuda_backend *c) {
    c->graphs = memory_alloc(sizeof *c->graphs);
    return ST_OK;
}

void cuda_forget(backend *b) {
    cuda_graphs *g = cuda_of(b)->graphs;
    if (g->count) (void)cudaStreamSynchronize(cuda_of(b)->stream);
    for (uint32_t i = 0; i < g->count; i++) (void)cudaGraphExecDestroy(g->list[i].graph);
    g->count = 0;
}

void cuda_graphs_close(cuda_backend *c) {
    if (!c->graphs) return;
    cuda_forget(&c->base);
    free(c->graphs);
    c->graphs = NULL;
}

bool cuda_replay(backend *b, uint64_t key) {
    cuda_backend *c = cuda_of(b);
    for (uint32_t i = 0; i < c->graphs->count; i++) {
        if (c->graphs->list[i].key != key) continue;
        (void)!cuda_check(c, cudaGraphLaunch(c->graphs->list[i].graph, c->stream), "a recorded step");
        return true;
    }
    return false;
}

/* With no_recording, or once there are as many as may be, the calls are simply made. */
static bool may_record(const cuda_backend *c) {
    return !c->options.no_recording && c->graphs->count < GRAPHS_MAX;
}

status cuda_record_begin(backend *b, uint64_t key) {
    cuda_backend *c = cuda_of(b);
    if (!may_record(c)) return ST_OK;
    INVARIANT(!c->recording);
    TRY(cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording a step"));
    c->recording = true;
    c->graphs->key = key;
    return ST_OK;
}

status cuda_record_end(backend *b, bool whole) {
    cuda_backend *c = cuda_of(b);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    if (!c->recording) return ST_OK;
    c->recording = false;
    cudaError_t e = cudaStreamEndCapture(c->stream, &graph);
    if (!whole) {
        if (graph) (void)cudaGraphDestroy(graph);
        (void)cudaGetLastError(); /* whoever failed has said why */
        return ST_OK;
    }
    if (e == cudaSuccess) e = cudaGetLastError();
    if (e == cudaSuccess) e = cudaGraphInstantiate(&ready, graph, 0);
    if (graph) (void)cudaGraphDestroy(graph);
    TRY(cuda_check(c, e, "recording a step"));
    c->graphs->list[c->graphs->count++] = (recorded){c->graphs->key, ready};
    return cuda_check(c, cudaGraphLaunch(ready, c->stream), "a recorded step");
}
