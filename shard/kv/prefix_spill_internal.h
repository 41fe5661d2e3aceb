/* Inside of the book of files: what prefix_spill.c and prefix_spill_restore.c share. */
#ifndef SHARD_KV_PREFIX_SPILL_INTERNAL_H
#define SHARD_KV_PREFIX_SPILL_INTERNAL_H

#include "shard/kv/prefix_spill.h"

typedef struct spill_file {
    uint8_t key[SPILL_KEY_BYTES];
    uint32_t kind;
    uint32_t references; /* of the tree and of what is being read */
    uint64_t write;      /* its place among all operations that were ever due + 1; 0: written */
    uint32_t next_free;
} spill_file;

/* Writes and removals in the order in which they must happen. */
typedef struct due_op {
    spill_op op;
    uint32_t file;
    bool cancelled;
} due_op;

typedef struct spill_load {
    bool active, failed;
    uint32_t pages, next; /* next: of 2 · pages, a kind after the other */
    uint32_t *tokens;
    prefix_chain chain;
    uint32_t *page[KV_KINDS], *file[KV_KINDS]; /* [pages] */
} spill_load;

struct prefix_spill {
    prefix_spill_options o;
    prefix_cache *disk;
    spill_file *file;
    uint32_t files, free_files, free_file, fresh_file; /* from fresh_file on none was ever used */
    due_op *due;
    uint64_t due_before; /* operations that came before due[0] */
    uint32_t due_first, due_count, due_cap;
    spill_op *op; /* of this step */
    uint32_t *op_file, op_count, op_cap;
    uint64_t step_bytes;
    spill_load load;
    uint64_t loaded_for;
    bool has_loaded;
    prefix_spill_statistics state;
};

uint32_t spill_file_take(prefix_spill *s, kv_kind kind, const uint8_t *key);
/* A file that nobody refers to; on_disk: ranks are to remove it. */
void spill_file_give_back(prefix_spill *s, uint32_t id, bool on_disk);
/* The points used longest ago go until the limit holds. */
void spill_keep_limit(prefix_spill *s);
/* Rebuilds the tree from the headers that were found. */
void prefix_spill_restore(prefix_spill *s);

#endif
