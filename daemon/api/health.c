#include "daemon/api/health.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "proto/grpc/health/v1/health.pb-c.h"

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define SERVING(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

typedef struct watcher {
    health *owner;
    call *call;
    bool known; /* the service; an unknown one is watched too, and stays unknown */
    serving_status told;
    struct watcher *next, **link;
} watcher;

struct health {
    const char *(*state)(void *context);
    void *context;
    watcher *first;
    bool stopping;
};

static serving_status status_now(const health *h) {
    return !h->stopping && !strcmp(h->state(h->context), "ready") ? SERVING(SERVING) : SERVING(NOT_SERVING);
}

static bool is_known(const Grpc__Health__V1__HealthCheckRequest *r) {
    return !r->service[0] || !strcmp(r->service, "gemmad.v1.Inference");
}

static void send_status(call *c, serving_status now) {
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    m.status = now;
    c->ops->send(c, &m.base);
}

static void check(void *context, call *c, const ProtobufCMessage *request) {
    const health *h = context;
    const Grpc__Health__V1__HealthCheckRequest *r = (const void *)request;
    if (!is_known(r)) {
        status st =
            fail(ST_NOT_FOUND, "there are the services \"\" and \"gemmad.v1.Inference\"; none is \"%s\"",
                 r->service);
        c->ops->finish(c, st, status_text(), 0);
        return;
    }
    send_status(c, status_now(h));
    c->ops->finish(c, ST_OK, "", 0);
}

static void end_watch(watcher *w, status st, const char *text) {
    call *c = w->call;
    *w->link = w->next;
    if (w->next) w->next->link = w->link;
    free(w);
    c->ops->finish(c, st, text, 0);
}

static void on_cancelled(call *c, void *context, status why) {
    (void)c;
    end_watch(context, why, "the watch was given up");
}

static void watch(void *context, call *c, const ProtobufCMessage *request) {
    health *h = context;
    if (h->stopping) {
        c->ops->finish(c, ST_UNAVAILABLE, "gemmad is stopping", 0);
        return;
    }
    watcher *w = memory_alloc(sizeof *w);
    w->owner = h;
    w->call = c;
    w->known = is_known((const void *)request);
    w->told = w->known ? status_now(h) : SERVING(SERVICE_UNKNOWN);
    w->next = h->first;
    w->link = &h->first;
    if (w->next) w->next->link = &w->next;
    h->first = w;
    c->cancelled = on_cancelled;
    c->context = w;
    send_status(c, w->told);
}

void health_changed(health *h) {
    serving_status now = status_now(h);
    for (watcher *w = h->first; w; w = w->next) {
        if (!w->known || w->told == now) continue;
        w->told = now;
        send_status(w->call, now);
    }
}

void health_stop(health *h) {
    h->stopping = true;
    health_changed(h);
    while (h->first) end_watch(h->first, ST_UNAVAILABLE, "gemmad is stopping");
}

void health_open(health **out, server *s, const char *(*state)(void *context), void *context) {
    health *h = memory_alloc(sizeof *h);
    h->state = state;
    h->context = context;
    const ProtobufCMessageDescriptor *request = &grpc__health__v1__health_check_request__descriptor;
    server_add_method(s, &(server_method){.path = "/grpc.health.v1.Health/Check",
                                          .request = request,
                                          .handle = check,
                                          .open = true,
                                          .context = h});
    server_add_method(s, &(server_method){.path = "/grpc.health.v1.Health/Watch",
                                          .request = request,
                                          .handle = watch,
                                          .open = true,
                                          .context = h});
    *out = h;
}

void health_close(health *h) {
    if (!h) return;
    INVARIANT(!h->first);
    free(h);
}
