/* Cached pages on one rank's disk: DIR/<identity>/<rank>/<key>.<kind>, one file a page, named by the text it was computed
 * for, so that it is worth the same to whoever finds it. A file has a checksum over its header and one over its bytes;
 * what is torn, foreign or of another size is no page. The folder may be deleted at any time.
 *
 * Memory:  a path; pages are the caller's.
 * Threads: engine thread of the rank. Several engines may share a folder: files appear whole, by renaming.
 * Errors:  spill_open: ST_IO with the path. spill_write: ST_IO, and no file. spill_read: ST_NOT_FOUND, ST_IO, or ST_FORMAT
 *          after which the file is gone; the page's bytes are then undefined. */
#ifndef SHARD_KV_SPILL_H
#define SHARD_KV_SPILL_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "shard/kv/geometry.h"

enum {
    SPILL_KEY_BYTES = 32,
    SPILL_HEADER_BYTES = 4096, /* in front of a page's bytes */
    SPILL_FILES_MAX = 1 << 18, /* of one rank that are taken notice of */
};

typedef struct spill_store spill_store;

typedef struct spill_page {
    uint8_t key[SPILL_KEY_BYTES], parent[SPILL_KEY_BYTES]; /* parent: zeros for a text's first page */
    uint32_t kind;                                         /* kv_kind */
    uint32_t token[KV_TOKENS_PER_PAGE];
    uint64_t used_ns;                                      /* wall clock; spill_list only */
} spill_page;

/* What the leader has every rank do before a step's rows, in this order. */
typedef enum spill_action { SPILL_WRITE, SPILL_READ, SPILL_REMOVE } spill_action;
typedef struct spill_op {
    uint32_t action;          /* spill_action */
    uint32_t page;            /* of the pool; SPILL_REMOVE: none */
    spill_page what;          /* SPILL_WRITE; the others: key and kind */
} spill_op;

/* identity: a name for everything that a page's bytes depend on beside its tokens, in letters that suit a file name. */
STATUS_CHECKED status spill_open(spill_store **out, const char *dir, const char *identity, uint32_t rank,
                                 const uint64_t page_bytes[KV_KINDS]);
void spill_close(spill_store *s); /* NULL is fine */

STATUS_CHECKED status spill_write(spill_store *s, const spill_page *page, const void *bytes);
STATUS_CHECKED status spill_read(spill_store *s, kv_kind kind, const uint8_t key[SPILL_KEY_BYTES], void *bytes);
void spill_remove(spill_store *s, kv_kind kind, const uint8_t key[SPILL_KEY_BYTES]);
/* The pages that lie there, least recently used first; *out is the caller's to free(). Whatever else lies there and is
 * not just being written is removed. Bytes are not read. */
STATUS_CHECKED status spill_list(spill_store *s, spill_page **out, uint32_t *count);

#endif
