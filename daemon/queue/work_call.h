/* A call whose one answer is work for a worker thread: Tokenize, Detokenize, RenderChat, ParseChat. The work_call is the
 * first member of its owner's struct.
 *
 * Memory:  work_open allocates the owner, zeroed; work_end releases what it holds through `release`, then itself.
 * Threads: loop thread, but for `run`. */
#ifndef DAEMON_QUEUE_WORK_CALL_H
#define DAEMON_QUEUE_WORK_CALL_H

#include "daemon/queue/core_internal.h"

typedef struct work_call {
    core *core;
    call *call;
    core_model *model; /* it has a tokenizer */
    job job;
    status why; /* not ST_OK: the client gave up */
    void (*release)(struct work_call *w);
} work_call;

static inline work_call *work_of(job *j) { return (work_call *)((char *)j - offsetof(work_call, job)); }

/* ST_NOT_FOUND, ST_INVALID for a model without a tokenizer; *out is then NULL and the call not answered. Once open, the call
 * ends with work_end. */
STATUS_CHECKED status work_open(work_call **out, size_t owner_bytes, core *c, call *k, const char *model,
                                void (*release)(work_call *w));
/* done calls work_end. */
void work_start(work_call *w, status (*run)(job *), void (*done)(job *), core_job kind);
/* Instead of work_start: the request is wrong, with the thread's sentence. */
void work_refuse(work_call *w, status st);
/* Answers: with message; without one, with the job's failure; with neither when the client gave up. */
void work_end(work_call *w, const ProtobufCMessage *message);

#endif
