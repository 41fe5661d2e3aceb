/* Events: a place in a stream. */
#include <stdlib.h>
#include <time.h>

#include "base/memory.h"
#include "sim.h"
#include "stream.h"

struct CUevent_st {
    unsigned references;          /* atomic: the owner's and those of records under way */
    unsigned flags;
    int device;
    cudaStream_t stream;          /* NULL: never recorded */
    uint64_t ticket;
    uint64_t capture, captured;   /* recorded in a capture: its number, and where in the stream's part of it */
    double seconds;               /* when it was reached; written by the stream's thread before the ticket is done */
};

typedef struct record_work {
    sim_work base;
    cudaEvent_t event;
} record_work;

static void event_release(cudaEvent_t event) {
    if (__atomic_sub_fetch(&event->references, 1, __ATOMIC_ACQ_REL) == 0) free(event);
}
static void record_run(sim_work *w) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    ((record_work *)w)->event->seconds = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
static void record_close(sim_work *w) {
    event_release(((record_work *)w)->event);
    free(w);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    cudaError_t e = sim_device_failed(sim_device_current());
    if (e == cudaSuccess && flags > 7) e = cudaErrorInvalidValue;
    *event = NULL;
    if (e != cudaSuccess) return sim_error(e);
    *event = memory_alloc(sizeof **event);
    (*event)->references = 1;
    (*event)->flags = flags;
    (*event)->device = sim_device_current();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!event) return sim_error(cudaErrorInvalidResourceHandle);
    event_release(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e == cudaSuccess && (!event || event->device != s->device)) e = cudaErrorInvalidResourceHandle;
    if (e != cudaSuccess) return sim_error(e);
    event->stream = s;
    event->capture = 0;
    if (s->capture) {
        event->capture = sim_capture_number(s->capture);
        event->captured = s->captured;
        return cudaSuccess;
    }
    record_work *w = memory_alloc(sizeof *w);
    *w = (record_work){{record_run, record_close, 1}, event};
    __atomic_add_fetch(&event->references, 1, __ATOMIC_RELAXED);
    e = sim_enqueue(stream, &w->base);
    event->ticket = sim_ticket_last(s);
    return e;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e == cudaSuccess && !event) e = cudaErrorInvalidResourceHandle;
    if (e == cudaSuccess && flags > 1) e = cudaErrorInvalidValue;
    if (e != cudaSuccess) return sim_error(e);
    if (!event->stream) return cudaSuccess;
    if (event->capture) {
        sim_capture *c = sim_capture_find(event->capture);
        if (!c) return sim_error(cudaErrorCapturedEvent);
        if (!s->capture) sim_capture_fork(c, s);
        else if (s->capture != c) return sim_error(sim_capture_invalidate(c, cudaErrorStreamCaptureIsolation));
        if (event->stream != s && event->captured == event->stream->captured) event->stream->unjoined = false;
        return cudaSuccess;
    }
    if (s->capture) return sim_error(sim_capture_invalidate(s->capture, cudaErrorStreamCaptureIsolation));
    sim_stream_await(s, event->stream, event->ticket);
    return cudaSuccess;
}

static cudaError_t usable(cudaEvent_t event) {
    if (!event) return cudaErrorInvalidResourceHandle;
    if (!event->capture) return sim_device_failed(event->device);
    sim_capture *c = sim_capture_find(event->capture);
    return c ? sim_capture_invalidate(c, cudaErrorCapturedEvent) : cudaErrorCapturedEvent;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    cudaError_t e = usable(event);
    if (e != cudaSuccess) return sim_error(e);
    if (!event->stream) return cudaSuccess;
    sim_ticket_wait(event->stream, event->ticket);
    return sim_synchronised(event->device);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    cudaError_t e = usable(event);
    if (e != cudaSuccess) return sim_error(e);
    if (!event->stream) return cudaSuccess;
    return sim_ticket_done(event->stream, event->ticket) ? sim_synchronised(event->device) : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    cudaError_t e = usable(from);
    if (e == cudaSuccess) e = usable(to);
    if (e == cudaSuccess && ((from->flags | to->flags) & cudaEventDisableTiming)) e = cudaErrorInvalidResourceHandle;
    if (e == cudaSuccess && (!from->stream || !to->stream)) e = cudaErrorInvalidResourceHandle;
    if (e != cudaSuccess) return sim_error(e);
    if (!sim_ticket_done(from->stream, from->ticket) || !sim_ticket_done(to->stream, to->ticket)) return cudaErrorNotReady;
    *ms = (float)((to->seconds - from->seconds) * 1e3);
    return cudaSuccess;
}
