/* The request core's calls, as an endpoint makes them. */
#include <string.h>

#include "base/invariant.h"
#include "daemon/http/gate.h"
#include "daemon/http/openai_internal.h"

static remote *of_call(call *c) { return (remote *)(void *)c; }

static void on_send(call *c, const ProtobufCMessage *message) {
    remote *r = of_call(c);
    r->event(r, message);
}

static void on_finish(call *c, status st, const char *text, uint32_t retry_after_ms) {
    remote *r = of_call(c);
    r->live = false;
    r->finished(r, st, text, retry_after_ms);
}

static uint64_t backlog(const call *c) {
    return http_stream_backlog(((const remote *)(const void *)c)->exchange);
}

static const call_ops ops = {on_send, on_finish, backlog};

void remote_start(remote *r, const openai *o, const char *path, const ProtobufCMessage *request) {
    const openai_backend *b = &o->backend;
    http_exchange *x = r->exchange;
    const char *parent = http_header(x, "traceparent");
    r->base = (call){.ops = &ops,
                     .peer = http_caller(x),
                     .who = gate_key(x),
                     .path = http_path(x),
                     .request_id = http_id(x)};
    trace_begin(&r->base.trace, parent, parent ? strlen(parent) : 0);
    r->live = true;
    for (uint32_t i = 0; i < b->method_count; i++)
        if (!strcmp(b->methods[i].path, path)) {
            b->methods[i].handle(b->core, &r->base, request);
            return;
        }
    INVARIANT(!"the core has every method that endpoints ask for");
}

void remote_cancel(remote *r) {
    if (r->live && r->base.cancelled) r->base.cancelled(&r->base, r->base.context, ST_CANCELLED);
}

void remote_drained(remote *r) {
    if (r->live && r->base.drained) r->base.drained(&r->base, r->base.context);
}
