#include "daemon/queue/job.h"

#include <stdio.h>

#include "base/invariant.h"

static void run_here(job *j) {
    j->st = j->run(j);
    j->text[0] = 0;
    if (j->st != ST_OK) snprintf(j->text, sizeof j->text, "%s", status_text());
}

static void on_worker(uv_work_t *work) { run_here(work->data); }

static void after_work(uv_work_t *work, int result) {
    job *j = work->data;
    j->queued = false;
    if (result == UV_ECANCELED) {
        j->st = fail(ST_CANCELLED, "cancelled before it was begun");
        snprintf(j->text, sizeof j->text, "%s", status_text());
    }
    j->done(j);
}

void job_start(uv_loop_t *loop, job *j, bool tiny) {
    if (tiny) {
        run_here(j);
        j->done(j);
        return;
    }
    j->work.data = j;
    j->queued = true;
    int result = uv_queue_work(loop, &j->work, on_worker, after_work);
    INVARIANT(result == 0);
}

void job_cancel(job *j) {
    /* UV_EBUSY: a worker has it. */
    if (j->queued) (void)uv_cancel((uv_req_t *)&j->work);
}
