/* gemmad --dry-run: prints what gemmad-shard plans for each model, or for a published size.
 * Threads: main thread, before the loop; blocking.
 * Errors:  as engine_plan's. */
#ifndef DAEMON_DRY_RUN_H
#define DAEMON_DRY_RUN_H

#include "daemon/engine/engine.h"
#include "daemon/settings.h"

STATUS_CHECKED status dry_run(const settings *s);
/* What the options of one model mean to an engine; id, state_dir and grace are the caller's to set. */
engine_options settings_engine_options(const gemmad_options *o, const char *path);

#endif
