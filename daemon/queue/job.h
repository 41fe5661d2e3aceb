/* Work that may take over 1 ms, done on one of libuv's worker threads, with its status and sentence brought
 * back.
 *
 * Memory:  the job is part of its owner's struct, which must live until `done`; a lane outlives its jobs.
 * Threads: run on a worker, with nothing of the core but what the owner put beside the job; the rest on the
 * loop. */
#ifndef DAEMON_QUEUE_JOB_H
#define DAEMON_QUEUE_JOB_H

#include "base/status.h"
#include <stdbool.h>
#include <uv.h>

/* Jobs that may take seconds. So few of them run at once that workers are left for all others, and clients that wait take
 * turns, so that nobody's many jobs are in front of another's one. */
typedef struct job_lane {
    uv_loop_t *loop;
    uint32_t running, most; /* at once, under the number of workers (UV_THREADPOOL_SIZE, 4) */
    uint64_t turn;          /* of the job that was begun last */
    struct job *first;      /* those that wait, by turn */
} job_lane;

typedef struct job {
    uv_work_t work;
    status (*run)(struct job *j);
    void (*done)(struct job *j); /* once, on the loop */
    bool queued;
    status st;                  /* of run; ST_CANCELLED when it never ran */
    char text[STATUS_TEXT_MAX]; /* the sentence, when not ST_OK */
    job_lane *lane;             /* NULL: none */
    uint64_t client, turn;      /* a hash of its name */
    bool waits;                 /* in the lane's list, by next */
    struct job *next;
} job;

/* tiny: run takes well under 1 ms, so it is done here and now, `done` included. */
void job_start(uv_loop_t *loop, job *j, bool tiny);
/* client: its name. */
void job_start_in(job_lane *lane, const char *client, job *j);
/* Work that no worker has begun ends at once (`done` is called later all the same); what runs is left to end.
 */
void job_cancel(job *j);

#endif
