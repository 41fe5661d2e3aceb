/* Allocation that never returns NULL for want of memory: a process whose small allocations fail cannot serve, and says
 * so with INVARIANT. Large memory (weights, KV, activations) is not taken here but with memory_map, which fails politely.
 *
 * Threads: any. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stddef.h>
#include "base/status.h"

void *memory_alloc(size_t bytes);                /* zeroed; free() releases */
void *memory_alloc_array(size_t n, size_t size); /* zeroed; n · size is checked */
void *memory_grow(void *old, size_t bytes);      /* realloc; new bytes are not zeroed */
char *memory_copy_string(const char *text);

/* Anonymous pages, zero until touched, aligned to 2 MiB when that large, huge pages asked for. ST_NO_MEMORY with the
 * size when the system refuses. Release with memory_unmap of the same size; NULL is fine. */
STATUS_CHECKED status memory_map(void **out, size_t bytes);
void memory_unmap(void *pages, size_t bytes);

#endif
