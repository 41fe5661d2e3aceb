/* GGUF (versions 2 and 3, little-endian): one file that holds a whole model. Its header (metadata and the places of
 * tensors) is read and checked whole: counts, lengths, types, offsets, alignment, overlaps, against the file's size and
 * before anything is allocated for them. Tensor data is not touched.
 *
 * Memory:  gguf_open maps the file, gguf_parse borrows the caller's bytes; texts, arrays and data point into either.
 *          gguf_close releases; NULL is fine.
 * Threads: read-only after open.
 * Errors:  ST_FORMAT naming file, key or tensor, value and bound; ST_UNSUPPORTED for versions, tensor types and arrays
 *          of arrays that are not read; ST_NOT_FOUND or ST_IO. Unless ST_OK, outputs are unchanged. */
#ifndef BASE_GGUF_H
#define BASE_GGUF_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The numbers are the format's own. */
typedef enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES,
} gguf_type;

/* What the format calls a tensor's type, by its number in files: names, and bytes of a block of elements. */
typedef struct gguf_format {
    uint32_t number;
    const char *name; /* "Q4_K" */
    uint32_t block_elements, block_bytes;
} gguf_format;

typedef struct gguf_text {
    const char *at; /* not NUL-terminated, any bytes */
    size_t size;
} gguf_text;

typedef struct gguf_value {
    const char *key; /* printable ASCII */
    gguf_type type;  /* of the items, where `array` */
    bool array;
    uint64_t count; /* of items; 1 where not `array` */
    const uint8_t *at;
    uint64_t bytes;
} gguf_value;

typedef struct gguf_tensor {
    const char *name; /* printable ASCII */
    const gguf_format *format;
    uint32_t dims;          /* 1 … 4 */
    uint64_t shape[4];      /* as files have it: the dimension that lies together first */
    uint64_t offset, bytes; /* in the file */
} gguf_tensor;

typedef struct gguf {
    char *name;           /* for messages */
    const uint8_t *bytes; /* [file_bytes] */
    uint64_t file_bytes, header_bytes;
    uint32_t version, value_count, tensor_count;
    gguf_value *values;   /* in the order of keys */
    gguf_tensor *tensors; /* in the order of names */
    bool mapped;
} gguf;

/* In a packed directory: the GGUF file that it was made of, with a hole where most tensors had their data. */
#define GGUF_METADATA_NAME "metadata.gguf"

/* Whether a model's path leads to a file, which can only be a GGUF file, and not to a directory. */
bool gguf_is_path(const char *path);
/* directory/metadata.gguf where there is one, the caller's to free(); else NULL. */
char *gguf_metadata_path(const char *directory);
STATUS_CHECKED status gguf_open(gguf **out, const char *path);
/* From the bytes of a whole file: what the fuzz target calls. name is for messages. */
STATUS_CHECKED status gguf_parse(gguf **out, const uint8_t *bytes, uint64_t n, const char *name);
void gguf_close(gguf *g);
/* SHA-256 over the header and the file's size. */
void gguf_hash(const gguf *g, uint8_t digest[32]);

const gguf_value *gguf_find(const gguf *g, const char *key);          /* NULL: not there */
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name); /* NULL: not there */

/* A key that is absent leaves *out as it was and returns ST_OK for the _optional calls, ST_FORMAT for the others. An
 * integer may be stored in any integer type; so may a truth value of gguf_read_u32s, which then is 0 or 1. */
STATUS_CHECKED status gguf_read_u32(const gguf *g, const char *key, uint32_t least, uint32_t most,
                                    uint32_t *out);
STATUS_CHECKED status gguf_read_u32_optional(const gguf *g, const char *key, uint32_t least, uint32_t most,
                                             uint32_t *out);
STATUS_CHECKED status gguf_read_double_optional(const gguf *g, const char *key, double least, double most,
                                                double *out);
STATUS_CHECKED status gguf_read_bool_optional(const gguf *g, const char *key, bool *out);
STATUS_CHECKED status gguf_read_text_optional(const gguf *g, const char *key, gguf_text *out);
/* out[count]: an array of that length, or one number for all. */
STATUS_CHECKED status gguf_read_u32s(const gguf *g, const char *key, uint32_t least, uint32_t most,
                                     uint32_t count, uint32_t *out);
/* An array of this type; ST_FORMAT when there is none. */
STATUS_CHECKED status gguf_read_array(const gguf *g, const char *key, gguf_type type, const gguf_value **out);

/* Steps through an array of texts: *at begins as value->at; call it value->count times. */
gguf_text gguf_next_text(const uint8_t **at);
/* Item i of an array (0 of a scalar) of integers or truth values; false: of another type, or outside of int64. */
bool gguf_integer(const gguf_value *v, uint64_t i, int64_t *out);
bool gguf_text_is(gguf_text text, const char *want);

#endif
