/* Between safetensors.c (one header), checkpoint.c (the set of files) and checkpoint_read.c (their bytes).
 * Nothing else includes this.
 *
 * Threads: all of a checkpoint is constant after open but the counters, which are atomic, and mappings,
 * guarded by map_lock. */
#ifndef SHARD_LOADER_CHECKPOINT_PARTS_H
#define SHARD_LOADER_CHECKPOINT_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "shard/loader/checkpoint.h"

enum { SAFETENSORS_HEADER_MAX = 100000000 /* the format's own bound */ };

typedef struct checkpoint_file {
    char *name; /* without the directory */
    char *path;
    int fd;
    uint64_t bytes;
    void *mapping; /* of the whole file, made when first asked for; guarded by map_lock */
} checkpoint_file;

struct checkpoint {
    char *directory;
    checkpoint_file *files;
    uint32_t file_count;
    tensor *tensors; /* sorted by name; names are our own */
    uint32_t tensor_count, tensor_capacity;
    uint8_t hash[32];
    pthread_mutex_t map_lock;
    atomic_uint_fast64_t bytes_read, bytes_skipped;
};

uint32_t tensor_element_bytes(tensor_type type); /* not of TENSOR_OTHER */

#endif
