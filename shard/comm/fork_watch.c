#include "shard/comm/fork_watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"

struct fork_watch {
    window w; /* a copy: the engine thread changes its own */
    rank_end *ends;
    const pid_t *pids;
    uint32_t ranks;
    struct pollfd *polled; /* [ranks]; fd is -1 for rank 0 and for the reaped */
    pthread_t thread;
};

static void note_death(fork_watch *watch, uint32_t rank, int code) {
    rank_end *end = &watch->ends[rank];
    if (atomic_load(&end->returned)) return;
    end->st = ST_PEER;
    if (WIFSIGNALED(code)) {
        const char *name = sigdescr_np(WTERMSIG(code));
        snprintf(end->text, sizeof end->text, "ended by signal %d (%s)", WTERMSIG(code),
                 name ? name : "unknown");
    } else {
        snprintf(end->text, sizeof end->text, "exited with code %d before its work was done",
                 WEXITSTATUS(code));
    }
    window_abort(&watch->w, rank);
}

/* By number and not "any child": the process may have children that are not ours. */
static int reap(pid_t pid) {
    int code = 0;
    while (waitpid(pid, &code, 0) < 0) INVARIANT(errno == EINTR);
    return code;
}

static void *watch_main(void *argument) {
    fork_watch *watch = argument;
    uint32_t left = watch->ranks - 1;
    uint64_t kill_at = UINT64_MAX;
    while (left > 0) {
        int n = poll(watch->polled, watch->ranks, 500);
        INVARIANT(n >= 0 || errno == EINTR);
        for (uint32_t r = 1; n > 0 && r < watch->ranks; r++) {
            if (watch->polled[r].fd < 0 || !watch->polled[r].revents) continue;
            note_death(watch, r, reap(watch->pids[r]));
            close(watch->polled[r].fd);
            watch->polled[r].fd = -1;
            left--;
        }
        uint64_t now = clock_now_ns();
        if (!window_aborted(&watch->w)) continue;
        if (kill_at == UINT64_MAX) kill_at = now + (uint64_t)FORK_ABORT_GRACE_MS * 1000000;
        for (uint32_t r = 1; now >= kill_at && r < watch->ranks; r++)
            if (watch->polled[r].fd >= 0) kill(watch->pids[r], SIGKILL);
    }
    return NULL;
}

static void watch_free(fork_watch *watch) {
    for (uint32_t r = 1; r < watch->ranks; r++)
        if (watch->polled[r].fd >= 0) close(watch->polled[r].fd);
    free(watch->polled);
    free(watch);
}

status fork_watch_open(fork_watch **out, const window *w, rank_end *ends, const pid_t *pids, uint32_t ranks) {
    fork_watch *watch = memory_alloc(sizeof *watch);
    *watch = (fork_watch){.w = *w, .ends = ends, .pids = pids, .ranks = ranks};
    watch->polled = memory_alloc_array(ranks, sizeof *watch->polled);
    status st = ST_OK;
    for (uint32_t r = 0; r < ranks; r++) watch->polled[r] = (struct pollfd){.fd = -1, .events = POLLIN};
    for (uint32_t r = 1; r < ranks && st == ST_OK; r++) {
        watch->polled[r].fd = (int)syscall(SYS_pidfd_open, pids[r], 0);
        if (watch->polled[r].fd < 0)
            st = fail_errno(ST_IO, "rank %u: process %d is not watched", r, (int)pids[r]);
    }
    if (st == ST_OK) {
        /* Signals are the business of the program's own threads. */
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int code = pthread_create(&watch->thread, NULL, watch_main, watch);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (code != 0) st = fail(ST_NO_MEMORY, "thread that watches ranks: %s", strerror(code));
    }
    if (st != ST_OK) {
        watch_free(watch);
        return st;
    }
    *out = watch;
    return ST_OK;
}

void fork_watch_close(fork_watch *watch) {
    pthread_join(watch->thread, NULL);
    watch_free(watch);
}

void fork_watch_reap(const pid_t *pids, uint32_t ranks) {
    for (uint32_t r = 1; r < ranks; r++) kill(pids[r], SIGKILL);
    for (uint32_t r = 1; r < ranks; r++) (void)reap(pids[r]);
}
