/* gemmad --dry-run: prints what gemmad-shard plans for each model, or for a published size.
 * Threads: main thread, before the loop; blocking.
 * Errors:  as engine_plan's. */
#ifndef DAEMON_DRY_RUN_H
#define DAEMON_DRY_RUN_H

#include "daemon/settings.h"

STATUS_CHECKED status dry_run(const settings *s);

#endif
