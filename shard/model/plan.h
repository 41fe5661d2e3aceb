/* A step plan: the one message from leader to ranks. Chunked prefill, decode, and later images, speculative checks and
 * n > 1 are all spans; what is not built yet is refused, never ignored.
 *
 * Memory:  a plan owns growing arrays that are reused from step to step; plan_close releases them.
 * Threads: engine thread.
 * Errors:  plan_decode: ST_FORMAT or ST_UNSUPPORTED naming the part; ranks then abort the engine. */
#ifndef SHARD_MODEL_PLAN_H
#define SHARD_MODEL_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "base/strbuf.h"
#include "shard/kv/geometry.h"
#include "shard/kv/spill.h"
#include "shard/sample/sampling.h"

typedef enum plan_input { PLAN_TOKENS, PLAN_SOFT_ROWS } plan_input;
typedef enum plan_mask { PLAN_CAUSAL, PLAN_BLOCK } plan_mask;
typedef enum plan_logits { PLAN_LOGITS_NONE, PLAN_LOGITS_LAST, PLAN_LOGITS_LISTED, PLAN_LOGITS_ALL } plan_logits;

enum { PLAN_NO_TOKEN = 0xFFFFFFFF };

typedef struct plan_span {
    uint32_t slot;            /* sequence slot, opened before */
    uint32_t position;        /* of the first row */
    uint32_t count;           /* rows, > 0 */
    uint32_t input;           /* plan_input */
    uint32_t first_input;     /* index into the plan's tokens */
    uint32_t mask;            /* plan_mask */
    uint32_t mask_start, mask_length;
    uint32_t logits;          /* plan_logits */
    uint32_t first_listed, listed_count; /* rows, relative to the span, in the plan's listed[] */
    uint32_t draw;            /* 1: draw the next token from the last row's logits */
    uint32_t next_token;      /* prompt token after the last row, for its logprob; PLAN_NO_TOKEN: none */
    uint32_t rollback;        /* tokens to forget first */
    uint32_t adapter;         /* 0 */
    uint32_t allowed;         /* the draw is among the tokens in this place + 1; 0: among all */
} plan_span;

/* A set of tokens for a place, where it stays until another comes there. */
typedef enum plan_set { PLAN_SET_LIST, PLAN_SET_BITS } plan_set;
typedef struct plan_allowed {
    uint32_t place, kind;     /* plan_set */
    uint32_t first, count;    /* list: in the plan's tokens; bits: in its words, bit id % 32 of word id / 32 */
} plan_allowed;

/* A page of a slot's table: index counts pages from position 0. PLAN_NO_TOKEN as page: no longer held. */
typedef struct plan_page {
    uint32_t slot, kind, index, page;
} plan_page;

/* A slot begins to serve a request. history: the tokens that penalties count (prompt, then answer so far), only when a
 * penalty is on. */
typedef struct plan_open {
    uint32_t slot;
    uint32_t prompt_count;    /* of history */
    uint32_t first_history, history_count; /* in the plan's tokens */
    sampling params;
} plan_open;

typedef struct plan {
    uint64_t step;
    uint32_t stop;            /* 1: last plan, ranks leave their loop */
    plan_open *open;
    plan_span *span;
    plan_page *page;
    spill_op *spill;          /* pages from and to every rank's disk, in order, before the rows */
    plan_allowed *allowed;
    uint32_t *tokens, *listed, *words;
    uint32_t open_count, span_count, page_count, spill_count, token_count, listed_count, allowed_count, word_count;
    uint32_t open_cap, span_cap, page_cap, spill_cap, token_cap, listed_cap, allowed_cap, word_cap;
} plan;

void plan_clear(plan *p);
void plan_close(plan *p);
plan_open *plan_add_open(plan *p);
plan_span *plan_add_span(plan *p);
void plan_add_page(plan *p, uint32_t slot, kv_kind kind, uint32_t index, uint32_t page);
void plan_add_spills(plan *p, const spill_op *ops, uint32_t n);
/* Copies tokens in, returns the index of the first. */
uint32_t plan_add_tokens(plan *p, const uint32_t *tokens, uint32_t n);
void plan_add_allowed_bits(plan *p, uint32_t place, const uint32_t *words, uint32_t n);
/* Returns room for the ids, to be filled before the next call. */
uint32_t *plan_add_allowed_list(plan *p, uint32_t place, uint32_t n);

/* Bounds a decoded plan is checked against, so that a wrong plan ends the engine instead of writing outside a table. */
typedef struct plan_bounds {
    uint32_t slots, rows_max, context, vocab, pages_per_slot;
    uint32_t pages[KV_KINDS];
    bool spills;              /* there is a folder for pages */
    uint32_t allowed_places;
} plan_bounds;

void plan_encode(const plan *p, strbuf *out);
STATUS_CHECKED status plan_decode(plan *p, const void *bytes, size_t n, const plan_bounds *bounds);

#endif
