#include "daemon/queue/core_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"

status core_open(core **out, uv_loop_t *loop) {
    *out = memory_alloc(sizeof **out);
    (*out)->loop = loop;
    return ST_OK;
}

void core_close(core *c) {
    if (!c) return;
    if (c->calls > 0) {
        /* Engines and workers still point into it: a process that ends in a hurry leaves it to the system. */
        log_warn("%u calls were cut off", c->calls);
        return;
    }
    INVARIANT(c->paused == 0);
    free(c);
}

status core_add_model(core *c, const char *name, const tokenizer *tokens, engine *e) {
    size_t n = strlen(name);
    if (n == 0 || n > LIMIT_MODEL_NAME_BYTES)
        return fail(ST_INVALID, "model name \"%s\" has %zu bytes, and must have 1 to %d", name, n,
                    LIMIT_MODEL_NAME_BYTES);
    if (c->model_count == LIMIT_MODELS)
        return fail(ST_INVALID, "model %s: at most %d models", name, LIMIT_MODELS);
    for (uint32_t i = 0; i < c->model_count; i++)
        if (!strcmp(c->model[i].name, name)) return fail(ST_INVALID, "two models have the name %s", name);
    core_model *m = &c->model[c->model_count++];
    memcpy(m->name, name, n + 1);
    m->tokenizer = tokens;
    m->engine = e;
    engine_status s = {0};
    engine_get_status(e, &s);
    m->last_state = s.state;
    return ST_OK;
}

status core_find_model(core *c, const char *name, core_model **out) {
    if (c->model_count == 0) return fail(ST_NOT_FOUND, "no model is served");
    if (!name || !name[0]) {
        *out = &c->model[0];
        return ST_OK;
    }
    strbuf names = {.max = STATUS_TEXT_MAX};
    for (uint32_t i = 0; i < c->model_count; i++) {
        if (!strcmp(c->model[i].name, name)) {
            *out = &c->model[i];
            strbuf_close(&names);
            return ST_OK;
        }
        strbuf_add_format(&names, "%s%s", i ? ", " : "", c->model[i].name);
    }
    status st = fail(ST_NOT_FOUND, "there are the models %s; none is \"%s\"", strbuf_text(&names), name);
    strbuf_close(&names);
    return st;
}

static engine_state worst_state(const core *c) {
    /* One engine that is gone makes the daemon failed: whoever watches shall hear of it, though others still
     * serve. */
    static const int rank[] = {[ENGINE_READY] = 0,
                               [ENGINE_STARTING] = 1,
                               [ENGINE_DRAINING] = 2,
                               [ENGINE_STOPPED] = 3,
                               [ENGINE_FAILED] = 4};
    engine_state worst = c->model_count > 0 ? ENGINE_READY : ENGINE_STARTING;
    for (uint32_t i = 0; i < c->model_count; i++) {
        engine_status s = {0};
        engine_get_status(c->model[i].engine, &s);
        if (rank[s.state] > rank[worst]) worst = s.state;
    }
    return worst;
}

const char *core_state(const core *c) { return c->draining ? "draining" : engine_state_name(worst_state(c)); }

void core_engine_changed(core *c, engine *e, engine_state now) {
    for (uint32_t i = 0; i < c->model_count; i++) {
        core_model *m = &c->model[i];
        if (m->engine != e || m->last_state == now) continue;
        log_info("model %s: engine %s is %s, was %s", m->name, e->id, engine_state_name(now),
                 engine_state_name(m->last_state));
        m->last_state = now;
    }
}

static void tell_idle(core *c) {
    if (!c->draining || c->calls > 0 || !c->idle) return;
    void (*idle)(void *) = c->idle;
    c->idle = NULL;
    idle(c->idle_context);
}

void core_drain(core *c, void (*idle)(void *context), void *context) {
    c->draining = true;
    c->idle = idle;
    c->idle_context = context;
    tell_idle(c);
}

void core_count_paused(core *c, bool paused) {
    INVARIANT(paused || c->paused > 0);
    c->paused += paused ? 1 : UINT32_MAX;
}

void core_call_begins(core *c) { c->calls++; }

void core_call_ends(core *c) {
    INVARIANT(c->calls > 0);
    c->calls--;
    tell_idle(c);
}

void core_refuse(call *k, status st) {
    /* A callback into a transport may fail something itself and overwrite the thread's sentence. */
    char text[STATUS_TEXT_MAX];
    memcpy(text, status_text(), sizeof text);
    k->ops->finish(k, st, text, st == ST_BUSY ? CORE_RETRY_AFTER_MS : 0);
}

void core_answer(call *k, const ProtobufCMessage *message) {
    k->ops->send(k, message);
    k->ops->finish(k, ST_OK, "", 0);
}
