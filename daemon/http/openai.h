/* OpenAI's API on the request core: one file an endpoint.
 *
 * Memory:  openai_open allocates and puts its routes into the server; openai_close after the server has stopped.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_OPENAI_H
#define DAEMON_HTTP_OPENAI_H

#include "daemon/http/http.h"
#include "daemon/queue/call.h"
#include "daemon/text/tokenizer.h"

typedef struct openai openai;

/* What it stands on; the core, or a double of it. */
typedef struct openai_backend {
    const call_method *methods;
    uint32_t method_count;
    void *core;
    const char *(*state)(void *core); /* "starting", "ready", "draining", "failed" */
    /* Of a model by its name; NULL: there is none. */
    const tokenizer *(*tokenizer)(void *core, const char *model);
    /* The name that requests of this key without one mean. */
    const char *(*first_model)(void *core, const auth_key *who);
} openai_backend;

void openai_open(openai **out, http_server *server, const openai_backend *backend);
void openai_close(openai *o); /* NULL is fine */

#endif
