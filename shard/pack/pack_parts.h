/* Between pack_file.c, which reads headers and tables, and pack_write.c, which writes them. Nothing else but tests includes this.
 *
 * Memory:  callers'. */
#ifndef SHARD_PACK_PACK_PARTS_H
#define SHARD_PACK_PACK_PARTS_H

#include "shard/pack/pack_file.h"

/* Where fields of the header lie. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_PARTS = 12,
    AT_RANK = 16,
    AT_RANKS = 20,
    AT_FILE_BYTES = 24,
    AT_STORAGE = 32,
    STORAGE_BYTES = 32,
    AT_LAYOUT = 64,
    LAYOUT_BYTES = 64,
    AT_CONFIG_HASH = 128,
    AT_CHECKPOINT_HASH = 160,
    AT_TABLE_HASH = 192,
    AT_HEADER_HASH = 480,
};
/* … and of a part. */
enum {
    AT_PART_FORM = 96,
    AT_PART_TYPE = 100,
    AT_PART_ROWS = 104,
    AT_PART_COLS = 108,
    AT_PART_OFFSET = 112,
    AT_PART_BYTES = 120,
    AT_PART_HASH = 128,
};
_Static_assert(AT_HEADER_HASH + 32 == PACK_HEADER_BYTES && AT_PART_HASH + 32 == PACK_PART_BYTES, "all of it");

#define PACK_MAGIC "GEMMADPK"

/* Types as files number them; from PACK_TYPE_BLOCKS on: blocks, in the order of block_format. */
enum {
    PACK_TYPE_F32,
    PACK_TYPE_BF16,
    PACK_TYPE_F16,
    PACK_TYPE_Q8,
    PACK_TYPE_Q4,
    PACK_TYPE_FP8,
    PACK_TYPE_BLOCKS = 16,
    PACK_TYPES = PACK_TYPE_BLOCKS + BLOCK_FORMATS
};

static inline uint64_t pack_aligned(uint64_t bytes) {
    return (bytes + PACK_ALIGN - 1) / PACK_ALIGN * PACK_ALIGN;
}
static inline uint64_t pack_data_begin(uint32_t parts) {
    return pack_aligned(PACK_HEADER_BYTES + (uint64_t)parts * PACK_PART_BYTES);
}
static inline uint64_t pack_part_bytes(const weight *m) {
    if (!m->rows || !m->cols) return 0;
    if (m->type != WEIGHT_BLOCKS) return weight_rows_bytes(m->type, m->rows, m->cols);
    return (uint64_t)m->rows * m->cols / block_elements(m->blocks) * block_bytes(m->blocks);
}
void pack_hash(const void *bytes, uint64_t n, uint8_t digest[32]);

#endif
