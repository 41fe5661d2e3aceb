/* pack.json: what a packed directory is for, and which files it has. Written last, so that a directory that has one is whole.
 *
 *     rank-R-of-N.pack            one a rank (pack_file.h)
 *     tables.pack                 what every rank maps: per-layer embeddings, and the embedding of a GGUF file where
 *                                 its matrix rounds it; only where there are such
 *     config.json, tokenizer.json, … as the checkpoint had them
 *
 * Memory:  the struct is the caller's; nothing to release.
 * Threads: any.
 * Errors:  ST_FORMAT naming file, key, value and bound; ST_UNSUPPORTED for another version. */
#ifndef SHARD_PACK_PACK_MANIFEST_H
#define SHARD_PACK_PACK_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "proto/limits.h"
#include "shard/pack/pack_file.h"

#define PACK_MANIFEST_NAME "pack.json"
#define PACK_TABLES_NAME "tables.pack"

enum { PACK_FILE_NAME_BYTES = 32, PACK_SOURCE_BYTES = 4096, PACK_WORD_BYTES = 8 };

typedef struct pack_entry {
    uint64_t bytes;
    uint8_t head_hash[32]; /* pack_file.h; 0 bytes: there is no such file */
} pack_entry;

typedef struct pack_manifest {
    uint32_t ranks, group, expert_degree, width_degree;
    char layout[64];                /* layout_describe's */
    char weights[PACK_WORD_BYTES];  /* --weights when it was packed */
    char stored[PACK_WORD_BYTES];   /* type of the matrices that it was packed from: "bf16" */
    uint8_t config_hash[32], checkpoint_hash[32];
    char source[PACK_SOURCE_BYTES]; /* --model when it was packed */
    pack_entry tables, rank[LIMIT_RANKS]; /* [ranks] */
    uint8_t hash[32];               /* SHA-256 of pack.json's bytes */
} pack_manifest;

/* Whether the directory has one. */
bool pack_manifest_exists(const char *directory);
STATUS_CHECKED status pack_manifest_read(pack_manifest *out, const char *directory);
/* The same from bytes: what the fuzz target calls. where is for messages. */
STATUS_CHECKED status pack_manifest_parse(pack_manifest *out, const char *bytes, size_t n, const char *where);
/* Written, synced and renamed into place, and the directory synced. */
STATUS_CHECKED status pack_manifest_write(const pack_manifest *m, const char *directory);

/* "rank-1-of-2.pack", or tables.pack for PACK_SHARED_RANK. */
void pack_rank_name(uint32_t rank, uint32_t ranks, char name[PACK_FILE_NAME_BYTES]);
/* Opens a rank's file, or the tables, and holds it against the manifest. */
STATUS_CHECKED status pack_manifest_open(const pack_manifest *m, const char *directory, uint32_t rank, pack_file **out);

#endif
