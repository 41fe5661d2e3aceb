/* The leader's scheduler: which rows the next step computes. Every step has one row of each sequence that decodes and
 * chunks of prompts, as many rows as keep a mixed step within twice a step that only decodes (sched_budget.c).
 *
 * Order:   higher priority first; among clients of one priority the one that was served least; among a client's requests
 *          the one that came first. A sequence takes pages as it grows. When they run out, the last of the running gives
 *          its own up and is computed again later: lower priority first, then what came later, paused ones before all.
 *          The first of them can always go on, so everything ends.
 *
 * Pure C without I/O: requests come in by calls, results go out through the sink, time comes from a clock.
 * Memory:  sched_open takes tables; a request's tokens are owned from sched_submit on.
 * Threads: engine thread of the leader.
 * Errors:  a request that cannot run ends through sink.finished with reason "error"; calls fail only for bugs and lost
 *          peers. */
#ifndef SHARD_SCHED_SCHED_H
#define SHARD_SCHED_SCHED_H

#include "base/clock.h"
#include "shard/kv/pages.h"
#include "shard/model/instance.h"
#include "shard/model/plan.h"
#include "shard/model/runner.h"

typedef struct sched sched;

typedef struct sched_request {
    uint64_t id;
    uint32_t *tokens;             /* [token_count], malloc'ed; the scheduler frees it */
    uint32_t token_count, prompt_count; /* tokens[prompt_count …] were already emitted */
    int32_t priority;             /* higher first */
    uint64_t deadline_ms;         /* from submission; 0: none */
    uint64_t client;              /* between whom the engine is shared out */
    uint64_t group;               /* requests with the same prompt: one computes it, then the others start; 0: none */
    uint8_t *grammar;             /* [grammar_bytes], malloc'ed; the scheduler frees it. What the answer must follow
                                     (base/automaton.h); NULL: nothing. */
    size_t grammar_bytes;
    bool same_grammar;            /* as the latest request that brought one, even if that was refused for another reason */
    sampling sampling;
} sched_request;

typedef struct sched_finish {
    const char *reason;           /* "stop", "length", "cancelled", "error" */
    bool has_stop_token;
    uint32_t stop_token;
    status error;
    const char *error_text;
    uint64_t queue_us, prefill_us, decode_us;
} sched_finish;

typedef struct sched_sink {
    void *context;
    status (*started)(void *context, uint64_t id, uint32_t cached_tokens, uint64_t queue_us);
    status (*progress)(void *context, uint64_t id, uint32_t prefilled_tokens);
    status (*prompt_logprobs)(void *context, uint64_t id, uint32_t first_position, const token_logprob *p, uint32_t n);
    status (*token)(void *context, uint64_t id, uint32_t token, const token_logprob *logprob /* or NULL */);
    status (*finished)(void *context, uint64_t id, const sched_finish *f);
} sched_sink;

/* Where a prefix cache enters. Pages belong to the scheduler's book (sched_pages), in which the cache retains what it keeps.
 * page[kind][i] is the page of positions 64·i …; KV_NO_PAGE where a sliding layer has none any more. All NULL: no cache. */
typedef struct sched_prefix {
    void *context;
    /* How many leading pages of tokens[n] need no computing; 64 · pages < n. SCHED_PREFIX_LATER: they are being read from
     * a disk; the request waits, and is asked about again in the next step. */
    uint32_t (*find)(void *context, uint64_t id, const uint32_t *tokens, uint32_t n);
    /* Retains those pages for request id and fills in page[kind][0 … pages-1]: all full ones, and the sliding ones that a
     * row at position 64 · pages looks at. Follows find without another call between. */
    void (*hold)(void *context, uint64_t id, uint32_t pages, uint32_t *const page[KV_KINDS]);
    /* The first `pages` pages are computed, and this is a place people come back to: end of a prompt or an answer, or a part
     * of a long prompt. The sliding pages that a row at position 64 · pages looks at are there. */
    void (*add)(void *context, uint64_t id, const uint32_t *tokens, uint32_t pages, const uint32_t *const page[KV_KINDS]);
    /* Gives n pages of a kind back that nobody runs with. False: it has none left of any kind. */
    bool (*reclaim)(void *context, kv_kind kind, uint32_t n);
    /* The request is over. */
    void (*forget)(void *context, uint64_t id);
    /* The rest may be NULL beside others that are not. As add, for a point of a long prompt that is only passed. */
    void (*pass)(void *context, uint64_t id, const uint32_t *tokens, uint32_t pages, const uint32_t *const page[KV_KINDS]);
    /* Pages that the last find for id had in common with others, though some needed computing: where texts part. */
    uint32_t (*parting)(void *context, uint64_t id);
    /* A request began; what it looked for and what it found. */
    void (*started)(void *context, uint32_t queried_tokens, uint32_t hit_tokens);
    /* From open to close, pages is the book. What step means: plan adds to its plan, done is told how that went. */
    void (*open)(void *context, kv_pages *pages);
    void (*plan)(void *context, plan *p);
    void (*done)(void *context, const uint8_t *ok);
    bool (*busy)(const void *context);  /* steps are wanted even when nobody runs */
    void (*close)(void *context);
} sched_prefix;

