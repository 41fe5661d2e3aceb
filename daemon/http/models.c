/* /v1/models, /health, /version and /openapi.json: what is served and whether it can be. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "build_id.h"
#include "daemon/http/openai_internal.h"
#include "daemon/http/openapi_embedded.h"

typedef struct list_call {
    remote remote; /* first */
    const openai *api;
    const char *only; /* one model's name; NULL: all */
    bool found;
    strbuf json;
} list_call;

static void write_model(const openai *o, const Gemmad__V1__Model *m, strbuf *out) {
    out_object(out, NULL);
    out_string(out, "id", m->name);
    out_string(out, "object", "model");
    out_number(out, "created", o->created);
    out_string(out, "owned_by", "gemmad");
    out_number(out, "max_model_len", m->context_tokens);
    out_end_object(out);
}

static void on_models(remote *r, const ProtobufCMessage *message) {
    list_call *l = (list_call *)(void *)r;
    const Gemmad__V1__ListModelsResponse *all = (const Gemmad__V1__ListModelsResponse *)message;
    for (size_t i = 0; i < all->n_models; i++) {
        if (l->only && strcmp(l->only, all->models[i]->name) != 0) continue;
        l->found = true;
        write_model(l->api, all->models[i], &l->json);
    }
}

static void on_listed(remote *r, status st, const char *text, uint32_t retry_after_ms) {
    list_call *l = (list_call *)(void *)r;
    (void)retry_after_ms;
    if (st != ST_OK) {
        http_refuse_status(r->exchange, st, text);
    } else if (l->only && !l->found) {
        (void)fail(ST_NOT_FOUND, "there is no model \"%.128s\"", l->only);
        http_refuse(r->exchange, 404, "model", "model_not_found", status_text());
    } else {
        if (!l->only) {
            out_end_array(&l->json);
            out_end_object(&l->json);
        }
        http_answer_json(r->exchange, 200, &l->json);
    }
    strbuf_close(&l->json);
    free(l);
}

static void list(const openai *o, http_exchange *x, const char *only) {
    static const Gemmad__V1__ListModelsRequest request = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    list_call *l = memory_alloc(sizeof *l);
    l->remote.exchange = x;
    l->remote.event = on_models;
    l->remote.finished = on_listed;
    l->api = o;
    l->only = only;
    if (!only) {
        out_object(&l->json, NULL);
        out_string(&l->json, "object", "list");
        out_array(&l->json, "data");
    }
    remote_start(&l->remote, o, "/gemmad.v1.Inference/ListModels", &request.base);
}

void openai_models(void *context, http_exchange *x) { list(context, x, NULL); }
void openai_model(void *context, http_exchange *x) { list(context, x, http_rest(x)); }

void openai_health(void *context, http_exchange *x) {
    const openai *o = context;
    const char *state = o->backend.state(o->backend.core);
    if (strcmp(state, "ready") != 0) {
        (void)fail(ST_UNAVAILABLE, "gemmad is %s", state);
        http_refuse_status(x, ST_UNAVAILABLE, NULL);
        return;
    }
    static const char ready[] = "{\"status\":\"ready\"}";
    http_answer(x, 200, "application/json", ready, sizeof ready - 1);
}

void openai_version(void *context, http_exchange *x) {
    strbuf json = {0};
    (void)context;
    out_object(&json, NULL);
    out_string(&json, "version", GEMMAD_VERSION);
    out_string(&json, "build_id", GEMMAD_BUILD_ID);
    out_end_object(&json);
    http_answer_json(x, 200, &json);
    strbuf_close(&json);
}

void openai_openapi(void *context, http_exchange *x) {
    (void)context;
    http_answer(x, 200, "application/json", openapi_json, openapi_json_bytes);
}
