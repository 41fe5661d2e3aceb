/* A folder of *.safetensors (one file, or several with model.safetensors.index.json), or one GGUF file, opened for
 * reading parts of tensors. Headers are read and checked whole at open: lengths, offsets, overlaps, gaps, dtypes and
 * shapes, against the file's size; data is read only when asked for.
 *
 * A GGUF file's tensors have the names and shapes that published safetensors give them
 * ("model.language_model.layers.0.self_attn.q_proj.weight"). A name without such a counterpart stays as it is;
 * rope_freqs.weight, which belongs to the configuration (model/config.h), is left out.
 *
 * Memory:  checkpoint_open allocates; checkpoint_close unmaps and releases; tensors point into it.
 * Threads: after open, checkpoint_read_slice may run on any number of threads at once (pread; counters are atomic).
 * Errors:  ST_NOT_FOUND, ST_FORMAT or ST_UNSUPPORTED naming file, tensor, value and bound. */
#ifndef SHARD_LOADER_CHECKPOINT_H
#define SHARD_LOADER_CHECKPOINT_H

#include "base/status.h"
#include "shard/kernels/block_formats.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* From TENSOR_Q4_0 on: blocks, in the order of block_format. */
typedef enum tensor_type {
    TENSOR_F32,
    TENSOR_BF16,
    TENSOR_F16,
    TENSOR_OTHER,
    TENSOR_Q4_0,
    TENSOR_Q4_1,
    TENSOR_Q5_0,
    TENSOR_Q5_1,
    TENSOR_Q8_0,
    TENSOR_Q4_K,
    TENSOR_Q5_K,
    TENSOR_Q6_K,
    TENSOR_TYPES
} tensor_type;

static inline bool tensor_is_blocks(tensor_type type) { return type >= TENSOR_Q4_0; }
static inline block_format tensor_block_format(tensor_type type) {
    return (block_format)(type - TENSOR_Q4_0);
}
/* Bytes of the elements, or of the blocks touched, of columns begin … end - 1 of a row; not of TENSOR_OTHER. */
uint64_t tensor_column_bytes(tensor_type type, uint64_t begin, uint64_t end);
/* Bytes of a row of this length; a part of a block counts whole. */
static inline uint64_t tensor_row_bytes(tensor_type type, uint64_t cols) {
    return tensor_column_bytes(type, 0, cols);
}

typedef struct tensor {
    const char *name;
    const char *dtype; /* as the header writes it: "BF16", "I32", … */
    tensor_type
        type;      /* TENSOR_OTHER: any other dtype, or more than 4 dimensions; such a tensor is not read */
    uint32_t dims; /* 0 ... 8 */
    uint64_t shape[4]; /* the first 4 */
    uint64_t bytes;
    uint32_t file;   /* index into the checkpoint's files */
    uint64_t offset; /* of its first byte in that file */
} tensor;

typedef struct checkpoint checkpoint;

/* path is a directory, or a GGUF file. */
STATUS_CHECKED status checkpoint_open(checkpoint **out, const char *path);
/* Tensors without a file, for measurements on weights that are filled in elsewhere: names, shapes and types are copied,
 * offsets count in a file that nobody stored. What is mapped reads as zeros; nothing can be read. */
STATUS_CHECKED status checkpoint_open_table(checkpoint **out, const tensor *tensors, uint32_t count);
void checkpoint_close(checkpoint *c);

uint32_t checkpoint_tensor_count(const checkpoint *c);
const tensor *checkpoint_tensor(const checkpoint *c, uint32_t index); /* in the order of names */
const tensor *checkpoint_find(const checkpoint *c, const char *name); /* NULL: not there */
const char *checkpoint_file_name(const checkpoint *c, uint32_t file); /* without the directory */
/* SHA-256 over config.json, every safetensors header and every file's size; of a GGUF file, over its header and
 * size. */
void checkpoint_hash(const checkpoint *c, uint8_t digest[32]);

/* A block of a tensor viewed as [outer, rows, cols] (2-dimensional: outer 1; 1-dimensional: one row; 0: one element):
 * half-open ranges in each. Row major, densely packed into out, converted to `type` (exact, or an error: f32 to bf16 is
 * not offered). Blocks are read as TENSOR_F32, whatever the columns, or as they are: then col_begin is a multiple of the
 * block's elements, col_end one or the row's end, and out has rows of whole blocks. */
typedef struct tensor_slice {
    uint64_t outer_begin, outer_end, row_begin, row_end, col_begin, col_end;
} tensor_slice;
/* out has rows × tensor_row_bytes(type, columns). Bytes copied (of blocks touched) are added to checkpoint_bytes_read;
 * bytes read beside them because short strided runs are cheaper in one stretch, to checkpoint_bytes_skipped. */
STATUS_CHECKED status checkpoint_read_slice(checkpoint *c, const tensor *t, const tensor_slice *slice,
                                            tensor_type type, void *out);
uint64_t checkpoint_bytes_read(const checkpoint *c);
uint64_t checkpoint_bytes_skipped(const checkpoint *c);
/* The tensor's bytes in the mapped file (for tables that are looked up, not loaded). */
STATUS_CHECKED status checkpoint_map(checkpoint *c, const tensor *t, const void **out);

/* One safetensors header from bytes: `header` is what follows the 8-byte length; file_bytes the size of the whole file.
 * Calls add for every tensor, in the order of their bytes, once all of them have been checked; the name lives as long
 * as the call. What the fuzz target calls. */
STATUS_CHECKED status safetensors_parse_header(const char *header, uint64_t header_bytes, uint64_t file_bytes,
                                               const char *file_name,
                                               status (*add)(void *context, const tensor *t), void *context);

#endif
