/* gemmad's life: opens models, engines, the core and the server, runs the loop until it is told to stop, and
 * ends everything in order. One per process.
 *
 * Memory:  all within service_run.
 * Threads: main thread; the loop is its own. */
#ifndef DAEMON_SERVICE_H
#define DAEMON_SERVICE_H

#include "daemon/settings.h"

/* The exit codes of gemmad. */
enum { EXIT_STOPPED = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_REFUSED = 3, EXIT_TAKEN = 4 };

/* The exit code; whatever is not EXIT_STOPPED has said why on standard error. */
int service_run(const settings *s);
/* The exit code that goes with a failure to start. */
int service_exit_code(status st);

#endif
