#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/loader/checkpoint_parts.h"

static int by_name(const void *a, const void *b) {
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

status checkpoint_open_table(checkpoint **out, const tensor *tensors, uint32_t count) {
    checkpoint *c = memory_alloc(sizeof *c);
    INVARIANT(pthread_mutex_init(&c->map_lock, NULL) == 0);
    c->directory = memory_copy_string("(random weights)");
    c->tensors = memory_alloc_array(count, sizeof *c->tensors);
    c->tensor_count = count;
    c->files = memory_alloc(sizeof *c->files);
    c->file_count = 1;
    *c->files = (checkpoint_file){.name = memory_copy_string("(random weights)"),
                                  .path = memory_copy_string("(random weights)"),
                                  .fd = -1};
    for (uint32_t i = 0; i < count; i++) {
        c->tensors[i] = tensors[i];
        c->tensors[i].name = memory_copy_string(tensors[i].name);
        if (c->files->bytes < tensors[i].offset + tensors[i].bytes)
            c->files->bytes = tensors[i].offset + tensors[i].bytes;
    }
    qsort(c->tensors, count, sizeof *c->tensors, by_name);
    void *p = mmap(NULL, c->files->bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        status st = fail_errno(ST_NO_MEMORY, "cannot reserve addresses for %llu bytes",
                               (unsigned long long)c->files->bytes);
        checkpoint_close(c);
        return st;
    }
    c->files->mapping = p;
    *out = c;
    return ST_OK;
}
