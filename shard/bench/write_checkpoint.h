/* `gemmad-shard bench --write DIR`: a checkpoint of random weights as published ones are, for measurements of loading and of
 * everything else that needs one: config.json, model-….safetensors in bf16 and their index, without a tokenizer. The values
 * are those of weights_random.h.
 *
 * Memory:  one piece of a tensor for each thread.
 * Threads: writing is spread over `threads` threads.
 * Errors:  ST_EXISTS for a directory that has a checkpoint, ST_IO; the files of a write that failed are removed. */
#ifndef SHARD_BENCH_WRITE_CHECKPOINT_H
#define SHARD_BENCH_WRITE_CHECKPOINT_H

#include <stdint.h>

#include "base/status.h"

/* shape and layers as shape_write_config takes them. Says on standard output what was written and how fast. */
STATUS_CHECKED status bench_write_checkpoint(const char *directory, const char *shape, uint32_t layers, uint32_t threads);
/* The same of the text of a config.json, in files of at most file_bytes or one tensor, in pieces of piece_bytes; *bytes: of
 * all files. */
STATUS_CHECKED status bench_write_config(const char *directory, const char *config, uint64_t file_bytes,
                                         uint64_t piece_bytes, uint32_t threads, uint64_t *bytes);

#endif
