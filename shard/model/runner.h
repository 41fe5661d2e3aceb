/* Executes step plans on one rank: the decoder, its cache and the drawing of tokens. Every rank of an engine runs the
 * same calls on the same plans; rank 0 also hands results on.
 *
 * Memory:  runner_open takes all (activations, KV pool); nothing is allocated in a step but small growing tables.
 * Threads: engine thread; collective.
 * Errors:  ST_PEER when another rank is lost; after any error the runner can only be closed.
 * Source:  docs/model.md. */
#ifndef SHARD_MODEL_RUNNER_H
#define SHARD_MODEL_RUNNER_H

#include "shard/comm/comm.h"
#include "shard/kernels/ops.h"
#include "shard/kv/geometry.h"
#include "shard/model/plan.h"
#include "shard/model/weights.h"
#include "shard/sample/sampler.h"

typedef struct runner runner;

/* What a test looks at inside a step: name and layer as in the golden files ("embed", "hidden", "heads", "attn", "ple",
 * "router_weights"), or logits of wanted rows ("logits", this rank's share). ids only for "router_ids". */
typedef void runner_tap(void *context, const char *name, uint32_t layer, const float *data, const uint32_t *ids,
                        uint32_t rows, uint32_t cols);

/* How the experts' partial sums travel; the bits are the same. See expert_exchange.c. */
typedef enum expert_exchange { EXCHANGE_AUTO, EXCHANGE_REPLICATED, EXCHANGE_ALL_TO_ALL } expert_exchange;

typedef struct runner_options {
    const model_config *config;
    const layout *split;
    const model_weights *weights;
    comm *ranks;
    comm *activations;      /* exchanges of backend memory; NULL: ranks, whose memory is the host's */
    backend *device;
    kv_type kv;
    uint32_t slots;         /* sequences at once */
    uint32_t rows_max;      /* rows of one step */
    uint32_t context;       /* positions a sequence may have */
    uint32_t pages_per_slab[KV_KINDS]; /* rank 0's choice */
    uint32_t slabs;         /* the same on every rank */
    expert_exchange exchange;
    spill_store *spill;     /* NULL: none; the caller's */
    runner_tap *tap;        /* NULL: none */
    void *tap_context;
    void (*alive)(void *context); /* called as each layer of a step begins; NULL: nobody asks */
    void *alive_context;
    /* Called once a step's work is a device's to do, before the host waits for it; never where the host computes. What it
     * does may not touch the runner. NULL: nothing to do. */
    void (*meanwhile)(void *context);
    void *meanwhile_context;
} runner_options;

/* Sizes of one rank, from config and layout alone. */
void runner_kv_geometry(const model_config *config, const layout *split, kv_type kv, kv_geometry *g);
/* on_device: without what the CPU back end takes itself. */
uint64_t runner_activation_bytes(const model_config *config, const layout *split, uint32_t rows_max, bool on_device);
enum { RUNNER_LOGIT_ROWS = 32 }; /* rows whose logits exist at once */

STATUS_CHECKED status runner_open(runner **out, const runner_options *options);
void runner_close(runner *r);

typedef struct runner_result {
    uint32_t span, row;     /* in the plan; row relative to the span */
    bool drawn;             /* token was drawn; else it is the known next token of the prompt */
    sample_result sample;
} runner_result;
/* Called in row order; the result is valid during the call. NULL on ranks that hand nothing on. */
typedef status runner_sink(void *context, const runner_result *result);

STATUS_CHECKED status runner_step(runner *r, const plan *p, runner_sink *sink, void *context);
/* [spill_count of the last step's plan]: whether every rank did it; valid until the next step. */
const uint8_t *runner_spilled(const runner *r);
/* Random values in every page that the slot's table names, for measurements at a depth that would take long to compute. */
void runner_fill_kv(runner *r, uint32_t slot);
/* Rows of experts that the busiest EP group computed in recent steps over what the mean group did; 1 without experts or
 * with one group. */
double runner_imbalance(const runner *r);
/* How often a step has read which weights; the same on every rank. */
typedef struct runner_reads {
    uint64_t whole, tail; /* all layers that own KV and the per-layer embeddings; the layers behind them */
    uint64_t heads;       /* the output head, once for RUNNER_LOGIT_ROWS rows */
    uint64_t experts;     /* distinct experts of a layer, added up */
} runner_reads;
runner_reads runner_weight_reads(const runner *r);
/* Bytes of this rank that one of each reads; experts: of an expert that it owns. Rows that are looked up are left out. */
runner_reads runner_weight_bytes(const runner *r);
/* Bounds for plan_decode. */
plan_bounds runner_bounds(const runner *r);

#endif
