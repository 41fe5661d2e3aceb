/* Libraries that a machine has or has not: loaded when they are first wanted, and never unloaded.
 *
 * Memory:  the table and the texts are the caller's.
 * Threads: any; one table by one thread at a time.
 * Errors:  ST_NOT_FOUND: none of the names could be loaded, with the loader's words for each. ST_UNSUPPORTED: one was loaded, and
 *          a function is not in it. The table is not touched then. */
#ifndef BASE_LIBRARY_H
#define BASE_LIBRARY_H

#include <stddef.h>

#include "base/status.h"

/* A pointer to the function `name` goes `at` bytes into the table. */
typedef struct library_function {
    const char *name;
    size_t at;
} library_function;

typedef struct library_wanted {
    const char *what;         /* "NCCL", for sentences */
    const char *const *names; /* file names, tried in this order; NULL behind the last */
    const library_function *functions;
    size_t count;
} library_wanted;

STATUS_CHECKED status library_load(const library_wanted *w, void *table);
/* The file that the bytes of a function come from; "" where the loader does not know. `function` points at the pointer. */
void library_path(const void *function, char *out, size_t size);

#endif
