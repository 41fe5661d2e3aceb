/* ListModels, GetStatus and WatchStatus. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "build_id.h"
#include "daemon/queue/core_internal.h"

enum { WATCH_DEFAULT_MS = 1000, WATCH_LEAST_MS = 100, WATCH_MOST_MS = 60000 };

void core_list_models(void *context, call *k, const ProtobufCMessage *request) {
    core *c = context;
    (void)request;
    Gemmad__V1__Model model[LIMIT_MODELS], *pointer[LIMIT_MODELS];
    size_t count = 0;
    for (uint32_t i = 0; i < c->model_count; i++) {
        if (!auth_key_may_use(k->who, c->model[i].name)) continue;
        const model_facts *facts = core_facts(&c->model[i]);
        gemmad__v1__model__init(&model[i]);
        model[i].name = c->model[i].name;
        model[i].has_context_tokens = model[i].has_vocab_size = model[i].has_has_tokenizer =
            model[i].has_has_chat = 1;
        model[i].context_tokens = facts->context_tokens;
        model[i].vocab_size = facts->vocab;
        model[i].has_tokenizer = c->model[i].tokenizer != NULL;
        model[i].has_chat = core_check_chat(&c->model[i]) == ST_OK;
        model[i].n_end_token_ids = facts->end_token_count;
        model[i].end_token_ids = (uint32_t *)facts->end_token;
        model[i].checkpoint_hash = (char *)facts->checkpoint_hash;
        pointer[count++] = &model[i];
    }
    Gemmad__V1__ListModelsResponse r = GEMMAD__V1__LIST_MODELS_RESPONSE__INIT;
    r.n_models = count;
    r.models = pointer;
    core_answer(k, &r.base);
}

/* One engine, and what its message points to. */
typedef struct engine_report {
    Gemmad__V1__EngineStatus message;
    Gemmad__V1__RankStatus *rank, **rank_pointer; /* [rank_count] */
    engine_status status;
} engine_report;

typedef struct model_report {
    Gemmad__V1__ModelStatus message;
    engine_report *engine; /* [engine_count] */
    Gemmad__V1__EngineStatus **pointer;
} model_report;

static void report_ranks(engine_report *r) {
    uint32_t n = r->status.rank_count;
    r->rank = memory_alloc_array(n, sizeof *r->rank);
    r->rank_pointer = memory_alloc_array(n, sizeof *r->rank_pointer);
    for (uint32_t i = 0; i < n; i++) {
        const engine_rank_status *from = &r->status.rank[i];
        Gemmad__V1__RankStatus *to = &r->rank[i];
        gemmad__v1__rank_status__init(to);
        to->has_rank = to->has_pid = to->has_threads = 1;
        to->has_cpu_ms = to->has_kv_bytes = to->has_weight_bytes_read = 1;
        to->rank = from->rank;
        to->pid = from->pid;
        to->threads = from->threads;
        to->cpu_ms = from->cpu_ms;
        to->kv_bytes = from->kv_bytes;
        to->weight_bytes_read = from->weight_bytes_read;
        /* Packed before the engine's own struct can change; protobuf-c has no pointer to const. */
        to->host = (char *)from->host;
        to->state = (char *)from->state;
        to->isa = (char *)from->isa;
        r->rank_pointer[i] = to;
    }
}

static void report_counts(const engine_status *from, Gemmad__V1__EngineStatus *e) {
    if (!from->counted_ms) return;
    e->has_counted_ms = e->has_requests_running = e->has_requests_waiting = e->has_requests_paused = 1;
    e->has_prompt_tokens = e->has_generated_tokens = e->has_prefix_query_tokens = e->has_prefix_hit_tokens =
        1;
    e->has_preemptions = e->has_step_us = e->has_cached_pages = e->has_imbalance = e->has_spilled_bytes = 1;
    e->counted_ms = from->counted_ms;
    e->requests_running = from->running;
    e->requests_waiting = from->waiting;
    e->requests_paused = from->paused;
    e->prompt_tokens = from->prompt_tokens;
    e->generated_tokens = from->generated_tokens;
    e->prefix_query_tokens = from->prefix_query_tokens;
    e->prefix_hit_tokens = from->prefix_hit_tokens;
    e->preemptions = from->preemptions;
    e->step_us = from->step_us;
    e->cached_pages = from->cached_pages;
    e->imbalance = from->imbalance;
    e->spilled_bytes = from->spilled_bytes;
    e->has_weight_bytes_per_second = e->has_step_ns = e->has_collective_ns = 1;
    e->weight_bytes_per_second = from->weight_bytes_per_second;
    e->step_ns = from->step_ns;
    e->collective_ns = from->collective_ns;
}

