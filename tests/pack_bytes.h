/* A small packed file in memory, and its hashes made right again after a change.
 *
 * Memory:  the caller's. */
#ifndef TESTS_PACK_BYTES_H
#define TESTS_PACK_BYTES_H

#include <stdint.h>
#include <string.h>

#include "shard/pack/pack_parts.h"

static inline uint32_t pack_bytes_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Magic and hashes, so that what is behind them is reached. A table that goes beyond the file keeps its hash. */
static inline void pack_bytes_seal(uint8_t *bytes, uint64_t n) {
    if (n < PACK_HEADER_BYTES) return;
    uint64_t table = (uint64_t)pack_bytes_u32(bytes + AT_PARTS) * PACK_PART_BYTES;
    if (table <= n - PACK_HEADER_BYTES) pack_hash(bytes + PACK_HEADER_BYTES, table, bytes + AT_TABLE_HASH);
    pack_hash(bytes, AT_HEADER_HASH, bytes + AT_HEADER_HASH);
}

#endif
