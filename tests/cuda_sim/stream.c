/* Streams: each has a list of what is to be done and a thread that does it, once somebody waits or time has passed. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "sim.h"
#include "stream.h"

enum { STREAMS_MAX = 256 };

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three */
static cudaStream_t streams, gone;
static cudaStream_t nulls[SIM_DEVICES_MAX];

static bool lazy(void) { return sim_setting("CUDA_SIM_LAZY", 1) != 0; }

void sim_work_release(sim_work *w) {
    if (__atomic_sub_fetch(&w->references, 1, __ATOMIC_ACQ_REL) == 0) w->close(w);
}
void sim_work_free(sim_work *w) { free(w); }

/* ---- the stream's thread ---- */

static void *stream_main(void *p) {
    cudaStream_t s = p;
    cudaSetDevice(s->device);
    pthread_mutex_lock(&s->lock);
    while (!s->closing || s->done < s->issued) {
        if (s->done == s->issued) {
            pthread_cond_wait(&s->wake, &s->lock);
            continue;
        }
        if (s->wanted <= s->done && !s->closing) {
            struct timespec late;
            clock_gettime(CLOCK_MONOTONIC, &late);
            unsigned long long ns = (unsigned long long)late.tv_nsec + sim_setting("CUDA_SIM_LATE_MS", 20) * 1000000u;
            late.tv_sec += (time_t)(ns / 1000000000u);
            late.tv_nsec = (long)(ns % 1000000000u);
            uint64_t issued = s->issued;
            if (pthread_cond_timedwait(&s->wake, &s->lock, &late) && s->wanted < issued) s->wanted = issued;
            continue;
        }
        stream_item *item = s->first;
        s->first = item->next;
        if (!s->first) s->last = NULL;
        pthread_mutex_unlock(&s->lock);
        /* A device that has failed does nothing more. */
        if (sim_device_failed(s->device) == cudaSuccess) {
            sim_memory_enter();
            item->work->run(item->work);
            sim_memory_leave();
        }
        sim_work_release(item->work);
        free(item);
        pthread_mutex_lock(&s->lock);
        s->done++;
        pthread_cond_broadcast(&s->finished);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void stream_locks_init(cudaStream_t s) {
    pthread_condattr_t monotonic;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &monotonic);
    pthread_cond_init(&s->finished, NULL);
    pthread_condattr_destroy(&monotonic);
}

/* A process that was forked has none of the threads; streams begin anew when they are next used. */
static void forked(void) {
    pthread_mutex_init(&list_lock, NULL);
    for (int i = -1; i < SIM_DEVICES_MAX; i++)
        for (cudaStream_t s = i < 0 ? streams : nulls[i]; s; s = s->next) {
            stream_locks_init(s);
            s->started = false;
        }
}
static void fork_watch(void) { pthread_atfork(NULL, NULL, forked); }

static cudaStream_t stream_open(unsigned flags) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fork_watch);
    cudaStream_t s = memory_alloc(sizeof *s);
    s->device = sim_device_current();
    s->flags = flags;
    stream_locks_init(s);
    return s;
}

