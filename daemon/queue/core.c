#include "daemon/queue/core_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"

status core_open(core **out, uv_loop_t *loop) {
    *out = memory_alloc(sizeof **out);
    (*out)->loop = loop;
    (*out)->lane = (job_lane){.loop = loop, .most = CORE_LONG_JOBS};
    (*out)->limits = (core_limits){CORE_QUEUE, CORE_QUEUE_PER_CLIENT};
    (*out)->metrics = metrics_open();
    (*out)->forms = chat_grammar_cache_open(CHAT_GRAMMAR_CACHE_BYTES);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    (*out)->start_unix_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    (*out)->start_ns = clock_now_ns();
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
    for (uint32_t i = 0; i < c->model_count; i++)
        for (uint32_t k = 0; k < c->model[i].engine_count; k++)
            prefix_index_close(c->model[i].engine[k].prefixes);
    metrics_close(c->metrics);
    chat_grammar_cache_close(c->forms);
    free(c);
}

void core_start_job(core *c, const call *k, job *j, core_job kind) {
    if (kind == CORE_JOB_LONG) job_start_in(&c->lane, k->peer, j);
    else job_start(c->loop, j, kind == CORE_JOB_TINY);
}

void core_set_limits(core *c, core_limits limits) { c->limits = limits; }

void core_set_auth(core *c, const auth *keys) { c->keys = keys; }

void core_set_log_prompts(core *c, bool on) { c->log_prompts = on; }

static void add_engine(core *c, core_model *m, engine *e) {
    m->engine[m->engine_count] = (core_engine){.engine = e, .model = m};
    m->engine[m->engine_count].last_state = core_engine_state(&m->engine[m->engine_count]);
    m->engine[m->engine_count].metrics =
        metrics_add_engine(c->metrics, m->name, m->engine_count, e->facts.context_tokens);
    m->engine_count++;
}

static core_model *find_model(core *c, const char *name) {
    for (uint32_t i = 0; i < c->model_count; i++)
        if (!strcmp(c->model[i].name, name)) return &c->model[i];
    return NULL;
}

status core_add_model(core *c, const char *name, const tokenizer *tokens, engine *e) {
    size_t n = strlen(name);
    if (n == 0 || n > LIMIT_MODEL_NAME_BYTES)
        return fail(ST_INVALID, "model name \"%s\" has %zu bytes, and must have 1 to %d", name, n,
                    LIMIT_MODEL_NAME_BYTES);
    if (c->model_count == LIMIT_MODELS)
        return fail(ST_INVALID, "model %s: at most %d models", name, LIMIT_MODELS);
    if (find_model(c, name)) return fail(ST_INVALID, "two models have the name %s", name);
    core_model *m = &c->model[c->model_count++];
    memcpy(m->name, name, n + 1);
    m->tokenizer = tokens;
    add_engine(c, m, e);
    return ST_OK;
}

status core_set_chat(core *c, const char *name, const chat_choice *chat) {
    core_model *m = find_model(c, name);
    if (!m) return fail(ST_NOT_FOUND, "there is no model %s", name);
    m->chat = *chat;
    return ST_OK;
}

status core_check_chat(const core_model *m) {
    if (!m->tokenizer)
        return fail(ST_INVALID, "model %s has no tokenizer and works on token ids only", m->name);
    if (m->chat.template) return ST_OK;
    return fail(ST_UNSUPPORTED, "model %s serves no chat: %s", m->name,
                m->chat.why[0] ? m->chat.why : "it has no chat template");
}

status core_add_replica(core *c, const char *name, engine *e) {
    core_model *m = find_model(c, name);
    if (!m) return fail(ST_NOT_FOUND, "there is no model %s", name);
    if (m->engine_count == LIMIT_REPLICAS)
        return fail(ST_INVALID, "model %s: at most %d engines", name, LIMIT_REPLICAS);
    add_engine(c, m, e);
    for (uint32_t i = 0; i < m->engine_count; i++)
        if (!m->engine[i].prefixes) m->engine[i].prefixes = prefix_index_open();
    return ST_OK;
}

const tokenizer *core_tokenizer(core *c, const char *model) {
    const core_model *m = find_model(c, model);
    return m ? m->tokenizer : NULL;
}

