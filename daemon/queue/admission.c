/* Who may wait at a model, and under which id. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/queue/core_internal.h"

status core_check_available(const core *c, const core_model *m) {
    if (c->draining) return fail(ST_UNAVAILABLE, "gemmad is draining: it takes no new requests");
    engine_state state = core_model_state(m);
    if (state == ENGINE_READY) return ST_OK;
    if (state == ENGINE_STARTING) return fail(ST_UNAVAILABLE, "model %s is starting", m->name);
    engine_status s = {0};
    engine_get_status(m->engine[0].engine, &s);
    return fail(ST_UNAVAILABLE, "the engine of model %s is %s%s%s", m->name,
                state == ENGINE_STOPPED ? "stopped" : engine_state_name(state), s.failure[0] ? ": " : "",
                s.failure);
}

/* FNV-1a: ids come from callers, but a caller that fills one bucket slows the loop by its own 4096 waiting
 * requests. */
static uint64_t hash_of(const char *key) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *key; key++) h = (h ^ (uint8_t)*key) * 0x100000001b3u;
    return h ^ h >> 32;
}

static status make_id(char text[33]) {
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return fail_errno(ST_INTERNAL, "cannot draw a request id");
    for (size_t i = 0; i < sizeof random; i++) sprintf(text + 2 * i, "%02x", random[i]);
    return ST_OK;
}

static core_client *find_client(core *c, const char *name) {
    core_client *k = c->client[hash_of(name) % CORE_CLIENT_BUCKETS];
    while (k && strcmp(k->name, name) != 0) k = k->next;
    return k;
}

static core_client *take_client(core *c, const char *name) {
    core_client *k = find_client(c, name);
    if (!k) {
        uint64_t hash = hash_of(name);
        core_client **bucket = &c->client[hash % CORE_CLIENT_BUCKETS];
        k = memory_alloc(sizeof *k);
        /* 0 would say that the engine does not know who asks. */
        *k = (core_client){
            .name = memory_copy_string(name), .hash = hash ? hash : 1, .next = *bucket, .link = bucket};
        if (k->next) k->next->link = &k->next;
        *bucket = k;
    }
    k->tickets++;
    return k;
}

static void leave_client(core_client *k) {
    if (--k->tickets > 0) return;
    *k->link = k->next;
    if (k->next) k->next->link = k->link;
    free(k->name);
    free(k);
}

/* Several samples find a place together in an empty queue, however small it is. */
static bool is_full(uint32_t waiting, uint32_t more, uint32_t most) {
    return waiting > 0 && (uint64_t)waiting + more > most;
}

static status check_room(core *c, const core_model *m, const char *peer, uint32_t samples) {
    if (is_full(m->waiting, samples, c->limits.queue))
        return fail(ST_BUSY, "%u requests wait for model %s, at most %u", m->waiting, m->name,
                    c->limits.queue);
    const core_client *k = find_client(c, peer);
    if (k && is_full(k->waiting, samples, c->limits.queue_per_client))
        return fail(ST_BUSY, "%u requests of client %s wait, at most %u", k->waiting, peer,
                    c->limits.queue_per_client);
    return ST_OK;
}

status core_admit(core *c, core_model *m, call *k, const char *request_id, uint32_t samples,
                  core_ticket *out) {
    char drawn[33];
    *out = (core_ticket){0};
    if (request_id && strlen(request_id) > LIMIT_REQUEST_ID_BYTES)
        return fail(ST_INVALID, "request_id has %zu bytes, at most %d", strlen(request_id),
                    LIMIT_REQUEST_ID_BYTES);
    TRY(core_check_available(c, m));
    if (!request_id || !request_id[0]) {
        TRY(make_id(drawn));
        request_id = drawn;
    }
    const char *peer = k->peer ? k->peer : "";
    size_t peer_bytes = strlen(peer), size = peer_bytes + strlen(request_id) + 2;
    char *key = memory_alloc(size);
    snprintf(key, size, "%s\n%s", peer, request_id);
    core_ticket **bucket = &c->bucket[hash_of(key) % CORE_TICKET_BUCKETS];
    status st = ST_OK;
    for (const core_ticket *t = *bucket; t; t = t->next)
        if (!strcmp(t->key, key))
            st = fail(ST_EXISTS, "request_id \"%s\" is that of a live request", request_id);
    if (st == ST_OK) st = check_room(c, m, peer, samples);
    if (st == ST_OK) st = auth_key_begins(k->who, &k->retry_after_ms);
    if (st != ST_OK) {
        free(key);
        return st;
    }
    *out = (core_ticket){.model = m,
                         .client = take_client(c, peer),
                         .who = auth_key_hold(k->who),
                         .key = key,
                         .request_id = key + peer_bytes + 1,
                         .waiting = samples,
                         .next = *bucket,
                         .link = bucket};
    if (out->next) out->next->link = &out->next;
    *bucket = out;
    m->waiting += samples;
    out->client->waiting += samples;
    return ST_OK;
}

status core_admit_call(core *c, core_model *m, call *k, const char *request_id, uint32_t samples,
                       core_ticket *out) {
    if (request_id && request_id[0]) return core_admit(c, m, k, request_id, samples, out);
    status st = core_admit(c, m, k, k->request_id, samples, out);
    return st == ST_EXISTS ? core_admit(c, m, k, NULL, samples, out) : st;
}

static void stop_waiting(core_ticket *t, uint32_t n) {
    t->waiting -= n;
    t->model->waiting -= n;
    t->client->waiting -= n;
    if (t->engine) t->engine->waiting -= n;
}

static void stop_running(core_ticket *t, uint32_t n) {
    t->running -= n;
    t->model->running -= n;
    t->engine->running -= n;
}

void core_ticket_started(core_ticket *t) {
    INVARIANT(t->engine && t->waiting > 0);
    stop_waiting(t, 1);
    t->running++;
    t->model->running++;
    t->engine->running++;
    retry_started(&t->model->retry, clock_now_ns() / 1000000, t->model->waiting > 0);
}

void core_ticket_ended(core_ticket *t, bool was_running) {
    INVARIANT(t->engine && (was_running ? t->running : t->waiting) > 0);
    if (was_running) stop_running(t, 1);
    else stop_waiting(t, 1);
}

void core_ticket_release(core_ticket *t) {
    if (!t->model) return;
    stop_waiting(t, t->waiting);
    if (t->engine) stop_running(t, t->running);
    leave_client(t->client);
    auth_key_ends(t->who);
    auth_key_release(t->who);
    *t->link = t->next;
    if (t->next) t->next->link = t->link;
    free(t->key);
    *t = (core_ticket){0};
}
