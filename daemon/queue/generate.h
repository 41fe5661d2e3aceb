/* A Generate call between its two halves: generate.c brings it to a session, generate_events.c tells its
 * client. */
#ifndef DAEMON_QUEUE_GENERATE_H
#define DAEMON_QUEUE_GENERATE_H

#include "daemon/queue/core_internal.h"
#include "daemon/queue/job.h"
#include "daemon/queue/sampling.h"
#include "daemon/queue/session.h"

typedef struct generate {
    core *core;
    core_model *model;
    call *call;
    core_ticket ticket;
    sampling_plan sampling;
    int32_t priority;
    uint64_t arrival_ns;
    session *session; /* NULL until the engine has it */
    status why;       /* not ST_OK: the client gave up */
    job job;          /* tokenising a text prompt */
    const tokenizer *tokenizer;
    char *text; /* freed when the engine has the tokens */
    size_t text_bytes;
    bool parse_special, add_bos;
    uint32_t bos;
    uint32_t *tokens; /* freed when the engine has them */
    size_t token_count;
    uint32_t prompt_tokens;
    uint64_t seed;
} generate;

/* Sentence for the call's end when the client gave up. */
const char *generate_why_text(const generate *g);
/* The call's one end; g is gone afterwards. */
void generate_finish(generate *g, status st, const char *text);
extern const session_sink generate_sink;

#endif
