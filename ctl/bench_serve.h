/* What `gemmactl bench serve` sends and what it makes of the answers; apart from the command, so that the figures can be
 * tested without a server.
 *
 * Memory:  serve_figures owns its lists; serve_figures_close releases them.
 * Threads: one thread a stream inside serve_run; figures belong to one. */
#ifndef CTL_BENCH_SERVE_H
#define CTL_BENCH_SERVE_H

#include "base/status.h"
#include "ctl/json_write.h"

enum { SERVE_PERCENTILES_MAX = 16 };

/* What is sent, and when. */
typedef struct serve_plan {
    double at_s;               /* after the first */
    uint32_t prompt, generate; /* tokens */
} serve_plan;

typedef struct serve_shape {
    uint32_t prompt, generate; /* tokens, or their mean */
    double range;              /* lengths are even between (1 - range) and (1 + range) of them, at least 1 */
    double rate;               /* requests a second on average, as a Poisson process; 0: all at once */
    uint64_t seed;
} serve_shape;

/* The same shape gives the same plan. plan[n] */
void serve_make_plan(serve_plan *plan, uint32_t n, const serve_shape *shape);
uint32_t serve_longest(uint32_t tokens, double range);
/* "50, 90,99.9" between 0 and 100, ends included. ST_INVALID names what is none. */
STATUS_CHECKED status serve_read_percentiles(const char *text, double *out, uint32_t *count);

/* One request as its client saw it; seconds. */
typedef struct serve_request {
    bool completed;
    uint32_t input_tokens, output_tokens;
    double sent_s;        /* after the first of all */
    double first_token_s; /* from sending to the first token */
    double latency_s;     /* from sending to the last */
    double *gap_s;        /* [gap_count] between arrivals of tokens after the first */
    uint32_t gap_count;
} serve_request;

typedef struct serve_load {
    const char *address, *model; /* model NULL: the server's first */
    const serve_plan *plan;      /* [count] */
    uint32_t count, streams;     /* streams: at once, at most */
    uint32_t vocab;
    uint64_t seed; /* of the tokens in prompts */
} serve_load;

/* Sends it all. *out [count] is the caller's, serve_requests_free releases it; seconds: from the first sent to the last
 * done. Requests that fail are not completed, and *failure (a sentence, the caller's to free()) is of one of them. */
STATUS_CHECKED status serve_run(const serve_load *load, serve_request **out, double *seconds, char **failure);
void serve_requests_free(serve_request *r, uint32_t n);

typedef struct serve_spread {
    double mean, median, std, percentile[SERVE_PERCENTILES_MAX]; /* ms */
} serve_spread;

typedef struct serve_figures {
    uint32_t completed, failed, peak_requests; /* peak_requests: under way at one time */
    uint64_t input_tokens, output_tokens;
    double duration_s, peak_tokens_per_s;  /* of the best second */
    double percent[SERVE_PERCENTILES_MAX]; /* [percent_count] that the spreads have */
    uint32_t percent_count;
    serve_spread ttft, tpot, itl, e2el;
    uint32_t max_concurrency; /* for the text; 0: not said */
    double rate;              /* likewise */
} serve_figures;

/* Of completed requests alone. A request of one token has no time per output token. out has its percentiles before. */
void serve_summarise(serve_figures *out, const serve_request *r, uint32_t n, double duration_s);
/* The keys of `vllm bench serve`, into an object that is begun. */
void serve_write_json(json_writer *w, const serve_figures *f);
/* As `vllm bench serve` prints it. */
void serve_write_text(strbuf *out, const serve_figures *f);

#endif
