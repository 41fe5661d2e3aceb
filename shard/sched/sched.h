/* The leader's scheduler: which rows the next step computes. First come, first served: every running sequence decodes one
 * token a step, and what is left of the row budget goes to prompts in order of arrival.
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
    int32_t priority;
    uint64_t deadline_ms;         /* from submission; 0: none */
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

typedef struct sched_options {
    uint32_t slots, rows_max;     /* rows of one step */
    uint32_t chunk_max;           /* rows of one prompt in one step; ≤ rows_max */
    uint32_t context, vocab, window;
    bool uses[KV_KINDS];          /* kinds of pages the model has */
    uint32_t slabs, pages_per_slab[KV_KINDS];
    clock_source clock;
    sched_sink sink;
} sched_options;

/* What an open instance holds, and the system's clock. */
sched_options sched_options_of(const instance *in, sched_sink sink);

STATUS_CHECKED status sched_open(sched **out, const sched_options *options);
void sched_close(sched *s);

/* Takes the request over whatever it returns (ST_INVALID and ST_KV_FULL are also told to the sink as "error"). */
STATUS_CHECKED status sched_submit(sched *s, sched_request *request);
/* Ends the request with "cancelled"; an unknown id (it just ended) is ignored. */
STATUS_CHECKED status sched_cancel(sched *s, uint64_t id);

bool sched_has_work(const sched *s);
uint32_t sched_running(const sched *s);
uint32_t sched_waiting(const sched *s);
uint32_t sched_slabs_used(const sched *s);
uint64_t sched_prompt_tokens(const sched *s);    /* totals */
uint64_t sched_generated_tokens(const sched *s);

/* Fills p with the next step. It may have no spans when nothing can run. */
STATUS_CHECKED status sched_plan(sched *s, plan *p);
/* One result of the step; the runner's sink. context is the scheduler. */
status sched_take_result(void *context, const runner_result *result);
/* After all results of the step. */
STATUS_CHECKED status sched_step_done(sched *s);

#endif