static void stream_push(cudaStream_t s, sim_work *w) {
    stream_item *item = memory_alloc(sizeof *item);
    *item = (stream_item){.work = w};
    pthread_mutex_lock(&s->lock);
    if (!s->started) {
        s->started = true;
        if (pthread_create(&s->thread, NULL, stream_main, s)) sim_die("no thread for a stream");
    }
    if (s->last) s->last->next = item;
    else s->first = item;
    s->last = item;
    if (s->issued++ == s->done) pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* Lets everything up to the ticket begin; the lock is held. */
static void want(cudaStream_t s, uint64_t ticket) {
    if (s->wanted >= ticket) return;
    s->wanted = ticket;
    pthread_cond_signal(&s->wake);
}
void sim_ticket_wait(cudaStream_t s, uint64_t ticket) {
    pthread_mutex_lock(&s->lock);
    want(s, ticket);
    while (s->done < ticket) pthread_cond_wait(&s->finished, &s->lock);
    pthread_mutex_unlock(&s->lock);
}
bool sim_ticket_done(cudaStream_t s, uint64_t ticket) {
    pthread_mutex_lock(&s->lock);
    bool done = s->done >= ticket;
    want(s, ticket);
    pthread_mutex_unlock(&s->lock);
    return done;
}
uint64_t sim_ticket_last(cudaStream_t s) {
    pthread_mutex_lock(&s->lock);
    uint64_t ticket = s->issued;
    pthread_mutex_unlock(&s->lock);
    return ticket;
}
static void wait_all(cudaStream_t s) { sim_ticket_wait(s, sim_ticket_last(s)); }

/* ---- waiting for another stream, in stream order ---- */

typedef struct wait_work {
    sim_work base;
    cudaStream_t stream;
    uint64_t ticket;
} wait_work;
static void wait_run(sim_work *w) {
    wait_work *wait = (wait_work *)w;
    sim_memory_leave();
    sim_ticket_wait(wait->stream, wait->ticket);
    sim_memory_enter();
}
void sim_stream_await(cudaStream_t s, cudaStream_t other, uint64_t ticket) {
    if (s == other) return;
    wait_work *w = memory_alloc(sizeof *w);
    *w = (wait_work){{wait_run, sim_work_free, 1}, other, ticket};
    stream_push(s, &w->base);
}

/* ---- the legacy stream: after all blocking streams, and before what they get next ---- */

/* The streams of a device but its legacy one, all or those that block. They may be destroyed meanwhile: what is left of them stays. */
static size_t streams_of(int device, bool all, cudaStream_t found[STREAMS_MAX]) {
    size_t count = 0;
    pthread_mutex_lock(&list_lock);
    for (cudaStream_t s = streams; s; s = s->next) {
        if (s->device != device || (!all && s->flags & cudaStreamNonBlocking)) continue;
        if (count == STREAMS_MAX) sim_die("more than %d streams of a device", STREAMS_MAX);
        found[count++] = s;
    }
    pthread_mutex_unlock(&list_lock);
    return count;
}

static bool is_alive(cudaStream_t stream) {
    bool found = false;
    pthread_mutex_lock(&list_lock);
    for (cudaStream_t s = streams; s && !found; s = s->next) found = s == stream;
    for (int i = 0; i < SIM_DEVICES_MAX; i++) found = found || (stream && nulls[i] == stream);
    pthread_mutex_unlock(&list_lock);
    return found;
}
cudaStream_t sim_stream_of(cudaStream_t s, cudaError_t *e) {
    int device = sim_device_current();
    *e = sim_device_failed(device);
    if (*e == cudaSuccess && sim_device_count() == 0) *e = cudaErrorNoDevice;
    if (*e != cudaSuccess) return NULL;
    if (s && s != cudaStreamLegacy) {
        if (is_alive(s)) return s;
        *e = cudaErrorInvalidResourceHandle;
        return NULL;
    }
    pthread_mutex_lock(&list_lock);
    if (!nulls[device]) nulls[device] = stream_open(cudaStreamDefault);
    pthread_mutex_unlock(&list_lock);
    return nulls[device];
}

cudaError_t sim_enqueue(cudaStream_t stream, sim_work *w) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e == cudaSuccess && s->device != sim_device_current()) e = cudaErrorInvalidResourceHandle;
    if (e == cudaSuccess && s->capture) return sim_error(sim_capture_append(s->capture, s, w));
    cudaStream_t blocking[STREAMS_MAX];
    bool null = e == cudaSuccess && s == nulls[s->device];
    size_t count = null ? streams_of(s->device, false, blocking) : 0;
    for (size_t i = 0; i < count; i++)
        if (blocking[i]->capture) e = cudaErrorStreamCaptureImplicit;
    if (e != cudaSuccess) {
        sim_work_release(w);
        return sim_error(e);
    }
    cudaStream_t legacy = nulls[s->device];
    for (size_t i = 0; i < count; i++) sim_stream_await(s, blocking[i], sim_ticket_last(blocking[i]));
    if (!null && legacy && !(s->flags & cudaStreamNonBlocking)) {
        uint64_t ticket = sim_ticket_last(legacy);
        if (ticket != s->legacy_ticket) sim_stream_await(s, legacy, ticket);
        s->legacy_ticket = ticket;
    }
    stream_push(s, w);
    if (!lazy()) wait_all(s);
    return cudaSuccess;
}