enum { SCHED_PREFIX_LATER = 0xFFFFFFFF };

typedef struct sched_options {
    uint32_t slots, rows_max;     /* rows of one step */
    uint32_t chunk_max;           /* rows of one prompt in one step; ≤ rows_max */
    uint32_t fixed_chunk;         /* 0: chunks follow the clock; else every chunk has so many rows, for tests */
    uint32_t prefill_min_share;   /* percent of the time that prompts get while streams decode, at least; 0: 10 */
    uint32_t context, vocab, window;
    bool uses[KV_KINDS];          /* kinds of pages the model has */
    uint32_t slabs, pages_per_slab[KV_KINDS];
    clock_source clock;
    sched_sink sink;
    sched_prefix prefix;
} sched_options;

enum { SCHED_MIN_SHARE = 10 };

/* What an open instance holds, and the system's clock. */
sched_options sched_options_of(const instance *in, sched_sink sink);

STATUS_CHECKED status sched_open(sched **out, const sched_options *options);
void sched_close(sched *s);

/* Takes the request over whatever it returns (ST_INVALID and ST_KV_FULL are also told to the sink as "error"). */
STATUS_CHECKED status sched_submit(sched *s, sched_request *request);
/* What tokens stand for (base/vocabulary.h): before the first request with a grammar. */
STATUS_CHECKED status sched_take_vocabulary(sched *s, const uint8_t *bytes, size_t n);
/* Ends the request with "cancelled"; an unknown id (it just ended) is ignored. */
STATUS_CHECKED status sched_cancel(sched *s, uint64_t id);

/* A paused request takes part in no step until it is told to go on, and keeps its place; its pages may be taken. */
STATUS_CHECKED status sched_pause(sched *s, uint64_t id, bool paused);
/* Size of chunks from the next plan on; see sched_options. */
void sched_fix_chunk(sched *s, uint32_t rows);

/* Whether a plan would have rows, or pages are to be written to disk: false when all that is there is paused. */
bool sched_has_work(const sched *s);
uint32_t sched_running(const sched *s);          /* with a slot, paused or not */
uint32_t sched_waiting(const sched *s);
uint32_t sched_paused(const sched *s);           /* of both */
uint64_t sched_preemptions(const sched *s);      /* total */
uint32_t sched_slabs_used(const sched *s);
/* In pages of the kind whose pages are smaller: a page of the other kind counts as those it takes the place of. */
uint64_t sched_pages_used(const sched *s);
uint64_t sched_pages_total(const sched *s);
uint64_t sched_prompt_tokens(const sched *s);    /* totals */
uint64_t sched_generated_tokens(const sched *s);
uint64_t sched_step_ns(const sched *s);          /* of the last step in which a stream decoded; 0: none yet */
kv_pages *sched_pages(sched *s);

/* Fills p with the next step. It may have no spans when nothing can run. */
STATUS_CHECKED status sched_plan(sched *s, plan *p);
/* One result of the step; the runner's sink. context is the scheduler. */
status sched_take_result(void *context, const runner_result *result);
/* How the plan's operations on files went (runner_spilled), before sched_step_done. */
void sched_spilled(sched *s, const uint8_t *ok);
/* After all results of the step. */
STATUS_CHECKED status sched_step_done(sched *s);

#endif
