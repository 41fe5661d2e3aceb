/* What `gemmactl bench serve` sends and what it makes of the answers; apart from the command, so that the figures can be
 * tested without a server.
 *
 * Memory:  serve_figures owns its lists; serve_figures_close releases them.
 * Threads: one thread a stream inside serve_run; figures belong to one. */
#ifndef CTL_BENCH_SERVE_H
#define CTL_BENCH_SERVE_H

#include "ctl/json_write.h"
#include "base/status.h"

/* One request as its client saw it; seconds. */
typedef struct serve_request {
    bool completed;
    uint32_t input_tokens, output_tokens;
    double first_token_s;  /* from sending to the first token */
    double latency_s;      /* from sending to the last */
    double *gap_s;         /* [gap_count] between arrivals of tokens after the first */
    uint32_t gap_count;
} serve_request;

typedef struct serve_load {
    const char *address, *model; /* model NULL: the server's first */
    uint32_t streams;            /* at once */
    uint32_t each;               /* requests of a stream, one after another */
    uint32_t prompt, generate;   /* tokens of a request */
    uint32_t vocab;
} serve_load;

/* Sends it all. *out [streams · each] is the caller's, serve_requests_free releases it; seconds: from the first sent to the
 * last done. Requests that fail are not completed, and *failure (a sentence, the caller's to free()) is of one of them. */
STATUS_CHECKED status serve_run(const serve_load *load, serve_request **out, double *seconds, char **failure);
void serve_requests_free(serve_request *r, uint32_t n);

typedef struct serve_spread {
    double mean, median, std, p99; /* ms */
} serve_spread;

typedef struct serve_figures {
    uint32_t completed, failed;
    uint64_t input_tokens, output_tokens;
    double duration_s;
    serve_spread ttft, tpot, itl;
} serve_figures;

/* Of completed requests alone. A request of one token has no time per output token. */
void serve_summarise(serve_figures *out, const serve_request *r, uint32_t n, double duration_s);
/* The keys of `vllm bench serve`, into an object that is begun. */
void serve_write_json(json_writer *w, const serve_figures *f);
void serve_write_text(strbuf *out, const serve_figures *f);

#endif