/* A model that a key may not use is not there for it. */
static status choose_model(core *c, const auth_key *who, const char *name, core_model **out) {
    strbuf names = {.max = STATUS_TEXT_MAX};
    bool first = !name || !name[0];
    *out = NULL;
    for (uint32_t i = 0; i < c->model_count && !*out; i++) {
        if (!auth_key_may_use(who, c->model[i].name)) continue;
        if (first || !strcmp(c->model[i].name, name)) *out = &c->model[i];
        strbuf_add_format(&names, "%s%s", names.size ? ", " : "", c->model[i].name);
    }
    status st = ST_OK;
    if (!*out && names.size == 0 && who)
        st = fail(ST_NOT_FOUND, "no model is served that key %s may use", auth_key_name(who));
    else if (!*out && names.size == 0) st = fail(ST_NOT_FOUND, "no model is served");
    else if (!*out)
        st = fail(ST_NOT_FOUND, "there are the models %s; none is \"%s\"", strbuf_text(&names), name);
    strbuf_close(&names);
    return st;
}

status core_enter(core *c, call *k, const char *name, core_model **out) {
    TRY(choose_model(c, k->who, name, out));
    return auth_key_request(k->who, &k->retry_after_ms);
}

const char *core_first_model(const core *c, const auth_key *who) {
    for (uint32_t i = 0; i < c->model_count; i++)
        if (auth_key_may_use(who, c->model[i].name)) return c->model[i].name;
    return "";
}

static engine_state worst_state(const core *c) {
    /* A model that is gone makes the daemon failed: whoever watches shall hear of it, though others still
     * serve. */
    static const int rank[] = {[ENGINE_READY] = 0,
                               [ENGINE_STARTING] = 1,
                               [ENGINE_DRAINING] = 2,
                               [ENGINE_STOPPED] = 3,
                               [ENGINE_FAILED] = 4};
    engine_state worst = c->model_count > 0 ? ENGINE_READY : ENGINE_STARTING;
    for (uint32_t i = 0; i < c->model_count; i++) {
        engine_state s = core_model_state(&c->model[i]);
        if (rank[s] > rank[worst]) worst = s;
    }
    return worst;
}

const char *core_state(const core *c) { return c->draining ? "draining" : engine_state_name(worst_state(c)); }

static void engine_changed(core_engine *e, engine_state now) {
    if (e->last_state == now) return;
    log_info("model %s: engine %s is %s, was %s", e->model->name, e->engine->id, engine_state_name(now),
             engine_state_name(e->last_state));
    e->last_state = now;
    if (e->prefixes && now != ENGINE_READY)
        prefix_index_clear(e->prefixes); /* another run of it has an empty cache */
}

void core_engine_changed(core *c, engine *e, engine_state now) {
    for (uint32_t i = 0; i < c->model_count; i++)
        for (uint32_t k = 0; k < c->model[i].engine_count; k++)
            if (c->model[i].engine[k].engine == e) engine_changed(&c->model[i].engine[k], now);
}

static void tell_idle(core *c) {
    if (!c->draining || c->calls > 0 || !c->idle) return;
    void (*idle)(void *) = c->idle;
    c->idle = NULL;
    idle(c->idle_context);
}

void core_on_drain(core *c, void (*asked)(void *context), void *context) {
    c->drain_asked = asked;
    c->drain_context = context;
}

void core_drain(core *c, void (*idle)(void *context), void *context) {
    c->draining = true;
    c->idle = idle;
    c->idle_context = context;
    for (core_paused *p = c->first_paused, *next; p; p = next) {
        next = p->next;
        p->go_on(p->context);
    }
    tell_idle(c);
}

void core_paused_begin(core *c, core_paused *p) {
    p->next = c->first_paused;
    p->link = &c->first_paused;
    if (p->next) p->next->link = &p->next;
    c->first_paused = p;
    c->paused++;
}

void core_paused_end(core *c, core_paused *p) {
    INVARIANT(c->paused > 0);
    *p->link = p->next;
    if (p->next) p->next->link = p->link;
    c->paused--;
}

void core_call_begins(core *c) { c->calls++; }

void core_call_ends(core *c) {
    INVARIANT(c->calls > 0);
    c->calls--;
    tell_idle(c);
}

status core_check_admin(const call *k, const char *what) {
    if (auth_key_is_admin(k->who)) return ST_OK;
    return fail(ST_DENIED, "%s is for administrators, and key %s is none", what, auth_key_name(k->who));
}

void core_refuse(call *k, status st) {
    /* A callback into a transport may fail something itself and overwrite the thread's sentence. */
    char text[STATUS_TEXT_MAX];
    memcpy(text, status_text(), sizeof text);
    uint32_t retry_ms = k->retry_after_ms ? k->retry_after_ms : CORE_RETRY_AFTER_MS;
    k->ops->finish(k, st, text, st == ST_BUSY ? retry_ms : 0);
}

void core_answer(call *k, const ProtobufCMessage *message) {
    k->ops->send(k, message);
    k->ops->finish(k, ST_OK, "", 0);
}
