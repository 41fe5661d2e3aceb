/* Between safetensors.c (one header), checkpoint.c (the set of files), checkpoint_gguf.c (a GGUF file instead) and
 * checkpoint_read.c (their bytes).
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

/* What a tensor is read in: elements of F32, BF16 and F16, else blocks. Not of TENSOR_OTHER. */
uint32_t tensor_unit_elements(tensor_type type);
uint32_t tensor_unit_bytes(tensor_type type);

/* The name is copied. */
void checkpoint_add_tensor(checkpoint *c, const tensor *t);
/* Opens f->path and takes its size. */
STATUS_CHECKED status checkpoint_open_file(checkpoint_file *f);
/* One file, its tensors under their published names, and the hash. */
STATUS_CHECKED status checkpoint_open_gguf(checkpoint *c, const char *path);

#endif
