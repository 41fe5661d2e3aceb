#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/invariant.h"

void *memory_alloc(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    INVARIANT(p != NULL);
    return p;
}

void *memory_alloc_array(size_t n, size_t size) {
    INVARIANT(size == 0 || n <= SIZE_MAX / size);
    return memory_alloc(n * size);
}

void *memory_grow(void *old, size_t bytes) {
    void *p = realloc(old, bytes ? bytes : 1);
    INVARIANT(p != NULL);
    return p;
}

char *memory_copy_string(const char *text) {
    size_t n = strlen(text) + 1;
    return memcpy(memory_alloc(n), text, n);
}

status memory_map(void **out, size_t bytes) {
    *out = NULL;
    if (bytes == 0) return ST_OK;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return fail_errno(ST_NO_MEMORY, "cannot map %zu bytes", bytes);
    if (bytes >= (size_t)2 << 20) (void)madvise(p, bytes, MADV_HUGEPAGE); /* a hint: not all kernels have it */
    *out = p;
    return ST_OK;
}

void memory_unmap(void *pages, size_t bytes) {
    if (pages && bytes) munmap(pages, bytes);
}
