/* Another program, run to its end: bytes in, bytes out.
 *
 * Memory:  out is the caller's to strbuf_close.
 * Threads: main thread; an interrupt of client.h ends the program.
 * Errors:  ST_NOT_FOUND when there is no such program, ST_TIMEOUT with the seconds, ST_FORMAT when it writes more than
 *          out->max, ST_CANCELLED after an interrupt; the program and what it started in its group are ended then. */
#ifndef CTL_CHILD_H
#define CTL_CHILD_H

#include "base/status.h"
#include "base/strbuf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct child_options {
    const char *const *argv; /* NULL at the end; argv[0] is looked up in PATH unless it has a slash */
    const void *input;       /* its standard input, [input_bytes] */
    size_t input_bytes;
    uint32_t timeout_ms; /* 0: none */
    bool both;           /* standard error goes to out as well, else it stays ours */
} child_options;

/* *exit_code: of the program; 128 + the signal that ended it. out->max should be set. */
STATUS_CHECKED status child_run(const child_options *options, strbuf *out, int *exit_code);

#endif
