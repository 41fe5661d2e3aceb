#include "daemon/http/openai.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/http/gate.h"
#include "daemon/http/openai_internal.h"

static const http_route routes[] = {
    {"GET", "/health", openai_health},
    {"GET", "/version", openai_version},
    {"GET", "/openapi.json", openai_openapi},
    {"GET", "/v1/models", openai_models},
    {"GET", "/v1/models/*", openai_model},
    {"POST", "/v1/chat/completions", openai_chat},
    {"POST", "/v1/completions", openai_completions},
    {"POST", "/v1/responses", openai_responses},
    {"POST", "/tokenize", openai_tokenize},
    {"POST", "/detokenize", openai_detokenize},
};

/* Any method: what is not there is not there for all of them. */
static const http_route refused[] = {
    {"", "/v1/files", openai_refused},
    {"", "/v1/batches", openai_refused},
    {"", "/v1/uploads", openai_refused},
    {"", "/v1/embeddings", openai_refused},
    {"", "/v1/moderations", openai_refused},
    {"", "/v1/messages", openai_refused},
    {"", "/v1/rerank", openai_refused},
    {"", "/v1/score", openai_refused},
    {"", "/v1/assistants", openai_refused},
    {"", "/v1/threads", openai_refused},
    {"", "/v1/vector_stores", openai_refused},
    {"", "/v1/conversations", openai_refused},
    {"", "/v1/realtime", openai_refused},
    {"", "/v1/load_lora_adapter", openai_refused},
    {"", "/v1/unload_lora_adapter", openai_refused},
    {"", "/v1/files/*", openai_refused},
    {"", "/v1/batches/*", openai_refused},
    {"", "/v1/uploads/*", openai_refused},
    {"", "/v1/messages/*", openai_refused},
    {"", "/v1/images/*", openai_refused},
    {"", "/v1/audio/*", openai_refused},
    {"", "/v1/fine_tuning/*", openai_refused},
    {"", "/v1/assistants/*", openai_refused},
    {"", "/v1/threads/*", openai_refused},
    {"", "/v1/vector_stores/*", openai_refused},
    {"", "/v1/conversations/*", openai_refused},
    {"", "/v1/responses/*", openai_refused},
    {"", "/v1/chat/completions/*", openai_refused},
};

enum { LONG_BODIES = 1 }; /* read at once: with the core's long jobs, under the number of workers */

void openai_open(openai **out, http_server *server, const openai_backend *backend) {
    *out = memory_alloc(sizeof **out);
    (*out)->backend = *backend;
    (*out)->lane.most = LONG_BODIES;
    (*out)->created = openai_now();
    http_add_routes(server, routes, sizeof routes / sizeof *routes, *out);
    http_add_routes(server, refused, sizeof refused / sizeof *refused, *out);
}

void openai_close(openai *o) { free(o); }

const char *openai_model_name(const openai *o, const http_exchange *x, const char *asked) {
    return asked && *asked ? asked : o->backend.first_model(o->backend.core, gate_key(x));
}

uint64_t openai_now(void) { return (uint64_t)time(NULL); }

void openai_make_id(const char *prefix, char id[OPENAI_ID_BYTES]) {
    uint8_t random[12];
    ssize_t got = getrandom(random, sizeof random, 0);
    INVARIANT(got == (ssize_t)sizeof random);
    int n = snprintf(id, OPENAI_ID_BYTES, "%s", prefix);
    for (size_t i = 0; i < sizeof random && n + 3 <= OPENAI_ID_BYTES; i++)
        n += snprintf(id + n, (size_t)(OPENAI_ID_BYTES - n), "%02x", random[i]);
}
