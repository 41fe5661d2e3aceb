/* grpc.health.v1.Health: services "" and "gemmad.v1.Inference" are SERVING while a real token can be had. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "daemon/api/server_internal.h"
#include "proto/health.pb-c.h"

typedef struct watcher {
    struct watcher *next;
    server *s;
    call *c;
    Grpc__Health__V1__HealthCheckResponse__ServingStatus last;
    bool known;
} watcher;

#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

static bool known_service(const char *name) { return !*name || !strcmp(name, "gemmad.v1.Inference"); }

static Grpc__Health__V1__HealthCheckResponse__ServingStatus now(const server *s) {
    return !s->stopping && !strcmp(s->o.state(s->o.core), "ready") ? SERVING : NOT_SERVING;
}

static void answer(call *c, Grpc__Health__V1__HealthCheckResponse__ServingStatus st) {
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = st;
    c->ops->send(c, &response.base);
}

static void check(server *s, call *c, const ProtobufCMessage *request) {
    const char *service = ((const Grpc__Health__V1__HealthCheckRequest *)request)->service;
    if (!known_service(service)) {
        status st = fail(ST_NOT_FOUND, "there is no service \"%.128s\"; \"\" and \"gemmad.v1.Inference\" are", service);
        c->ops->finish(c, st, status_text(), 0);
        return;
    }
    answer(c, now(s));
    c->ops->finish(c, ST_OK, "", 0);
}

static void unwatch(call *c, void *context, status why) {
    watcher *w = context, **at = &w->s->watchers;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    free(w);
    c->ops->finish(c, why, "the watch ended", 0);
}

static void tell(watcher *w) {
    Grpc__Health__V1__HealthCheckResponse__ServingStatus st = w->known ? now(w->s) : SERVICE_UNKNOWN;
    if (st == w->last) return;
    w->last = st;
    answer(w->c, st);
}

static void watch(server *s, call *c, const ProtobufCMessage *request) {
    watcher *w = memory_alloc(sizeof *w);
    *w = (watcher){.next = s->watchers, .s = s, .c = c};
    w->known = known_service(((const Grpc__Health__V1__HealthCheckRequest *)request)->service);
    s->watchers = w;
    c->context = w;
    c->cancelled = unwatch;
    tell(w);
}

void health_state_changed(server *s) {
    for (watcher *w = s->watchers; w; w = w->next) tell(w);
}

void health_close(server *s) {
    health_state_changed(s);
    while (s->watchers) {
        watcher *w = s->watchers;
        s->watchers = w->next;
        w->c->cancelled = NULL;
        w->c->ops->finish(w->c, ST_UNAVAILABLE, "gemmad is stopping", 0);
        free(w);
    }
}

const own_method health_methods[] = {
    {"/grpc.health.v1.Health/Check", &grpc__health__v1__health_check_request__descriptor, check, false},
    {"/grpc.health.v1.Health/Watch", &grpc__health__v1__health_check_request__descriptor, watch, false},
};
const uint32_t health_method_count = sizeof health_methods / sizeof *health_methods;
