/* The state directory, held by at most one gemmad at a time.
 * Memory:  state_dir_close releases; the lock ends with the process whatever happens.
 * Threads: main thread.
 * Errors:  ST_IN_USE with the process that holds it; ST_IO. */
#ifndef DAEMON_STATE_DIR_H
#define DAEMON_STATE_DIR_H

#include "base/status.h"

typedef struct state_dir {
    char *path; /* absolute, without links */
    int lock;   /* descriptor */
} state_dir;

/* Makes it (mode 0700, with its parents) where it is not there. */
STATUS_CHECKED status state_dir_open(state_dir *d, const char *path);
void state_dir_close(state_dir *d);

#endif
