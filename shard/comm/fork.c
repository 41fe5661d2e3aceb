/* The back end `fork`: ranks are processes (or threads) around anonymous shared memory, in one window. */
#include <linux/prctl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "proto/limits.h"
#include "shard/comm/fork_watch.h"

typedef struct fork_run {
    uint32_t ranks;
    uint32_t spin_us;
    size_t slot_bytes;
    comm_body *body;
    void *context;
    void *window_memory;
    rank_end *ends;    /* [ranks], shared with the children */
    uint32_t *carrier; /* [ranks]: everybody carries himself */
    bool *is_local;    /* [ranks]: all */
} fork_run;

typedef struct thread_rank {
    fork_run *run;
    uint32_t rank;
    pthread_t thread;
} thread_rank;

/* Runs the body as `rank` and leaves its end for the caller of comm_fork_run, who may be another process. */
static void run_rank(fork_run *run, uint32_t rank) {
    static const comm_back_end window_only = {.move = NULL};
    window w;
    window_attach(&w, run->window_memory, rank, run->ranks, run->ranks, run->slot_bytes, run->spin_us);
    comm c = {.rank = rank,
              .size = run->ranks,
              .where = {.nodes = 1, .local_rank = rank, .local_ranks = run->ranks},
              .window = &w,
              .back = &window_only,
              .carrier = run->carrier,
              .is_local = run->is_local,
              .parts = memory_alloc_array(run->ranks, sizeof *c.parts)};
    status st = run->body(&c, run->context);
    free(c.parts);
    rank_end *end = &run->ends[rank];
    end->st = st;
    if (st != ST_OK) snprintf(end->text, sizeof end->text, "%s", status_text());
    /* The end is complete before others can see that it is there. */
    atomic_store(&end->returned, true);
    if (st != ST_OK) window_abort(&w, rank);
    else window_leave(&w);
}

/* Most ranks fail with ST_PEER only because another one failed. The cause is the first failure in rank
 * order that is not of that kind; without one, what the first rank met that gave up. */
static status first_failure(const fork_run *run) {
    const window_head *head = run->window_memory;
    uint32_t aborted = atomic_load(&head->aborted);
    const rank_end *cause = aborted && run->ends[aborted - 1].st != ST_OK ? &run->ends[aborted - 1] : NULL;
    bool echo = true;
    for (uint32_t r = 0; r < run->ranks && echo; r++) {
        const rank_end *e = &run->ends[r];
        if (e->st == ST_OK) continue;
        echo = e->st == ST_PEER && atomic_load(&e->returned);
        if (!cause || !echo) cause = e;
    }
    if (!cause) return ST_OK;
    return fail(cause->st, "rank %td: %s", cause - run->ends, cause->text);
}

static void *thread_main(void *argument) {
    thread_rank *t = argument;
    run_rank(t->run, t->rank);
    return NULL;
}

static status run_threads(fork_run *run) {
    thread_rank *t = memory_alloc_array(run->ranks, sizeof *t);
    status st = ST_OK;
    uint32_t started = 1;
    for (; started < run->ranks; started++) {
        t[started] = (thread_rank){.run = run, .rank = started};
        int code = pthread_create(&t[started].thread, NULL, thread_main, &t[started]);
        if (code == 0) continue;
        window w;
        window_attach(&w, run->window_memory, 0, run->ranks, run->ranks, run->slot_bytes, 0);
        window_abort(&w, started);
        st = fail(ST_NO_MEMORY, "rank %u: thread not started: %s", started, strerror(code));
        break;
    }
    if (st == ST_OK) run_rank(run, 0);
    for (uint32_t r = 1; r < started; r++) pthread_join(t[r].thread, NULL);
    free(t);
    return st;
}

static _Noreturn void child_main(fork_run *run, uint32_t rank, pid_t parent) {
    /* A child must not outlive the run; the parent may be gone before the call, and is then seen by its
     * number. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(1);
    run_rank(run, rank);
    fflush(NULL);
    /* No atexit handlers: they belong to the parent. */
    _exit(run->ends[rank].st == ST_OK ? 0 : 1);
}

static status run_processes(fork_run *run) {
    pid_t *pids = memory_alloc_array(run->ranks, sizeof *pids);
    pid_t parent = getpid();
    status st = ST_OK;
    window w;
    window_attach(&w, run->window_memory, 0, run->ranks, run->ranks, run->slot_bytes, 0);
    fflush(NULL); /* or every child would write what is buffered again */
    uint32_t started = 1;
    for (; started < run->ranks; started++) {
        pids[started] = fork();
        if (pids[started] == 0) child_main(run, started, parent);
        if (pids[started] > 0) continue;
        st = fail_errno(ST_NO_MEMORY, "rank %u: process not started", started);
        window_abort(&w, started);
        break;
    }
    fork_watch *watch = NULL;
    if (st == ST_OK) {
        st = fork_watch_open(&watch, &w, run->ends, pids, run->ranks);
        if (st != ST_OK) window_abort(&w, 0);
    }
    if (st == ST_OK) run_rank(run, 0);
    if (watch) fork_watch_close(watch);
    else fork_watch_reap(pids, started);
    free(pids);
    return st;
}

status comm_fork_run(const comm_fork_options *options, comm_body *body, void *context) {
    uint32_t n = options->ranks;
    if (n < 1 || n > LIMIT_RANKS) return fail(ST_INVALID, "%u ranks, allowed are 1 to %d", n, LIMIT_RANKS);
    fork_run run = {.ranks = n,
                    .spin_us = options->spin_us,
                    .slot_bytes = options->slot_bytes,
                    .body = body,
                    .context = context};
    size_t window_size = window_bytes(n, n, &run.slot_bytes), bytes = window_size + n * sizeof *run.ends;
    if (run.slot_bytes / n < COMM_CELL_BYTES_MIN)
        return fail(ST_INVALID, "slot of %zu bytes, %u ranks need %u", run.slot_bytes, n,
                    n * COMM_CELL_BYTES_MIN);
    run.window_memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (run.window_memory == MAP_FAILED)
        return fail_errno(ST_NO_MEMORY, "%zu bytes shared by %u ranks", bytes, n);
    window_format(run.window_memory, n);
    run.ends = (rank_end *)(void *)((char *)run.window_memory + window_size);
    run.carrier = memory_alloc_array(n, sizeof *run.carrier);
    run.is_local = memory_alloc_array(n, sizeof *run.is_local);
    for (uint32_t r = 0; r < n; r++) run.carrier[r] = r, run.is_local[r] = true;
    status st = options->threads ? run_threads(&run) : run_processes(&run);
    if (st == ST_OK) st = first_failure(&run);
    free(run.is_local);
    free(run.carrier);
    munmap(run.window_memory, bytes);
    return st;
}
