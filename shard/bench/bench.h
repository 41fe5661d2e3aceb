/* `gemmad-shard bench prefill|decode`: steps of the engine as a served one runs them (plan, broadcast, decoder, drawing),
 * on a model or on random weights of a published shape, without a daemon, scheduler or MPI.
 *
 * Memory:  options borrow argv.
 * Threads: the engine thread of each rank.
 * Errors:  what a model or layout refuses, as instance.h; ST_INTERNAL for a figure that cannot be (more weights a second
 *          than memory gives, a router that does not spread). */
#ifndef SHARD_BENCH_BENCH_H
#define SHARD_BENCH_BENCH_H

#include "shard/bench/bandwidth.h"
#include "shard/kernels/timed.h"
#include "shard/model/instance.h"

typedef struct bench_options {
    bool decode; /* else prefill */
    const char *model, *shape;
    const char *write; /* a directory for a checkpoint of the shape, in place of measuring */
    uint32_t layers;
    uint32_t ranks, threads;
    const char *comm, *weights, *kv, *expert_layout, *device;
    uint64_t memory_bytes, read_bytes;
    uint32_t prompt, depth, batch, generate, repeat, chunk;
    bool batch_invariant, no_graphs, json, help;
    const gpu_provider *gpu; /* NULL: this build has none */
    uint64_t began_ns;       /* when the command began */
} bench_options;

/* What one rank measured, between warm-up and end. */
typedef struct bench_figures {
    timed_totals operators;
    uint64_t runner_ns;       /* inside steps */
    uint64_t comm_ns;         /* of that, inside collectives */
    uint64_t steps, load_ns;
    uint64_t looked_steps;    /* steps that operators were timed in, where those are others; else 0 */
    uint64_t weight_bytes;    /* of memory that weights take */
} bench_figures;

typedef struct bench_result {
    const bench_options *options;
    char layout[64], device[40];
    uint32_t layers, experts, experts_active;
    uint32_t threads;         /* of a rank */
    const bench_figures *rank; /* [ranks] */
    uint32_t ranks;
    double *run_s;            /* [repeat] of one run each */
    double *step_ms;          /* [steps] */
    uint32_t steps;
    uint64_t run_tokens;      /* of one run: prompt tokens read, or tokens drawn */
    bandwidth read;
    double first_token_s;     /* from the command's begin until something was drawn */
    double token_gmac;        /* multiplied for one prompt token */
    bool on_gpu;
} bench_result;

/* The body of every rank; rank 0 prints. context: bench_options. */
status bench_rank(comm *ranks, void *context);

/* Prints figures to standard output, then says which of them cannot be. */
STATUS_CHECKED status bench_report(const bench_result *r);
/* Whether weights came faster than the bandwidth that was measured. */
bool bench_outran(const bench_result *r);
/* 128·(1 − (120/128)^streams) for 8 of 128: distinct experts that evenly spread choices of so many rows come to. */
double bench_experts_expected(uint32_t experts, uint32_t active, double rows);

#endif