void sim_device_wait(int device, bool all) {
    cudaStream_t found[STREAMS_MAX + 1];
    uint64_t ticket[STREAMS_MAX + 1];
    size_t count = streams_of(device, all, found);
    pthread_mutex_lock(&list_lock);
    if (nulls[device]) found[count++] = nulls[device];
    pthread_mutex_unlock(&list_lock);
    /* All of them begin before the first is waited for. */
    for (size_t i = 0; i < count; i++) {
        ticket[i] = sim_ticket_last(found[i]);
        (void)sim_ticket_done(found[i], ticket[i]);
    }
    for (size_t i = 0; i < count; i++) sim_ticket_wait(found[i], ticket[i]);
}

/* ---- the API ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    cudaError_t e = sim_device_failed(sim_device_current());
    if (e == cudaSuccess && sim_device_count() == 0) e = cudaErrorNoDevice;
    if (e == cudaSuccess && flags > cudaStreamNonBlocking) e = cudaErrorInvalidValue;
    if (e != cudaSuccess) return sim_error(e);
    *stream = stream_open(flags);
    pthread_mutex_lock(&list_lock);
    (*stream)->next = streams;
    streams = *stream;
    pthread_mutex_unlock(&list_lock);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    if (!s || !is_alive(s)) return sim_error(cudaErrorInvalidResourceHandle);
    if (s->capture) return sim_error(sim_capture_invalidate(s->capture, cudaErrorStreamCaptureUnsupported));
    wait_all(s);
    pthread_mutex_lock(&list_lock);
    for (cudaStream_t *at = &streams; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    /* What is left of it stays: events and other streams may name its tickets, which are all done. */
    s->next = gone;
    gone = s;
    pthread_mutex_unlock(&list_lock);
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    if (s->started) pthread_join(s->thread, NULL);
    return sim_error(sim_device_failed(sim_device_current()));
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e != cudaSuccess) return sim_error(e);
    if (s->capture) return sim_error(sim_capture_invalidate(s->capture, cudaErrorStreamCaptureUnsupported));
    if (s == nulls[s->device]) {
        e = sim_capture_forbids();
        if (e != cudaSuccess) return sim_error(e);
        sim_device_wait(s->device, false);
    }
    wait_all(s);
    return sim_synchronised(s->device);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e != cudaSuccess) return sim_error(e);
    if (s->capture) return sim_error(sim_capture_invalidate(s->capture, cudaErrorStreamCaptureUnsupported));
    return sim_ticket_done(s, sim_ticket_last(s)) ? sim_synchronised(s->device) : cudaErrorNotReady;
}

/* ---- launches, copies ---- */

typedef struct launch_work {
    sim_work base;
    sim_launch launch;
    _Alignas(16) char arguments[];
} launch_work;
static unsigned long long launches;

static void launch_run(sim_work *w) {
    launch_work *l = (launch_work *)w;
    uint64_t n = __atomic_fetch_add(&launches, 1, __ATOMIC_RELAXED);
    sim_run(&l->launch, l->arguments, sim_setting("CUDA_SIM_SEED", 0) * 1000003u + n);
}
unsigned long long cuda_sim_launches(void) { return __atomic_load_n(&launches, __ATOMIC_RELAXED); }

void sim_launch_enqueue(const sim_launch *launch, const void *arguments, cudaStream_t stream) {
    dim3 b = launch->block, g = launch->grid;
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    cudaError_t e = cudaSuccess;
    if (threads == 0 || threads > SIM_THREADS_MAX || b.z > 64 || g.x > 0x7FFFFFFFu || g.y > 65535 || g.z > 65535)
        e = cudaErrorInvalidConfiguration;
    else if (launch->shared_bytes > SIM_SHARED_BYTES_MAX) e = cudaErrorInvalidValue;
    if (e != cudaSuccess) {
        (void)sim_error(e);
        return;
    }
    launch_work *w = memory_alloc(sizeof *w + launch->argument_bytes);
    w->base = (sim_work){launch_run, sim_work_free, 1};
    w->launch = *launch;
    memcpy(w->arguments, arguments, launch->argument_bytes);
    (void)sim_enqueue(stream, &w->base);
}

