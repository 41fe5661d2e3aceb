/* The JSON record of one engine, in its directory: who runs it, and how it ended. The keeper writes it; a
 * gemmad that comes after a dead one reads it to find what that one left.
 * Errors:  record_read: ST_NOT_FOUND, ST_FORMAT. A record is replaced in one step: a reader sees the old or
 *          the new. */
#ifndef DAEMON_ENGINE_RECORD_H
#define DAEMON_ENGINE_RECORD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/status.h"

typedef struct record_process {
    pid_t pid;           /* 0: none */
    uint64_t start_time; /* process_start_time() */
} record_process;

typedef struct engine_record {
    char id[64];
    record_process gemmad, keeper, launcher;
    char socket[4096], secret_file[4096], log[4096];
    char scratch[4096]; /* shared-memory and session files of the launcher; "" for none */
    bool ended;
    int exit_code; /* of the launcher; 128 + signal when a signal ended it */
} engine_record;

STATUS_CHECKED status record_write(const char *path, const engine_record *r);
STATUS_CHECKED status record_read(const char *path, engine_record *out);

#endif
