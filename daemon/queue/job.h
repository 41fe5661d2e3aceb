/* Work that may take over 1 ms, done on one of libuv's worker threads, with its status and sentence brought
 * back.
 *
 * Memory:  the job is part of its owner's struct, which must live until `done`.
 * Threads: run on a worker, with nothing of the core but what the owner put beside the job; the rest on the
 * loop. */
#ifndef DAEMON_QUEUE_JOB_H
#define DAEMON_QUEUE_JOB_H

#include "base/status.h"
#include <stdbool.h>
#include <uv.h>

typedef struct job {
    uv_work_t work;
    status (*run)(struct job *j);
    void (*done)(struct job *j); /* once, on the loop */
    bool queued;
    status st;                  /* of run; ST_CANCELLED when it never ran */
    char text[STATUS_TEXT_MAX]; /* the sentence, when not ST_OK */
} job;

/* tiny: run takes well under 1 ms, so it is done here and now, `done` included. */
void job_start(uv_loop_t *loop, job *j, bool tiny);
/* Work that no worker has begun ends at once (`done` is called later all the same); what runs is left to end.
 */
void job_cancel(job *j);

#endif
