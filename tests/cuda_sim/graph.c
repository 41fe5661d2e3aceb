/* Graphs: what a stream was given between begin and end of a capture, with the arguments of then, to be done again. Work of
 * several streams is kept in the order of the calls, which is an order that their events allow. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim.h"
#include "stream.h"

enum { FORKS_MAX = 16 };

typedef struct work_list {
    sim_work **work;
    size_t count, max;
} work_list;

struct sim_capture {
    sim_capture *next;
    uint64_t number;
    enum cudaStreamCaptureMode mode;
    pthread_t thread;
    bool invalid;
    cudaStream_t streams[FORKS_MAX];   /* the first is the origin */
    unsigned stream_count;
    work_list list;
};
struct CUgraph_st { work_list list; };
struct CUgraphExec_st {
    unsigned references;               /* atomic: the owner's and those of launches under way */
    work_list list;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list of captures and what is in it */
static sim_capture *captures;
static uint64_t numbers;

static void list_add(work_list *l, sim_work *w) {
    if (l->count == l->max) {
        l->max = l->max ? 2 * l->max : 64;
        l->work = memory_grow(l->work, l->max * sizeof *l->work);
    }
    l->work[l->count++] = w;
}
static void list_copy(work_list *to, const work_list *from) {
    for (size_t i = 0; i < from->count; i++) {
        __atomic_add_fetch(&from->work[i]->references, 1, __ATOMIC_RELAXED);
        list_add(to, from->work[i]);
    }
}
static void list_close(work_list *l) {
    for (size_t i = 0; i < l->count; i++) sim_work_release(l->work[i]);
    free(l->work);
    *l = (work_list){0};
}

/* ---- captures ---- */

static cudaError_t invalidate(sim_capture *c, cudaError_t e) {
    if (c->invalid) return cudaErrorStreamCaptureInvalidated;
    c->invalid = true;
    return e;
}
cudaError_t sim_capture_invalidate(sim_capture *c, cudaError_t e) {
    pthread_mutex_lock(&lock);
    e = invalidate(c, e);
    pthread_mutex_unlock(&lock);
    return e;
}
cudaError_t sim_capture_forbids(void) {
    cudaError_t e = cudaSuccess;
    pthread_mutex_lock(&lock);
    for (sim_capture *c = captures; c; c = c->next) {
        bool own = pthread_equal(c->thread, pthread_self());
        if (c->mode == cudaStreamCaptureModeGlobal || (own && c->mode == cudaStreamCaptureModeThreadLocal))
            e = invalidate(c, cudaErrorStreamCaptureUnsupported);
    }
    pthread_mutex_unlock(&lock);
    return e;
}
cudaError_t sim_capture_append(sim_capture *c, cudaStream_t s, sim_work *w) {
    pthread_mutex_lock(&lock);
    bool good = !c->invalid;
    if (good) {
        list_add(&c->list, w);
        s->captured++;
        s->unjoined = s != c->streams[0];
    }
    pthread_mutex_unlock(&lock);
    if (!good) sim_work_release(w);
    return good ? cudaSuccess : cudaErrorStreamCaptureInvalidated;
}
uint64_t sim_capture_number(const sim_capture *c) { return c->number; }
sim_capture *sim_capture_find(uint64_t number) {
    pthread_mutex_lock(&lock);
    sim_capture *c = captures;
    while (c && c->number != number) c = c->next;
    pthread_mutex_unlock(&lock);
    return c;
}
void sim_capture_fork(sim_capture *c, cudaStream_t s) {
    pthread_mutex_lock(&lock);
    if (c->stream_count == FORKS_MAX) sim_die("a capture of more than %d streams", FORKS_MAX);
    c->streams[c->stream_count++] = s;
    s->capture = c;
    s->captured++;
    s->unjoined = true;
    pthread_mutex_unlock(&lock);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e == cudaSuccess && (!stream || stream == cudaStreamLegacy || s->capture)) e = cudaErrorStreamCaptureUnsupported;
    if (e != cudaSuccess) return sim_error(e);
    sim_capture *c = memory_alloc(sizeof *c);
    c->mode = mode;
    c->thread = pthread_self();
    c->streams[c->stream_count++] = s;
    pthread_mutex_lock(&lock);
    c->number = ++numbers;
    c->next = captures;
    captures = c;
    s->capture = c;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    *graph = NULL;
    if (!s) return sim_error(e);
    sim_capture *c = s->capture;
    if (!c) return sim_error(cudaErrorInvalidValue);
    if (c->streams[0] != s) return sim_error(sim_capture_invalidate(c, cudaErrorStreamCaptureUnmatched));
    if (c->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(c->thread, pthread_self()))
        return sim_error(cudaErrorStreamCaptureWrongThread);
    pthread_mutex_lock(&lock);
    for (sim_capture **at = &captures; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    if (c->invalid) e = cudaErrorStreamCaptureInvalidated;
    for (unsigned i = 0; i < c->stream_count; i++) {
        if (i > 0 && c->streams[i]->unjoined && e == cudaSuccess) e = cudaErrorStreamCaptureUnjoined;
        c->streams[i]->capture = NULL;
        c->streams[i]->unjoined = false;
    }
    pthread_mutex_unlock(&lock);
    if (e == cudaSuccess) {
        *graph = memory_alloc(sizeof **graph);
        (*graph)->list = c->list;
    } else {
        list_close(&c->list);
    }
    free(c);
    return sim_error(e);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *found) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    *found = cudaStreamCaptureStatusNone;
    if (s && s->capture)
        *found = s->capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return sim_error(e);
}

/* ---- graphs ---- */

typedef struct graph_work {
    sim_work base;
    cudaGraphExec_t exec;
} graph_work;
static void exec_release(cudaGraphExec_t exec) {
    if (__atomic_sub_fetch(&exec->references, 1, __ATOMIC_ACQ_REL) > 0) return;
    list_close(&exec->list);
    free(exec);
}
static void graph_run(sim_work *w) {
    const work_list *l = &((graph_work *)w)->exec->list;
    for (size_t i = 0; i < l->count; i++) l->work[i]->run(l->work[i]);
}
static void graph_close(sim_work *w) {
    exec_release(((graph_work *)w)->exec);
    free(w);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) {
    cudaError_t e = sim_device_failed(sim_device_current());
    *exec = NULL;
    if (e == cudaSuccess && (!graph || flags > 8)) e = cudaErrorInvalidValue;
    if (e != cudaSuccess) return sim_error(e);
    *exec = memory_alloc(sizeof **exec);
    (*exec)->references = 1;
    list_copy(&(*exec)->list, &graph->list);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    if (!exec) return sim_error(cudaErrorInvalidValue);
    graph_work *w = memory_alloc(sizeof *w);
    *w = (graph_work){{graph_run, graph_close, 1}, exec};
    __atomic_add_fetch(&exec->references, 1, __ATOMIC_RELAXED);
    return sim_enqueue(stream, &w->base);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    if (!exec) return sim_error(cudaErrorInvalidValue);
    exec_release(exec);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    if (!graph) return sim_error(cudaErrorInvalidValue);
    list_close(&graph->list);
    free(graph);
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    if (!graph || !count) return sim_error(cudaErrorInvalidValue);
    size_t room = *count;
    for (size_t i = 0; nodes && i < room; i++) nodes[i] = i < graph->list.count ? (cudaGraphNode_t)graph->list.work[i] : NULL;
    *count = nodes && room < graph->list.count ? room : graph->list.count;
    return cudaSuccess;
}
