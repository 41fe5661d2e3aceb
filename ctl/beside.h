/* The other programs of this build, which lie beside gemmactl.
 *
 * Memory:  *out is the caller's to free().
 * Errors:  ST_NOT_FOUND naming the path. */
#ifndef CTL_BESIDE_H
#define CTL_BESIDE_H

#include <stdbool.h>
#include "base/status.h"

STATUS_CHECKED status beside_path(char **out, const char *program);
/* Whether argv[at …] is a command that gemmad-shard runs: bench prefill, bench decode, bench --write, pack. */
bool beside_is_measurement(int argc, char **argv, int at);
/* Becomes gemmad-shard with these arguments; returns only on failure. json: --json stood before the command. */
STATUS_CHECKED status beside_measure(int argc, char **argv, int at, bool json);

#endif
