/* Ends a rank that no longer makes progress. A blocking MPI call has no time-out, so a thread of its own
 * watches a step counter and a deadline and ends the process with _exit(EXIT_WATCHDOG); it never calls MPI.
 * The launcher then ends the rest, and the supervisor takes over.
 *
 * Threads: watchdog_* from the engine thread; the watcher is its own.
 * A deadline is armed around everything that waits for another rank: watchdog_arm before, watchdog_disarm
 * after. */
#ifndef SHARD_LINK_WATCHDOG_H
#define SHARD_LINK_WATCHDOG_H

#include <stdint.h>
#include "base/status.h"

enum { EXIT_WATCHDOG = 86 };

typedef struct watchdog watchdog;
STATUS_CHECKED status watchdog_open(watchdog **out);
void watchdog_close(watchdog *w);
/* what is a string literal, named when the deadline passes. Re-arming moves the deadline; deadline_ms counts
 * from now. Two atomic stores unless the watcher must be woken earlier than it meant to. */
void watchdog_arm(watchdog *w, const char *what, uint64_t deadline_ms);
void watchdog_disarm(watchdog *w);

/* The kernel ends this process with SIGKILL when its parent (the launcher) ends; ST_UNAVAILABLE when it has
 * already. */
STATUS_CHECKED status watchdog_follow_parent(void);

#endif
