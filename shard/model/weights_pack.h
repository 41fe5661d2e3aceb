/* Weights out of and into packed files (pack/pack_file.h): the same bits in memory as the checkpoint gave when it was packed.
 *
 * Memory:  weights of a packed file are its mapping, read-only and shared with every process that maps it;
 *          model_weights_close unmaps. On a device: one block with a copy of the file and of the tables.
 * Threads: loading and writing are spread over `threads` threads inside.
 * Errors:  as pack_file.h; ST_FORMAT names the part that config and layout want otherwise. */
#ifndef SHARD_MODEL_WEIGHTS_PACK_H
#define SHARD_MODEL_WEIGHTS_PACK_H

#include "shard/model/weights.h"
#include "shard/pack/pack_file.h"

typedef struct weights_pack_options {
    uint32_t threads;
    const char *say; /* what a log line of progress begins with; NULL: no lines */
    backend *device;             /* as in model_weights_options */
    const device_load_ops *load;
    uint64_t piece_bytes;
} weights_pack_options;

/* file is taken over, also by a failure; tables is the file of what every rank shares, NULL where the pack has none. */
STATUS_CHECKED status weights_pack_open(model_weights **out, pack_file *file, pack_file *tables,
                                        const model_config *config, const layout *l,
                                        const weights_pack_options *options);

/* What weights_pack_open takes of a device: for a file of so many bytes, and tables, which may be NULL. */
uint64_t weights_pack_device_bytes(uint64_t file_bytes, const pack_file *tables);

/* One rank's share to path. info has config_hash and checkpoint_hash; the rest is the layout's. */
STATUS_CHECKED status weights_pack_write(const char *path, model_weights *w, const model_config *config, const layout *l,
                                         const pack_info *info, const weights_pack_options *options,
                                         uint8_t head_hash[32], uint64_t *file_bytes);
/* What every rank shares, from the weights of any; *file_bytes is 0, and nothing written, where there is nothing. */
STATUS_CHECKED status weights_pack_write_tables(const char *path, model_weights *w, const model_config *config,
                                                const layout *l, const pack_info *info,
                                                const weights_pack_options *options, uint8_t head_hash[32],
                                                uint64_t *file_bytes);

#endif
