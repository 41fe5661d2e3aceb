/* The command lines of gemmad-shard and of the launcher around it.
 * Memory:  a command owns its words.
 * Errors:  ST_INVALID, ST_UNSUPPORTED naming the option. */
#ifndef DAEMON_ENGINE_COMMAND_H
#define DAEMON_ENGINE_COMMAND_H

#include <stdint.h>
#include "base/status.h"
#include "daemon/engine/engine.h"

typedef struct command {
    char **word; /* [count], NULL-terminated: an argv */
    uint32_t count, capacity;
} command;

typedef struct command_paths {
    const char *link_address, *secret_file;
    const char *scratch; /* where mpirun and MPI put their files */
} command_paths;

void command_add(command *c, const char *word);
void command_add_format(command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Splits at spaces; '…' and "…" keep theirs. */
STATUS_CHECKED status command_add_words(command *c, const char *text);
void command_close(command *c);

/* What can be said of the options without starting anything. */
STATUS_CHECKED status command_check_options(const engine_options *o);
STATUS_CHECKED status command_plan(command *c, const engine_options *o);
STATUS_CHECKED status command_serve(command *c, const engine_options *o, const command_paths *p);

#endif