typedef struct copy_work {
    sim_work base;
    char *to;
    const char *from;
    char *snapshot;            /* of pageable memory, as it was when the copy was asked for */
    size_t to_pitch, from_pitch, width, height;
    int value;                 /* from NULL: what to set the bytes to */
} copy_work;
static void copy_run(sim_work *w) {
    copy_work *c = (copy_work *)w;
    for (size_t i = 0; i < c->height; i++) {
        char *to = c->to + i * c->to_pitch;
        if (c->from) memmove(to, c->from + i * c->from_pitch, c->width);
        else memset(to, c->value, c->width);
    }
}
static void copy_close(sim_work *w) {
    free(((copy_work *)w)->snapshot);
    free(w);
}
static cudaError_t copy_enqueue(copy_work c, cudaStream_t stream) {
    copy_work *w = memory_alloc(sizeof *w);
    c.base = (sim_work){copy_run, copy_close, 1};
    *w = c;
    return sim_enqueue(stream, &w->base);
}

static bool is_device(sim_place p) { return p == SIM_DEVICE; }
static bool directions_agree(enum cudaMemcpyKind kind, sim_place to, sim_place from) {
    if (to == SIM_NOWHERE || from == SIM_NOWHERE) return false;
    switch (kind) {
    case cudaMemcpyHostToHost: return !is_device(to) && !is_device(from);
    case cudaMemcpyHostToDevice: return is_device(to) && !is_device(from);
    case cudaMemcpyDeviceToHost: return !is_device(to) && is_device(from);
    case cudaMemcpyDeviceToDevice: return is_device(to) && is_device(from);
    case cudaMemcpyDefault: return true;
    }
    return false;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t stream) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e != cudaSuccess) return sim_error(e);
    if (width == 0 || height == 0) return cudaSuccess;
    if (width > to_pitch || width > from_pitch) return sim_error(cudaErrorInvalidValue);
    sim_place to_place = sim_memory_place(to, to_pitch * (height - 1) + width, NULL);
    sim_place from_place = sim_memory_place(from, from_pitch * (height - 1) + width, NULL);
    if (!directions_agree(kind, to_place, from_place)) return sim_error(cudaErrorInvalidValue);
    copy_work c = {.to = to, .from = from, .to_pitch = to_pitch, .from_pitch = from_pitch, .width = width, .height = height};
    if ((to_place == SIM_PAGEABLE || from_place == SIM_PAGEABLE) && s->capture)
        return sim_error(sim_capture_invalidate(s->capture, cudaErrorStreamCaptureUnsupported));
    if (from_place == SIM_PAGEABLE) {
        c.snapshot = memory_alloc(width * height);
        for (size_t i = 0; i < height; i++) memcpy(c.snapshot + i * width, (const char *)from + i * from_pitch, width);
        c.from = c.snapshot;
        c.from_pitch = width;
    }
    e = copy_enqueue(c, stream);
    if (e == cudaSuccess && to_place == SIM_PAGEABLE) {
        wait_all(s);
        e = sim_synchronised(s->device);
    }
    return e;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, bytes ? 1 : 0, kind, stream);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    cudaError_t e = sim_capture_forbids();
    if (e == cudaSuccess) e = cudaMemcpyAsync(to, from, bytes, kind, NULL);
    if (e != cudaSuccess) return sim_error(e);
    return cudaStreamSynchronize(NULL);
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    sim_place place = sim_memory_place(p, bytes, NULL);
    if (place != SIM_DEVICE && place != SIM_PINNED) return sim_error(cudaErrorInvalidValue);
    return copy_enqueue((copy_work){.to = p, .width = bytes, .height = 1, .value = value}, stream);
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    cudaError_t e = sim_capture_forbids();
    return e == cudaSuccess ? cudaMemsetAsync(p, value, bytes, NULL) : sim_error(e);
}

typedef struct host_work {
    sim_work base;
    cudaHostFn_t f;
    void *argument;
} host_work;
static void host_run(sim_work *w) {
    sim_memory_leave();
    ((host_work *)w)->f(((host_work *)w)->argument);
    sim_memory_enter();
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t f, void *argument) {
    host_work *w = memory_alloc(sizeof *w);
    *w = (host_work){{host_run, sim_work_free, 1}, f, argument};
    return sim_enqueue(stream, &w->base);
}
