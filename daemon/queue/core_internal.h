/* What the files of the request core share.
 * Threads: loop thread. */
#ifndef DAEMON_QUEUE_CORE_INTERNAL_H
#define DAEMON_QUEUE_CORE_INTERNAL_H

#include "daemon/queue/core.h"
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"

typedef struct core_model {
    char name[LIMIT_MODEL_NAME_BYTES + 1];
    const tokenizer *tokenizer; /* NULL: token ids only */
    engine *engine;
    engine_state last_state;   /* for the log: the engine itself is asked for what counts */
    uint32_t waiting, running; /* admitted requests before and after the engine started them */
} core_model;

enum { CORE_TICKET_BUCKETS = 4096 };

/* An admitted request: its place in the model's queue and its id among the live ones of its caller. */
typedef struct core_ticket {
    core_model *model; /* NULL: not admitted */
    char *key;         /* peer, newline, request_id */
    const char *request_id;
    uint32_t waiting, running; /* its samples, before and after the engine started them */
    struct core_ticket *next, **link;
} core_ticket;

struct core {
    uv_loop_t *loop;
    core_model model[LIMIT_MODELS];
    uint32_t model_count;
    uint32_t paused; /* samples that wait for their reader */
    uint64_t groups; /* made so far */
    uint32_t calls;  /* taken and not finished, of every kind: memory of ours that callbacks point to */
    bool draining;
    void (*idle)(void *context);
    void *idle_context;
    core_ticket *bucket[CORE_TICKET_BUCKETS];
};

enum {
    CORE_TINY_BYTES = 2048, /* text tokenised on the loop: 0.2 ms at 10 MB/s */
    CORE_TINY_TOKENS = 4096,
    CORE_RETRY_AFTER_MS = 1000,
};

/* Absent or "": the first. ST_NOT_FOUND names those there are. */
STATUS_CHECKED status core_find_model(core *c, const char *name, core_model **out);
/* So many samples of a request wait from now on. request_id NULL or "": one is made. ST_UNAVAILABLE, ST_EXISTS, ST_BUSY,
 * ST_INVALID. */
STATUS_CHECKED status core_admit(core *c, core_model *m, const char *peer, const char *request_id,
                                 uint32_t samples, core_ticket *out);
/* One of its samples. */
void core_ticket_started(core_ticket *t);
void core_ticket_ended(core_ticket *t, bool was_running);
void core_ticket_release(core_ticket *t); /* one never admitted is fine */

void core_count_paused(core *c, bool paused);

/* Every handler that does not answer before it returns brackets its call's life with these. */
void core_call_begins(core *c);
void core_call_ends(core *c);

/* Answers with the thread's sentence. */
void core_refuse(call *k, status st);
void core_answer(call *k, const ProtobufCMessage *message);

call_handler core_generate, core_tokenize, core_detokenize, core_list_models, core_get_status;

#endif
