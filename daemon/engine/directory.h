/* The folder of one engine below the state directory: record, log, secret, link socket; and its scratch
 * folder on shared memory for what MPI needs.
 *
 *     STATE/engines/tiny-dense@0/{engine.json, engine.log, engine.log.1, secret, link.sock}
 *     /dev/shm/gemmad-XXXXXX/
 *
 * Memory:  a plain struct, large: keep it on the heap.
 * Errors:  directory_open leaves nothing but the folder and the log of the last engine. ST_IN_USE: a living
 *          gemmad, or an engine that would not end. */
#ifndef DAEMON_ENGINE_DIRECTORY_H
#define DAEMON_ENGINE_DIRECTORY_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "proto/limits.h"

typedef struct engine_directory {
    char path[PATH_MAX], record_file[PATH_MAX], log_file[PATH_MAX], secret_file[PATH_MAX];
    char socket_path[108], link_address[128], scratch[64];
    uint8_t secret[LIMIT_SECRET_BYTES];
    bool has_secret; /* the file is ours */
} engine_directory;

/* Ends what a dead gemmad left running there, then makes a new secret. */
STATUS_CHECKED status directory_open(engine_directory *d, const char *state_dir, const char *id);
/* Takes secret, socket and scratch away; record and log stay for people to read. */
void directory_close(engine_directory *d);
/* Removes a scratch folder with all in it, if it is one of ours ("gemmad-…"); nothing else is ever
 * removed. */
void directory_remove_scratch(const char *path);

#endif
