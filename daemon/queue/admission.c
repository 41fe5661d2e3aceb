/* Who may wait at a model, and under which id. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/queue/core_internal.h"

static status check_available(const core *c, const core_model *m) {
    if (c->draining) return fail(ST_UNAVAILABLE, "gemmad is draining: it takes no new requests");
    engine_status s = {0};
    engine_get_status(m->engine, &s);
    if (s.state == ENGINE_READY) return ST_OK;
    if (s.state == ENGINE_STARTING) return fail(ST_UNAVAILABLE, "model %s is starting", m->name);
    return fail(ST_UNAVAILABLE, "the engine of model %s is %s%s%s", m->name,
                s.state == ENGINE_STOPPED ? "stopped" : engine_state_name(s.state), s.failure[0] ? ": " : "",
                s.failure);
}

/* FNV-1a: ids come from callers, but a caller that fills one bucket slows the loop by its own 4096 waiting
 * requests. */
static uint32_t bucket_of(const char *key) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *key; key++) h = (h ^ (uint8_t)*key) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32) % CORE_TICKET_BUCKETS;
}

static status make_id(char text[33]) {
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return fail_errno(ST_INTERNAL, "cannot draw a request id");
    for (size_t i = 0; i < sizeof random; i++) sprintf(text + 2 * i, "%02x", random[i]);
    return ST_OK;
}

status core_admit(core *c, core_model *m, const char *peer, const char *request_id, uint32_t samples,
                  core_ticket *out) {
    char drawn[33];
    *out = (core_ticket){0};
    if (request_id && strlen(request_id) > LIMIT_REQUEST_ID_BYTES)
        return fail(ST_INVALID, "request_id has %zu bytes, at most %d", strlen(request_id),
                    LIMIT_REQUEST_ID_BYTES);
    TRY(check_available(c, m));
    if (!request_id || !request_id[0]) {
        TRY(make_id(drawn));
        request_id = drawn;
    }
    if (!peer) peer = "";
    size_t peer_bytes = strlen(peer), size = peer_bytes + strlen(request_id) + 2;
    char *key = memory_alloc(size);
    snprintf(key, size, "%s\n%s", peer, request_id);
    core_ticket **bucket = &c->bucket[bucket_of(key)];
    status st = ST_OK;
    for (const core_ticket *t = *bucket; t; t = t->next)
        if (!strcmp(t->key, key))
            st = fail(ST_EXISTS, "request_id \"%s\" is that of a live request", request_id);
    if (st == ST_OK && m->waiting + samples > LIMIT_QUEUE_PER_MODEL)
        st = fail(ST_BUSY, "%u requests wait for model %s, at most %d", m->waiting, m->name,
                  LIMIT_QUEUE_PER_MODEL);
    if (st != ST_OK) {
        free(key);
        return st;
    }
    *out = (core_ticket){.model = m,
                         .key = key,
                         .request_id = key + peer_bytes + 1,
                         .waiting = samples,
                         .next = *bucket,
                         .link = bucket};
    if (out->next) out->next->link = &out->next;
    *bucket = out;
    m->waiting += samples;
    return ST_OK;
}

void core_ticket_started(core_ticket *t) {
    INVARIANT(t->model && t->waiting > 0);
    t->waiting--;
    t->running++;
    t->model->waiting--;
    t->model->running++;
}

void core_ticket_ended(core_ticket *t, bool was_running) {
    uint32_t *own = was_running ? &t->running : &t->waiting;
    INVARIANT(t->model && *own > 0);
    --*own;
    if (was_running) t->model->running--;
    else t->model->waiting--;
}

void core_ticket_release(core_ticket *t) {
    if (!t->model) return;
    t->model->running -= t->running;
    t->model->waiting -= t->waiting;
    *t->link = t->next;
    if (t->next) t->next->link = t->link;
    free(t->key);
    *t = (core_ticket){0};
}
