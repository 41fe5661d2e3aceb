#include "daemon/queue/job.h"

#include <stdio.h>

#include "base/invariant.h"

static void run_here(job *j) {
    j->st = j->run(j);
    j->text[0] = 0;
    if (j->st != ST_OK) snprintf(j->text, sizeof j->text, "%s", status_text());
}

static void on_worker(uv_work_t *work) { run_here(work->data); }

static status run_cancelled(job *j) {
    (void)j;
    return fail(ST_CANCELLED, "cancelled before it was begun");
}

static void lane_go_on(job_lane *l);

static void after_work(uv_work_t *work, int result) {
    job *j = work->data;
    j->queued = false;
    if (result == UV_ECANCELED) {
        j->run = run_cancelled;
        run_here(j);
    }
    if (j->lane) {
        j->lane->running--;
        lane_go_on(j->lane);
    }
    j->done(j);
}

static void hand_over(uv_loop_t *loop, job *j) {
    j->work.data = j;
    j->queued = true;
    int result = uv_queue_work(loop, &j->work, on_worker, after_work);
    INVARIANT(result == 0);
}

void job_start(uv_loop_t *loop, job *j, bool tiny) {
    j->lane = NULL;
    if (tiny) {
        run_here(j);
        j->done(j);
        return;
    }
    hand_over(loop, j);
}

static void lane_go_on(job_lane *l) {
    while (l->first && l->running < l->most) {
        job *j = l->first;
        l->first = j->next;
        l->turn = j->turn;
        l->running++;
        j->waits = false;
        hand_over(l->loop, j);
    }
}

static uint64_t hash_of(const char *name) {
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (; *name; name++) h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001B3);
    return h;
}

/* A client's next job is a turn behind its last one that waits, so behind one job of each other client. */
void job_start_in(job_lane *lane, const char *client, job *j) {
    j->lane = lane;
    j->client = hash_of(client);
    j->queued = j->waits = true;
    j->turn = lane->turn + 1;
    for (const job *k = lane->first; k; k = k->next)
        if (k->client == j->client) j->turn = k->turn + 1;
    job **link = &lane->first;
    while (*link && (*link)->turn <= j->turn) link = &(*link)->next;
    j->next = *link;
    *link = j;
    lane_go_on(lane);
}

/* `done` comes later, from the loop: what ends at once goes through a worker too. */
static void leave(job *j) {
    job **link = &j->lane->first;
    while (*link != j) link = &(*link)->next;
    *link = j->next;
    uv_loop_t *loop = j->lane->loop;
    j->lane = NULL;
    j->waits = false;
    j->run = run_cancelled;
    hand_over(loop, j);
}

void job_cancel(job *j) {
    if (j->waits) leave(j);
    /* UV_EBUSY: a worker has it. */
    else if (j->queued) (void)uv_cancel((uv_req_t *)&j->work);
}
