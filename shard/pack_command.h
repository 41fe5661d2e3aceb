/* `gemmad-shard pack`: a checkpoint's weights as a directory that is mapped and used in place (pack/pack_manifest.h), and its
 * data held against its hashes.
 *
 * Memory:  one rank's share at a time.
 * Errors:  an interrupted pack leaves a directory without pack.json, which the next one writes over. */
#ifndef SHARD_PACK_COMMAND_H
#define SHARD_PACK_COMMAND_H

#include "base/status.h"

/* argv[0] is "pack". Returns the process's exit code: 0 done, 1 failure, 2 usage, 3 model or layout refused. */
int pack_command(int argc, char **argv);

#endif