static void report_engine(engine *from, engine_report *r) {
    Gemmad__V1__EngineStatus *e = &r->message;
    gemmad__v1__engine_status__init(e);
    engine_get_status(from, &r->status);
    report_ranks(r);
    report_counts(&r->status, e);
    e->id = from->id;
    e->state = (char *)engine_state_name(r->status.state);
    e->has_restarts = e->has_kv_pages_used = e->has_kv_pages_total = e->has_steps = 1;
    e->restarts = r->status.restarts;
    e->kv_pages_used = r->status.kv_pages_used;
    e->kv_pages_total = r->status.kv_pages_total;
    e->steps = r->status.steps;
    e->layout = r->status.layout[0] ? r->status.layout : from->facts.layout;
    if (r->status.failure[0]) e->failure = r->status.failure;
    e->n_ranks = r->status.rank_count;
    e->ranks = r->rank_pointer;
}

static void report_model(core_model *m, model_report *r) {
    gemmad__v1__model_status__init(&r->message);
    r->engine = memory_alloc_array(m->engine_count, sizeof *r->engine);
    r->pointer = memory_alloc_array(m->engine_count, sizeof *r->pointer);
    for (uint32_t i = 0; i < m->engine_count; i++) {
        report_engine(m->engine[i].engine, &r->engine[i]);
        r->pointer[i] = &r->engine[i].message;
    }
    r->message.name = m->name;
    r->message.n_engines = m->engine_count;
    r->message.engines = r->pointer;
}

static void release_report(model_report *r) {
    for (size_t i = 0; i < r->message.n_engines; i++) {
        free(r->engine[i].rank);
        free(r->engine[i].rank_pointer);
    }
    free(r->engine);
    free(r->pointer);
}

static void send_status(core *c, call *k) {
    model_report *report = memory_alloc_array(c->model_count, sizeof *report);
    Gemmad__V1__ModelStatus *pointer[LIMIT_MODELS];
    Gemmad__V1__GetStatusResponse r = GEMMAD__V1__GET_STATUS_RESPONSE__INIT;
    r.has_requests_running = r.has_requests_waiting = r.has_requests_paused = 1;
    r.requests_paused = c->paused;
    r.has_start_unix_ms = r.has_uptime_ms = 1;
    r.start_unix_ms = c->start_unix_ms;
    r.uptime_ms = (clock_now_ns() - c->start_ns) / 1000000;
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->model_count; i++) {
        if (!auth_key_may_use(k->who, c->model[i].name)) continue;
        report_model(&c->model[i], &report[count]);
        pointer[count] = &report[count].message;
        count++;
        r.requests_running += c->model[i].running;
        r.requests_waiting += c->model[i].waiting;
    }
    r.state = (char *)core_state(c);
    r.n_models = count;
    r.models = pointer;
    r.version = (char *)GEMMAD_VERSION;
    r.build_id = (char *)GEMMAD_BUILD_ID;
    k->ops->send(k, &r.base);
    for (uint32_t i = 0; i < count; i++) release_report(&report[i]);
    free(report);
}

void core_get_status(void *context, call *k, const ProtobufCMessage *request) {
    (void)request;
    send_status(context, k);
    k->ops->finish(k, ST_OK, "", 0);
}

/* ---- WatchStatus ---- */

struct core_watch {
    core *core;
    call *call; /* NULL: ended, and the timer is being closed */
    uv_timer_t timer;
    core_watch *next, **link;
};

static void free_watch(uv_handle_t *timer) { free(timer->data); }

static void end_watch(core_watch *w, status st, const char *text) {
    call *k = w->call;
    *w->link = w->next;
    if (w->next) w->next->link = w->link;
    w->call = NULL;
    uv_close((uv_handle_t *)&w->timer, free_watch);
    k->cancelled = NULL;
    k->ops->finish(k, st, text, 0);
}

static void on_watch_cancelled(call *k, void *context, status why) {
    (void)k;
    end_watch(context, why, "the watch was given up");
}

/* Whoever has not read the last answer needs no other yet. */
static void on_interval(uv_timer_t *timer) {
    core_watch *w = timer->data;
    if (w->call->ops->backlog_bytes(w->call) == 0) send_status(w->core, w->call);
}

void core_watch_status(void *context, call *k, const ProtobufCMessage *message) {
    const Gemmad__V1__GetStatusRequest *r = (const Gemmad__V1__GetStatusRequest *)message;
    core *c = context;
    uint32_t interval = r->has_interval_ms ? r->interval_ms : WATCH_DEFAULT_MS;
    if (interval < WATCH_LEAST_MS || interval > WATCH_MOST_MS) {
        core_refuse(k, fail(ST_INVALID, "interval_ms is %u, and must be %d to %d", interval, WATCH_LEAST_MS,
                            WATCH_MOST_MS));
        return;
    }
    core_watch *w = memory_alloc(sizeof *w);
    *w = (core_watch){.core = c, .call = k, .next = c->watch, .link = &c->watch};
    if (w->next) w->next->link = &w->next;
    c->watch = w;
    uv_timer_init(c->loop, &w->timer);
    w->timer.data = w;
    uv_timer_start(&w->timer, on_interval, interval, interval);
    k->cancelled = on_watch_cancelled;
    k->context = w;
    send_status(c, k);
}

void core_end_watches(core *c) {
    while (c->watch) end_watch(c->watch, ST_UNAVAILABLE, "gemmad is stopping");
}
