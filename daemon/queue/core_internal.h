/* What the files of the request core share.
 * Threads: loop thread. */
#ifndef DAEMON_QUEUE_CORE_INTERNAL_H
#define DAEMON_QUEUE_CORE_INTERNAL_H

#include "daemon/observe/metrics.h"
#include "daemon/queue/chat_grammar.h"
#include "daemon/queue/core.h"
#include "daemon/queue/job.h"
#include "daemon/queue/prefix_index.h"
#include "daemon/queue/retry.h"
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"

typedef struct core_model core_model;

/* One engine of a model. */
typedef struct core_engine {
    engine *engine;
    core_model *model;
    engine_state last_state;   /* for the log: the engine itself is asked for what counts */
    uint32_t waiting, running; /* requests sent to it, before and after it started them */
    uint64_t sent;             /* calls, ever */
    prefix_index *prefixes;    /* NULL while it is the only one */
    metrics_engine *metrics;
} core_engine;

struct core_model {
    char name[LIMIT_MODEL_NAME_BYTES + 1];
    const tokenizer *tokenizer; /* NULL: token ids only */
    chat_choice chat;           /* its template: what chat_prompt_make takes, after core_check_chat */
    core_engine engine[LIMIT_REPLICAS];
    uint32_t engine_count;     /* at least 1 */
    uint32_t waiting, running; /* admitted requests before and after an engine started them */
    retry_estimate retry;
};

/* Engines by their place in the model. */
typedef struct core_engine_set {
    bool has[LIMIT_REPLICAS];
} core_engine_set;

/* Whoever has live requests. */
typedef struct core_client {
    char *name; /* of the transport: a user, an address */
    uint64_t hash;
    uint32_t waiting, tickets;
    struct core_client *next, **link;
} core_client;

enum { CORE_TICKET_BUCKETS = 4096, CORE_CLIENT_BUCKETS = 256 };

/* An admitted request: its place in the model's queue and its id among the live ones of its caller. */
typedef struct core_ticket {
    core_model *model;   /* NULL: not admitted */
    core_engine *engine; /* NULL: not routed yet */
    core_client *client;
    auth_key *who; /* of whose concurrent requests it is one */
    char *key;     /* peer, newline, request_id */
    const char *request_id;
    uint32_t waiting, running; /* its samples, before and after the engine started them */
    struct core_ticket *next, **link;
} core_ticket;

/* A sample that waits for its reader; part of its owner's struct. */
typedef struct core_paused {
    void (*go_on)(void *context);
    void *context;
    struct core_paused *next, **link;
} core_paused;

typedef struct core_watch core_watch; /* a client of WatchStatus */

struct core {
    uv_loop_t *loop;
    core_model model[LIMIT_MODELS];
    uint32_t model_count;
    uint32_t paused; /* samples that wait for their reader, and the list of them */
    core_paused *first_paused;
    uint64_t groups; /* made so far */
    uint32_t calls;  /* taken and not finished, of every kind: memory of ours that callbacks point to */
    bool draining;
    void (*idle)(void *context);
    void *idle_context;
    void (*drain_asked)(void *context); /* NULL: Control.Drain is refused */
    void *drain_context;
    core_limits limits;
    metrics *metrics;
    const auth *keys;
    uint64_t start_unix_ms, start_ns;
    bool log_prompts;
    struct core_watch *watch;
    chat_grammar_cache *forms; /* any thread */
    job_lane lane;             /* of CORE_JOB_LONG */
    core_ticket *bucket[CORE_TICKET_BUCKETS];
    core_client *client[CORE_CLIENT_BUCKETS];
};

enum {
    CORE_TINY_BYTES = 2048, /* text tokenised on the loop: 0.2 ms at 10 MB/s */
    CORE_TINY_TOKENS = 4096,
    CORE_SHORT_BYTES = 256 << 10, /* of a request whose work takes up to 50 ms */
    CORE_LONG_JOBS = 2,           /* at once */
    CORE_RETRY_AFTER_MS = 1000,
};

/* Every call for a model comes through here: whether its key may use the model and make another request now. Absent
 * or "": the first that it may use. ST_NOT_FOUND names those there are for it; ST_BUSY. */
STATUS_CHECKED status core_enter(core *c, call *k, const char *name, core_model **out);
/* So many samples of a request wait from now on. request_id NULL or "": one is made. ST_UNAVAILABLE, ST_EXISTS, ST_BUSY,
 * ST_INVALID. */
STATUS_CHECKED status core_admit(core *c, core_model *m, call *k, const char *request_id, uint32_t samples,
                                 core_ticket *out);
/* core_admit of a call: without a request_id of its own it gets the header's, unless a live request has that: proxies use
 * theirs again when they try again. */
STATUS_CHECKED status core_admit_call(core *c, core_model *m, call *k, const char *request_id,
                                      uint32_t samples, core_ticket *out);
/* The engine that it goes to; prompt is remembered there. */
void core_ticket_route(core_ticket *t, core_engine *e, const prefix_chain *prompt);
/* One of its samples. */
void core_ticket_started(core_ticket *t);
void core_ticket_ended(core_ticket *t, bool was_running);
void core_ticket_release(core_ticket *t); /* one never admitted is fine */

/* The engine for a prompt, none of `except`; NULL: none is ready. */
core_engine *core_route(core_model *m, const prefix_chain *prompt, const core_engine_set *except);
metrics_engine *core_metrics_of(const core_model *m, const engine *e); /* NULL: none of the model's */
engine_state core_engine_state(const core_engine *e);
engine_state core_model_state(const core_model *m);
const model_facts *core_facts(const core_model *m);
/* Why the model serves no chat; ST_OK: it has tokenizer and template. */
STATUS_CHECKED status core_check_chat(const core_model *m);
/* Why the model takes nothing now. */
STATUS_CHECKED status core_check_available(const core *c, const core_model *m);

/* A sample waits for its reader, until core_paused_end. A drain waits for no reader: it tells those that do. */
void core_paused_begin(core *c, core_paused *p);
void core_paused_end(core *c, core_paused *p);

/* Every handler that does not answer before it returns brackets its call's life with these. */
void core_call_begins(core *c);
void core_call_ends(core *c);

/* ST_DENIED unless the caller may stop or change the daemon. `what` is the rpc, for the sentence. */
STATUS_CHECKED status core_check_admin(const call *k, const char *what);

/* TINY: well under 1 ms, done on the loop at once. LONG: it may take seconds, so clients take turns with it. */
typedef enum core_job { CORE_JOB_TINY, CORE_JOB_SHORT, CORE_JOB_LONG } core_job;
static inline core_job core_job_of(bool tiny, size_t bytes) {
    return tiny ? CORE_JOB_TINY : bytes <= CORE_SHORT_BYTES ? CORE_JOB_SHORT : CORE_JOB_LONG;
}
void core_start_job(core *c, const call *k, job *j, core_job kind);

/* Answers with the thread's sentence. */
void core_refuse(call *k, status st);
void core_answer(call *k, const ProtobufCMessage *message);

call_handler core_generate, core_chat, core_tokenize, core_detokenize, core_render_chat, core_parse_chat,
    core_list_models, core_get_status, core_watch_status, core_drain_rpc;

#endif
