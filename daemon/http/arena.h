/* Memory of one request, released at once.
 * Threads: one at a time. */
#ifndef DAEMON_HTTP_ARENA_H
#define DAEMON_HTTP_ARENA_H

#include <stddef.h>

typedef struct arena {
    struct arena_block *block; /* NULL: empty */
} arena;

void *arena_alloc(arena *a, size_t n, size_t size);         /* zeroed; n · size is checked; never NULL */
char *arena_copy(arena *a, const void *text, size_t bytes); /* with a NUL behind */
void arena_close(arena *a);

#endif
