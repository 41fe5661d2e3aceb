#include "daemon/http/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

enum { BLOCK_BYTES = 4096 };

struct arena_block {
    struct arena_block *before;
    size_t used, size;
    alignas(max_align_t) unsigned char bytes[];
};

void *arena_alloc(arena *a, size_t n, size_t size) {
    const size_t unit = alignof(max_align_t);
    INVARIANT(size == 0 || n <= (SIZE_MAX / 2) / size);
    size_t want = (n * size + unit) / unit * unit;
    if (!a->block || a->block->size - a->block->used < want) {
        size_t room = want > BLOCK_BYTES ? want : BLOCK_BYTES;
        struct arena_block *b = memory_alloc(sizeof *b + room);
        b->before = a->block;
        b->size = room;
        a->block = b;
    }
    void *p = a->block->bytes + a->block->used;
    a->block->used += want;
    return p;
}

char *arena_copy(arena *a, const void *text, size_t bytes) {
    char *copy = arena_alloc(a, bytes + 1, 1);
    if (bytes > 0) memcpy(copy, text, bytes);
    return copy;
}

void arena_close(arena *a) {
    while (a->block) {
        struct arena_block *b = a->block;
        a->block = b->before;
        free(b);
    }
}
