/* A request to an endpoint, from its body to its answer: read on a worker thread if it is long, then begun on the loop.
 *
 * Memory:  the task frees itself in task_end, which every endpoint calls once, after it has answered.
 * Threads: read runs on a worker with nothing but its task; the rest on the loop. */
#ifndef DAEMON_HTTP_TASK_H
#define DAEMON_HTTP_TASK_H

#include "daemon/http/body.h"
#include "daemon/http/openai_internal.h"
#include "daemon/queue/job.h"

typedef struct task task;

typedef struct task_endpoint {
    size_t bytes;             /* of a struct whose first member is its task; zeroed */
    status (*read)(task *t);  /* the body becomes a request; a refusal is answered by the task */
    void (*begin)(task *t);   /* the request goes to the core */
    void (*left)(task *t);    /* after begin: the client has gone */
    void (*drained)(task *t); /* after begin; NULL: it does not stream */
    void (*close)(task *t);   /* releases what is the endpoint's own; NULL: nothing */
} task_endpoint;

struct task {
    const openai *api;
    http_exchange *exchange;
    const task_endpoint *endpoint;
    job job;
    body
        body; /* what read made of it points in here; body_close when it is no longer needed, or task_end does */
    bool begun, left;
};

void task_start(openai *o, http_exchange *x, const task_endpoint *e);
void task_end(task *t);
/* Answers with what the core refused: its sentence, and the field if the sentence names one. */
void task_refuse(http_exchange *x, status st, const char *text, uint32_t retry_after_ms);

#endif
