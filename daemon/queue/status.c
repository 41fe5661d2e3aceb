/* ListModels and GetStatus. */
#include <stdlib.h>

#include "base/memory.h"
#include "build_id.h"
#include "daemon/queue/core_internal.h"

void core_list_models(void *context, call *k, const ProtobufCMessage *request) {
    core *c = context;
    (void)request;
    Gemmad__V1__Model model[LIMIT_MODELS], *pointer[LIMIT_MODELS];
    for (uint32_t i = 0; i < c->model_count; i++) {
        model_facts *facts = &c->model[i].engine->facts;
        gemmad__v1__model__init(&model[i]);
        model[i].name = c->model[i].name;
        model[i].has_context_tokens = model[i].has_vocab_size = model[i].has_has_tokenizer = 1;
        model[i].context_tokens = facts->context_tokens;
        model[i].vocab_size = facts->vocab;
        model[i].has_tokenizer = c->model[i].tokenizer != NULL;
        model[i].n_end_token_ids = facts->end_token_count;
        model[i].end_token_ids = facts->end_token;
        model[i].checkpoint_hash = facts->checkpoint_hash;
        pointer[i] = &model[i];
    }
    Gemmad__V1__ListModelsResponse r = GEMMAD__V1__LIST_MODELS_RESPONSE__INIT;
    r.n_models = c->model_count;
    r.models = pointer;
    core_answer(k, &r.base);
}

/* One model with its one engine, and what the message points to. */
typedef struct model_report {
    Gemmad__V1__ModelStatus model;
    Gemmad__V1__EngineStatus engine, *engine_pointer;
    Gemmad__V1__RankStatus *rank, **rank_pointer; /* [rank_count] */
    engine_status status;
} model_report;

static void report_ranks(model_report *r) {
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

static void report_model(core_model *m, model_report *r) {
    gemmad__v1__model_status__init(&r->model);
    gemmad__v1__engine_status__init(&r->engine);
    engine_get_status(m->engine, &r->status);
    report_ranks(r);
    Gemmad__V1__EngineStatus *e = &r->engine;
    e->id = m->engine->id;
    e->state = (char *)engine_state_name(r->status.state);
    e->has_restarts = e->has_kv_pages_used = e->has_kv_pages_total = e->has_steps = 1;
    e->restarts = r->status.restarts;
    e->kv_pages_used = r->status.kv_pages_used;
    e->kv_pages_total = r->status.kv_pages_total;
    e->steps = r->status.steps;
    e->layout = r->status.layout[0] ? r->status.layout : m->engine->facts.layout;
    if (r->status.failure[0]) e->failure = r->status.failure;
    e->n_ranks = r->status.rank_count;
    e->ranks = r->rank_pointer;
    r->engine_pointer = e;
    r->model.name = m->name;
    r->model.n_engines = 1;
    r->model.engines = &r->engine_pointer;
}

void core_get_status(void *context, call *k, const ProtobufCMessage *request) {
    core *c = context;
    (void)request;
    model_report *report = memory_alloc_array(c->model_count, sizeof *report);
    Gemmad__V1__ModelStatus *pointer[LIMIT_MODELS];
    Gemmad__V1__GetStatusResponse r = GEMMAD__V1__GET_STATUS_RESPONSE__INIT;
    r.has_requests_running = r.has_requests_waiting = r.has_requests_paused = 1;
    r.requests_paused = c->paused;
    for (uint32_t i = 0; i < c->model_count; i++) {
        report_model(&c->model[i], &report[i]);
        pointer[i] = &report[i].model;
        r.requests_running += c->model[i].running;
        r.requests_waiting += c->model[i].waiting;
    }
    r.state = (char *)core_state(c);
    r.n_models = c->model_count;
    r.models = pointer;
    r.version = (char *)GEMMAD_VERSION;
    r.build_id = (char *)GEMMAD_BUILD_ID;
    core_answer(k, &r.base);
    for (uint32_t i = 0; i < c->model_count; i++) {
        free(report[i].rank);
        free(report[i].rank_pointer);
    }
    free(report);
}
