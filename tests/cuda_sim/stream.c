/* Streams: each has a list of what is to be done and a thread that does it, once somebody waits or time has passed. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"
#include "stream.h"

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the three */
static cudaStream_t streams, gone;
static cudaStream_t nulls[SIM_DEVICES_MAX];

static bool lazy(void) { return sim_setting("CUDA_SIM_LAZY", 1) != 0; }

void sim_work_release(sim_work *w) {
    if (__atomic_sub_fetch(&w->references, 1, __ATOMIC_ACQ_REL) == 0) w->close(w);
}

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

static cudaError_t stream_open(cudaStream_t *out, unsigned flags) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fork_watch);
    cudaStream_t s = calloc(1, sizeof *s);
    if (!s) return cudaErrorMemoryAllocation;
    s->device = sim_device_current();
    s->flags = flags;
    stream_locks_init(s);
    *out = s;
    return cudaSuccess;
}

static void stream_push(cudaStream_t s, sim_work *w) {
    stream_item *item = malloc(sizeof *item);
    if (!item) sim_die("no memory");
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

void sim_ticket_wait(cudaStream_t s, uint64_t ticket) {
    pthread_mutex_lock(&s->lock);
    if (s->wanted < ticket) {
        s->wanted = ticket;
        pthread_cond_signal(&s->wake);
    }
    while (s->done < ticket) pthread_cond_wait(&s->finished, &s->lock);
    pthread_mutex_unlock(&s->lock);
}
bool sim_ticket_done(cudaStream_t s, uint64_t ticket) {
    pthread_mutex_lock(&s->lock);
    bool done = s->done >= ticket;
    if (s->wanted < ticket) {
        s->wanted = ticket;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return done;
}
uint64_t sim_ticket_last(cudaStream_t s) {
    pthread_mutex_lock(&s->lock);
    uint64_t ticket = s->issued;
    pthread_mutex_unlock(&s->lock);
    return ticket;
}
void sim_stream_wait_all(cudaStream_t s) { sim_ticket_wait(s, sim_ticket_last(s)); }
int sim_stream_device(cudaStream_t s) { return s->device; }

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
static void plain_close(sim_work *w) { free(w); }
void sim_stream_await(cudaStream_t s, cudaStream_t other, uint64_t ticket) {
    if (s == other) return;
    wait_work *w = malloc(sizeof *w);
    if (!w) sim_die("no memory");
    *w = (wait_work){{wait_run, plain_close, 1}, other, ticket};
    stream_push(s, &w->base);
}

/* ---- the legacy stream: after all blocking streams, and before what they get next ---- */

static void blocking_streams(int device, void (*f)(cudaStream_t s, void *argument), void *argument) {
    cudaStream_t found[256];
    size_t count = 0;
    pthread_mutex_lock(&list_lock);
    for (cudaStream_t s = streams; s && count < 256; s = s->next)
        if (s->device == device && !(s->flags & cudaStreamNonBlocking)) found[count++] = s;
    pthread_mutex_unlock(&list_lock);
    for (size_t i = 0; i < count; i++) f(found[i], argument);
}
static void await_one(cudaStream_t s, void *argument) {
    if (!s->capture) sim_stream_await(argument, s, sim_ticket_last(s));
}
static void is_capturing(cudaStream_t s, void *argument) {
    if (s->capture) *(bool *)argument = true;
}

cudaStream_t sim_stream_of(cudaStream_t s, cudaError_t *e) {
    int device = sim_device_current();
    *e = sim_device_failed(device);
    if (*e == cudaSuccess && sim_device_count() == 0) *e = cudaErrorNoDevice;
    if (*e != cudaSuccess) return NULL;
    if (s && s != cudaStreamLegacy) {
        if (sim_stream_alive(s)) return s;
        *e = cudaErrorInvalidResourceHandle;
        return NULL;
    }
    pthread_mutex_lock(&list_lock);
    if (!nulls[device]) *e = stream_open(&nulls[device], cudaStreamDefault);
    pthread_mutex_unlock(&list_lock);
    return nulls[device];
}
bool sim_stream_alive(cudaStream_t stream) {
    bool found = false;
    pthread_mutex_lock(&list_lock);
    for (cudaStream_t s = streams; s && !found; s = s->next) found = s == stream;
    for (int i = 0; i < SIM_DEVICES_MAX; i++) found = found || (stream && nulls[i] == stream);
    pthread_mutex_unlock(&list_lock);
    return found;
}

cudaError_t sim_enqueue(cudaStream_t stream, sim_work *w) {
    cudaError_t e;
    cudaStream_t s = sim_stream_of(stream, &e);
    if (e == cudaSuccess && s->device != sim_device_current()) e = cudaErrorInvalidResourceHandle;
    if (e == cudaSuccess && s->capture) return sim_error(sim_capture_append(s->capture, s, w));
    bool null = e == cudaSuccess && s == nulls[s->device], captured = false;
    if (null) blocking_streams(s->device, is_capturing, &captured);
    if (captured) e = cudaErrorStreamCaptureImplicit;
    if (e != cudaSuccess) {
        sim_work_release(w);
        return sim_error(e);
    }
    cudaStream_t legacy = nulls[s->device];
    if (null) blocking_streams(s->device, await_one, s);
    else if (legacy && !(s->flags & cudaStreamNonBlocking)) {
        uint64_t ticket = sim_ticket_last(legacy);
        if (ticket != s->legacy_ticket) sim_stream_await(s, legacy, ticket);
        s->legacy_ticket = ticket;
    }
    stream_push(s, w);
    if (!lazy()) sim_stream_wait_all(s);
    return cudaSuccess;
}

void sim_device_wait(int device, bool all) {
    struct { cudaStream_t s; uint64_t ticket; } found[256];
    size_t count = 0;
    pthread_mutex_lock(&list_lock);
    for (cudaStream_t s = streams; s && count < 255; s = s->next)
        if (s->device == device && (all || !(s->flags & cudaStreamNonBlocking))) found[count++].s = s;
    if (nulls[device]) found[count++].s = nulls[device];
    /* All of them begin before the first is waited for. */
    for (size_t i = 0; i < count; i++) {
        found[i].ticket = sim_ticket_last(found[i].s);
        (void)sim_ticket_done(found[i].s, found[i].ticket);
    }
    pthread_mutex_unlock(&list_lock);
    for (size_t i = 0; i < count; i++) sim_ticket_wait(found[i].s, found[i].ticket);
}

/* ---- the API ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    cudaError_t e = sim_device_failed(sim_device_current());
    if (e == cudaSuccess && sim_device_count() == 0) e = cudaErrorNoDevice;
    if (e == cudaSuccess && flags > cudaStreamNonBlocking) e = cudaErrorInvalidValue;
    if (e == cudaSuccess) e = stream_open(stream, flags);
    if (e != cudaSuccess) return sim_error(e);
    pthread_mutex_lock(&list_lock);
    (*stream)->next = streams;
    streams = *stream;
    pthread_mutex_unlock(&list_lock);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    (void)priority;
    return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    if (!s || !sim_stream_alive(s)) return sim_error(cudaErrorInvalidResourceHandle);
    if (s->capture) return sim_error(sim_capture_invalidate(s->capture, cudaErrorStreamCaptureUnsupported));
    sim_stream_wait_all(s);
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
    sim_stream_wait_all(s);
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
    size_t bytes = (sizeof(launch_work) + launch->argument_bytes + 15) / 16 * 16;
    launch_work *w = aligned_alloc(16, bytes);
    if (!w) sim_die("no memory");
    w->base = (sim_work){launch_run, plain_close, 1};
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
    copy_work *w = malloc(sizeof *w);
    if (!w) sim_die("no memory");
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
        c.snapshot = malloc(width * height);
        if (!c.snapshot) return sim_error(cudaErrorMemoryAllocation);
        for (size_t i = 0; i < height; i++) memcpy(c.snapshot + i * width, (const char *)from + i * from_pitch, width);
        c.from = c.snapshot;
        c.from_pitch = width;
    }
    e = copy_enqueue(c, stream);
    if (e == cudaSuccess && to_place == SIM_PAGEABLE) {
        sim_stream_wait_all(s);
        e = sim_synchronised(s->device);
    }
    return e;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, bytes ? 1 : 0, kind, stream);
}
cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, cudaStream_t stream) {
    int a = -1, b = -1;
    if (sim_memory_place(to, bytes, &a) != SIM_DEVICE || sim_memory_place(from, bytes, &b) != SIM_DEVICE || a != to_device ||
        b != from_device)
        return sim_error(cudaErrorInvalidValue);
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
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
    host_work *w = malloc(sizeof *w);
    if (!w) sim_die("no memory");
    *w = (host_work){{host_run, plain_close, 1}, f, argument};
    return sim_enqueue(stream, &w->base);
}

/* ---- kernels as the API sees them ---- */

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute what, int value) {
    bool good = kernel && (what != cudaFuncAttributeMaxDynamicSharedMemorySize || (value >= 0 && value <= SIM_SHARED_BYTES_MAX));
    return sim_error(good ? sim_device_failed(sim_device_current()) : cudaErrorInvalidValue);
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel) {
    unsigned capability = (unsigned)sim_setting("CUDA_SIM_CAPABILITY", 90);
    if (!kernel) return sim_error(cudaErrorInvalidValue);
    *a = (struct cudaFuncAttributes){.maxThreadsPerBlock = SIM_THREADS_MAX, .numRegs = 64, .ptxVersion = (int)capability,
                                     .binaryVersion = (int)capability, .maxDynamicSharedSizeBytes = SIM_SHARED_BYTES_MAX};
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared_bytes) {
    if (!kernel || threads <= 0 || threads > SIM_THREADS_MAX || shared_bytes > SIM_SHARED_BYTES_MAX)
        return sim_error(cudaErrorInvalidValue);
    size_t by_threads = 2048 / (size_t)threads, by_shared = (228 << 10) / (shared_bytes + 1024);
    size_t least = by_threads < by_shared ? by_threads : by_shared;
    *blocks = (int)(least < 16 ? least : 16);
    return cudaSuccess;
}
