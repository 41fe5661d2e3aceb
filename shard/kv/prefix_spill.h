/* The leader's book of what the ranks keep on disk (kv/spill.h), beside the prefix cache in memory: a second tree of the
 * same kind whose pages are files. Points are written soon after they are made, a few pages a step, so that a page may be
 * given up at any time; a text that disk knows better than memory is read back before its request starts.
 *
 * Memory:  bounded by the number of files; requests to write hold references to pages.
 * Threads: engine thread of the leader.
 * Errors:  none: a file that cannot be read or written is a page that must be computed. */
#ifndef SHARD_KV_PREFIX_SPILL_H
#define SHARD_KV_PREFIX_SPILL_H

#include "shard/kv/prefix.h"
#include "shard/kv/spill.h"

typedef struct prefix_spill prefix_spill;

typedef struct prefix_spill_options {
    prefix_cache *memory;
    prefix_options like;                          /* what memory was opened with */
    bool (*take)(void *context, kv_kind kind, uint32_t *page); /* of like.pages: a free page with one reference */
    uint64_t file_bytes[KV_KINDS];                /* of one page on all ranks together */
    uint64_t limit_bytes;                         /* of all files */
    uint64_t step_bytes;                          /* of all ranks that a step may read or write; one page at least */
    const spill_page *found;                      /* [found_count] on every rank's disk, oldest use first */
    uint32_t found_count;
} prefix_spill_options;

void prefix_spill_open(prefix_spill **out, const prefix_spill_options *options);
void prefix_spill_close(prefix_spill *s); /* before the memory's cache; NULL is fine */

/* The first `pages` pages, which prefix_add was just called with, are to be written where they are not yet. */
void prefix_spill_add(prefix_spill *s, const prefix_chain *chain, const uint32_t *tokens, uint32_t pages,
                      const uint32_t *const page[KV_KINDS]);
/* True: a longer prefix than in memory is being read, for this request or another; ask again after the step. Once read
 * for a request, it is not read again for the same one. */
bool prefix_spill_find(prefix_spill *s, uint64_t request, const prefix_chain *chain, const uint32_t *tokens, uint32_t n,
                       uint32_t pages_in_memory);

/* Pages of a text that disk knows, whether they can be gone on from or not. */
uint32_t prefix_spill_known(const prefix_spill *s, const prefix_chain *chain, const uint32_t *tokens, uint32_t n);

/* Puts what is to be written next into this step, so that its page is held no longer than that. False: nothing is. */
bool prefix_spill_flush(prefix_spill *s);
/* Gives up what is being read. False: nothing is. */
bool prefix_spill_abandon(prefix_spill *s);
/* The step's operations, for all ranks, before its rows. Valid until prefix_spill_done. */
const spill_op *prefix_spill_plan(prefix_spill *s, uint32_t *count);
/* After the step; ok[count]: whether every rank did it. */
void prefix_spill_done(prefix_spill *s, const uint8_t *ok);
/* Whether steps are needed even when nobody runs. */
bool prefix_spill_busy(const prefix_spill *s);

typedef struct prefix_spill_statistics {
    uint64_t written_pages, read_pages, failed;
    uint64_t bytes;                               /* on disk, all ranks */
} prefix_spill_statistics;
prefix_spill_statistics prefix_spill_state(const prefix_spill *s);

#endif
