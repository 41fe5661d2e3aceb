/* What the endpoints share.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_OPENAI_INTERNAL_H
#define DAEMON_HTTP_OPENAI_INTERNAL_H

#include "daemon/http/json_out.h"
#include "daemon/http/openai.h"
#include "daemon/queue/job.h"
#include "proto/gemmad.pb-c.h"

struct openai {
    openai_backend backend;
    uint64_t created; /* Unix seconds: when this gemmad began to serve */
    job_lane lane;    /* of long bodies, which take up to a second to read */
};

/* A call of the core on behalf of an exchange. */
typedef struct remote {
    call base; /* first */
    http_exchange *exchange;
    void (*event)(struct remote *r, const ProtobufCMessage *message);
    /* The last; the remote may be freed in it. */
    void (*finished)(struct remote *r, status st, const char *text, uint32_t retry_after_ms);
    void *owner;
    bool live;
} remote;

/* path: "/gemmad.v1.Inference/Chat". event and finished may be called before it returns. */
void remote_start(remote *r, const openai *o, const char *path, const ProtobufCMessage *request);
/* The client has gone: `finished` comes, perhaps before this returns. */
void remote_cancel(remote *r);
/* The exchange's backlog has become less. */
void remote_drained(remote *r);

/* The name of the model that a request is for: asked, or the core's for the first that its key may use. */
const char *openai_model_name(const openai *o, const http_exchange *x, const char *asked);

/* Ids of answers: "chatcmpl-" and 24 hexadecimal digits. */
enum { OPENAI_ID_BYTES = 48 };
void openai_make_id(const char *prefix, char id[OPENAI_ID_BYTES]);
/* What a request means that asked for a model by this name; NULL or "": by none. */
const char *openai_model_name(const openai *o, const http_exchange *x, const char *asked);
uint64_t openai_now(void); /* Unix seconds */

http_handler openai_models, openai_model, openai_health, openai_version, openai_chat, openai_completions,
    openai_tokenize, openai_detokenize, openai_refused, openai_responses, openai_openapi;

#endif
