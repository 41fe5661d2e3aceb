/* A Generate call between its two halves: generate.c brings it to sessions, one for each sample, and
 * generate_events.c tells its client. */
#ifndef DAEMON_QUEUE_GENERATE_H
#define DAEMON_QUEUE_GENERATE_H

#include "daemon/queue/core_internal.h"
#include "daemon/queue/job.h"
#include "daemon/queue/request_log.h"
#include "daemon/queue/sampling.h"
#include "daemon/queue/session.h"

typedef struct generate generate;

typedef struct generate_sample {
    generate *owner;
    session *session; /* NULL before it is at the engine, and after its end */
    bool started, is_paused;
    core_paused paused;
} generate_sample;

struct generate {
    core *core;
    core_model *model;
    call *call;
    core_ticket ticket;
    sampling_plan sampling;
    int32_t priority;
    uint64_t arrival_ns;
    request_log log;
    uint32_t busy; /* what must end before the call can: sessions, the job, a function of ours on the stack */
    status failure; /* the first: what the call ends with */
    char *failure_text;
    generate_sample *sample; /* [sampling.n] */
    uint32_t live;           /* samples at the engine */
    bool told_started;
    uint32_t cached_tokens, completion_tokens; /* of the first sample that began; of all */
    job job;                                   /* tokenising a text prompt */
    const tokenizer *tokenizer;
    char *text; /* freed when the engine has the tokens */
    size_t text_bytes;
    bool parse_special, add_bos;
    uint32_t bos;
    uint32_t *tokens; /* freed when the engine has them */
    size_t token_count;
    uint32_t prompt_tokens;
    uint64_t seed;
};

/* The call ends with st and text, unless it failed before; its samples are cancelled. */
void generate_fail(generate *g, status st, const char *text);
/* One less of g->busy; with the last the call ends and g is gone. */
void generate_release(generate *g);
extern const session_sink generate_sink;

#endif
