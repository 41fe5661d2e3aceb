/* Watches the child processes of comm_fork_run from a thread of the parent: a rank that dies cannot tell
 * the others.
 * Memory:  pids and ends are the caller's until fork_watch_close. Ends lie in memory shared with the
 *          children.
 * Threads: opened and closed by the thread that runs rank 0, after the last fork.
 * Errors:  a child that ended without an end of its own gets one here, and the window's abort word is set. */
#ifndef SHARD_COMM_FORK_WATCH_H
#define SHARD_COMM_FORK_WATCH_H

#include <sys/types.h>
#include "shard/comm/comm_internal.h"

/* How a rank's part of the run ended. */
typedef struct rank_end {
    _Atomic bool returned; /* the body returned; otherwise the process ended before it did */
    status st;
    char text[STATUS_TEXT_MAX];
} rank_end;

/* After an abort, children that are stuck outside a comm call are killed when this has passed. */
enum { FORK_ABORT_GRACE_MS = 5000 };

typedef struct fork_watch fork_watch;
/* pids[1 … ranks - 1] are the children. */
STATUS_CHECKED status fork_watch_open(fork_watch **out, const window *w, rank_end *ends, const pid_t *pids,
                                      uint32_t ranks);
/* Waits until every child has ended and is reaped. */
void fork_watch_close(fork_watch *watch);
/* The same without a thread, for a run that never began: kills children 1 … ranks - 1 and reaps them. */
void fork_watch_reap(const pid_t *pids, uint32_t ranks);

#endif
