/* What gemmad counts for Prometheus, and the text that is read (exposition format 0.0.4). Names, labels and buckets are
 * vLLM's where it has them, with the prefix "gemmad:"; docs/observability.md says what each means.
 *
 * Memory:  metrics_open and metrics_add_engine allocate, metrics_close releases all. A metrics_engine lives as long as its
 *          metrics. NULL is fine wherever one is taken: nothing is counted.
 * Threads: one. */
#ifndef DAEMON_OBSERVE_METRICS_H
#define DAEMON_OBSERVE_METRICS_H

#include "base/status.h"
#include "base/strbuf.h"
#include "proto/limits.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct metrics metrics;
typedef struct metrics_engine metrics_engine;

metrics *metrics_open(void);
void metrics_close(metrics *m);
/* One engine of a model, number 0, 1, … in it: the labels model_name and engine. Requests have at most context_tokens. */
metrics_engine *metrics_add_engine(metrics *m, const char *model, uint32_t number, uint32_t context_tokens);

typedef enum metrics_counter {
    METRICS_PROMPT_TOKENS,
    METRICS_GENERATION_TOKENS,
    METRICS_MALFORMED_CALLS, /* tool calls that could not be read, or were cut by the limit */
    METRICS_STOP,            /* finished_reason, as vLLM has them */
    METRICS_LENGTH,
    METRICS_ABORT, /* the client went away, gave up, or its deadline passed */
    METRICS_ERROR,
    METRICS_COUNTERS
} metrics_counter;

typedef enum metrics_histogram {
    METRICS_FIRST_TOKEN_SECONDS,
    METRICS_INTER_TOKEN_SECONDS,
    METRICS_OUTPUT_TOKEN_SECONDS, /* of a request, on average, without the first */
    METRICS_E2E_SECONDS,
    METRICS_QUEUE_SECONDS,
    METRICS_INFERENCE_SECONDS,
    METRICS_PREFILL_SECONDS,
    METRICS_DECODE_SECONDS,
    METRICS_REQUEST_PROMPT_TOKENS,
    METRICS_REQUEST_GENERATION_TOKENS,
    METRICS_PARAM_MAX_TOKENS,
    METRICS_PARAM_N,
    METRICS_HISTOGRAMS
} metrics_histogram;

void metrics_count(metrics_engine *e, metrics_counter which, uint64_t n);
void metrics_observe(metrics_engine *e, metrics_histogram which, double value);

/* Of the whole daemon. */
void metrics_count_refused(metrics *m, const char *model /* "" : none that is served */, status why);
void metrics_set_auth_failures(metrics *m, uint64_t so_far);
void metrics_count_http(metrics *m, unsigned code); /* 100 to 599 */

/* What an engine is doing now. Totals are those of its present run; the counters they become go on over restarts. */
typedef struct metrics_engine_now {
    bool ready;
    uint32_t running, waiting, paused, restarts;
    double kv_usage, kv_cached; /* of all pages: those of requests, those of the prefix cache alone */
    uint64_t prefix_query_tokens, prefix_hit_tokens, preemptions, spilled_bytes, steps;
    uint64_t step_ns, weight_bytes, collective_ns,
        collective_steps[LIMIT_COLLECTIVE_BUCKETS]; /* steps by their time in collectives */
    double weight_bytes_per_second, imbalance;
} metrics_engine_now;
void metrics_set_engine(metrics_engine *e, const metrics_engine_now *now);

void metrics_write(const metrics *m, strbuf *out);

#endif
