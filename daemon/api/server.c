#include "daemon/api/server.h"

#include <grpc/grpc_security.h>
#include <stdlib.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/api/server_internal.h"

/* ---- the completion queue's thread ---- */

static void drain_queue(void *context) {
    server *s = context;
    completions *c = &s->events;
    for (;;) {
        grpc_event e = grpc_completion_queue_next(c->cq, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        uv_mutex_lock(&c->lock);
        if (e.type == GRPC_QUEUE_SHUTDOWN) {
            c->drained = true;
        } else {
            if (c->count == c->capacity) {
                c->capacity = c->capacity ? c->capacity * 2 : 64;
                c->list = memory_grow(c->list, c->capacity * sizeof *c->list);
            }
            c->list[c->count++] = (completion){e.tag, e.success != 0};
        }
        uv_mutex_unlock(&c->lock);
        uv_async_send(&c->async);
        if (e.type == GRPC_QUEUE_SHUTDOWN) return;
    }
}

static void queue_closed(uv_handle_t *h) {
    server *s = h->data;
    if (s->stopped) s->stopped(s->stopped_context);
}

static void take_events(uv_async_t *async) {
    server *s = async->data;
    completions *c = &s->events;
    uv_mutex_lock(&c->lock);
    completion *list = c->list;
    size_t n = c->count;
    bool drained = c->drained;
    c->list = NULL;
    c->count = c->capacity = 0;
    uv_mutex_unlock(&c->lock);
    for (size_t i = 0; i < n; i++) list[i].t->done(list[i].t, list[i].ok);
    free(list);
    if (drained) uv_close((uv_handle_t *)async, queue_closed);
}

/* ---- life ---- */

static grpc_server *make_grpc_server(void) {
    grpc_arg args[] = {
        {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, .value.integer = LIMIT_MESSAGE_BYTES},
        {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, .value.integer = LIMIT_MESSAGE_BYTES},
        {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_MAX_CONCURRENT_STREAMS, .value.integer = 1024},
        /* A peer that vanished without a word (half-open connections) is found by an unanswered ping. */
        {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_KEEPALIVE_TIME_MS, .value.integer = 60000},
        {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_KEEPALIVE_TIMEOUT_MS, .value.integer = 20000},
        {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, .value.integer = 1},
    };
    grpc_channel_args list = {sizeof args / sizeof *args, args};
    return grpc_server_create(&list, NULL);
}

status server_open(server **out, const server_options *options) {
    server *s = memory_alloc(sizeof *s);
    s->o = *options;
    grpc_init();
    s->grpc = make_grpc_server();
    s->events.cq = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(s->grpc, s->events.cq, NULL);
    uv_mutex_init(&s->events.lock);
    s->events.async.data = s;
    if (uv_async_init(s->o.loop, &s->events.async, take_events) != 0)
        return fail(ST_INTERNAL, "the event loop takes no more handles");
    grpc_server_start(s->grpc);
    if (uv_thread_create(&s->events.thread, drain_queue, s) != 0)
        return fail(ST_NO_MEMORY, "cannot start the gRPC completion thread");
    s->events.started = true;
    for (int i = 0; i < SERVER_PENDING_ACCEPTS; i++) rpc_accept(s);
    *out = s;
    return ST_OK;
}

void server_state_changed(server *s) { health_state_changed(s); }

static void handle_closed(uv_handle_t *h) {
    (void)h; /* its memory goes with the server or the listener */
}

static void shut_down(tag *t, bool ok) {
    (void)ok;
    server *s = t->owner;
    if (s->stop_timer_open) {
        uv_timer_stop(&s->stop_timer);
        uv_close((uv_handle_t *)&s->stop_timer, handle_closed);
        s->stop_timer_open = false;
    }
    grpc_completion_queue_shutdown(s->events.cq); /* the thread ends when the last batch is out */
}

static void stop_time_is_up(uv_timer_t *timer) {
    server *s = timer->data;
    grpc_server_cancel_all_calls(s->grpc);
}

void server_stop(server *s, void (*stopped)(void *context), void *context) {
    INVARIANT(!s->stopping);
    s->stopping = true;
    s->stopped = stopped;
    s->stopped_context = context;
    listeners_close(s, handle_closed);
    health_close(s);
    s->shutdown = (tag){shut_down, s};
    s->stop_timer.data = s;
    if (uv_timer_init(s->o.loop, &s->stop_timer) == 0) {
        s->stop_timer_open = true;
        uv_timer_start(&s->stop_timer, stop_time_is_up, SERVER_STOP_MS, 0);
    }
    grpc_server_shutdown_and_notify(s->grpc, s->events.cq, &s->shutdown);
}

void server_close(server *s) {
    if (!s) return;
    if (s->events.started) uv_thread_join(&s->events.thread);
    if (s->grpc) grpc_server_destroy(s->grpc);
    if (s->events.cq) grpc_completion_queue_destroy(s->events.cq);
    uv_mutex_destroy(&s->events.lock);
    while (s->listeners) {
        listener *next = s->listeners->next;
        free(s->listeners->path);
        free(s->listeners);
        s->listeners = next;
    }
    free(s->connections);
    free(s->events.list);
    free(s);
    grpc_shutdown();
}
