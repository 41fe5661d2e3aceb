/* One file of a packed model: matrices, vectors and numbers as a rank holds them in memory, so that they are mapped and used in
 * place.
 *
 *     header, 512 bytes   see pack_file.c; ends with the SHA-256 of what is before it
 *     table               160 bytes a part: name, form, type, rows, columns, offset, bytes, SHA-256 of its data
 *     data                each part on the next multiple of 64 bytes, in the table's order, gaps zero; the file ends with one
 *
 * Numbers are little-endian. Header and table are checked whole at open: magic, version, storage class, both hashes, and of
 * every part form, type, shape, place and length, against each other and the file's size. Data is checked by
 * pack_file_verify alone, since hashing takes longer than everything else of a start.
 *
 * Memory:  pack_file_open maps the file, pack_file_parse borrows the caller's bytes; pack_file_close releases; NULL is fine.
 *          A mapped file that somebody cuts short while it is served ends the process (SIGBUS), as with every mapping.
 * Threads: read-only after open.
 * Errors:  ST_FORMAT naming file, part, value and bound; ST_UNSUPPORTED for another version; ST_MISMATCH for another storage
 *          class; ST_NOT_FOUND or ST_IO. */
#ifndef SHARD_PACK_PACK_FILE_H
#define SHARD_PACK_PACK_FILE_H

#include "base/progress.h"
#include "base/status.h"
#include "shard/kernels/weight.h"

enum {
    PACK_VERSION = 1,
    PACK_ALIGN = 64,
    PACK_HEADER_BYTES = 512,
    PACK_PART_BYTES = 160,
    PACK_NAME_BYTES = 96,
    PACK_PARTS_MAX = 1 << 21,
};
#define PACK_SHARED_RANK UINT32_MAX /* of a file that every rank maps */
/* What bytes mean depends on how kernels want quantised matrices laid out (kernels/weight.h) and on the order of bytes, and
 * on nothing else of the processor. A new layout gets a new name. */
#define PACK_STORAGE "strips16-le"

typedef enum pack_form { PACK_VECTOR, PACK_MATRIX, PACK_NUMBER, PACK_TABLE, PACK_FORMS } pack_form;

typedef struct pack_part {
    char name[PACK_NAME_BYTES]; /* "layers.3.experts.17.down" */
    pack_form form;
    weight matrix;   /* shape and type; data points into the file; a vector is one row of WEIGHT_F32 */
    uint64_t offset; /* in the file; 0 of a part without bytes */
    uint64_t bytes;
    uint8_t sha256[32];
} pack_part;

typedef struct pack_info {
    uint32_t rank, ranks;
    char layout[64]; /* layout_describe's */
    uint8_t config_hash[32], checkpoint_hash[32];
} pack_info;

typedef struct pack_file {
    char *name; /* for messages */
    const uint8_t *bytes;
    uint64_t file_bytes;
    pack_info info;
    pack_part *part; /* [parts] */
    uint32_t parts;
    uint8_t head_hash[32]; /* SHA-256 of header and table: what pack.json holds */
    bool mapped;
    int fd; /* of the mapped file; -1: the bytes are the caller's */
} pack_file;

STATUS_CHECKED status pack_file_open(pack_file **out, const char *path);
/* From the bytes of a whole file: what the fuzz target calls. name is for messages. */
STATUS_CHECKED status pack_file_parse(pack_file **out, const uint8_t *bytes, uint64_t n, const char *name);
void pack_file_close(pack_file *f);
/* Takes the mapping out of the file: memory_unmap(f->bytes, f->file_bytes) is then the caller's to call. */
void pack_file_keep_mapping(pack_file *f);

/* n bytes at offset, by a read of its own and not through the mapping: for weights that are on their way to a device. */
STATUS_CHECKED status pack_file_read(const pack_file *f, uint64_t offset, void *out, uint64_t n);
/* Brings the whole mapped file into memory, each page once, on several threads. */
STATUS_CHECKED status pack_file_load(const pack_file *f, uint32_t threads, progress *p);
/* Hashes the data of every part. */
STATUS_CHECKED status pack_file_verify(const pack_file *f, uint32_t threads, progress *p);

/* Bytes of the file that these parts come to; fills in their offsets and bytes. */
uint64_t pack_file_place(pack_part *part, uint32_t parts);
/* Writes path by way of path.new, which is synced and renamed once it is whole. Parts are placed and have their data;
 * fills in their hashes. */
STATUS_CHECKED status pack_file_write(const char *path, const pack_info *info, pack_part *part, uint32_t parts,
                                      uint32_t threads, progress *p, uint8_t head_hash[32]);

#endif
