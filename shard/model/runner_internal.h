/* Inside of the runner: what forward.c, runner.c and rows.c share. */
#ifndef SHARD_MODEL_RUNNER_INTERNAL_H
#define SHARD_MODEL_RUNNER_INTERNAL_H

#include "shard/model/runner.h"

/* The rows that are still being computed. Layers that share KV run only for rows whose logits are wanted. */
typedef struct live_rows {
    uint32_t n;
    uint32_t calls; /* rows that operators are called with: n, or more in a step that is recorded */
    uint32_t *slot, *position, *token;
    row_span *span[KV_KINDS]; /* runs of consecutive positions, with the page table of each kind */
    uint32_t span_count;
} live_rows;

struct runner {
    runner_options o;
    const model_config *config;
    const backend_ops *ops;
    backend *b;
    kv_geometry geometry;
    uint64_t *layer_offset;
    void *pool;
    uint64_t pool_bytes;
    uint32_t **table[KV_KINDS]; /* [slots] → [pages_per_slot] */
    uint32_t pages_per_slot;
    uint32_t window;            /* of sliding layers; 0: there is none */
    rope *angles[KV_KINDS];
    attention_layer *attention; /* [layers] */
    moe_layer *moe;             /* [layers], NULL without experts */
    sampler *draw;
    uint32_t tail_begin;        /* first of the trailing layers that own no KV; = layers without any */
    /* activations; rows × … */
    float *h, *h_spare, *x, *q, *k, *v, *heads, *partial, *gate, *up, *ple, *ple_spare, *ple_gate, *logits;
    float *first_h;                 /* what h is at the beginning of a step: h and ple change places with their spares */
    float *moe_out, *moe_in;        /* rows on their way between ranks, moe_in with a row of zeros behind them */
    uint32_t *expert_ids, ids_stride; /* of layer l from l · ids_stride on: what the step's first layer has */
    float *expert_weights;
    uint32_t *host_ids;             /* [layers · rows_max · active]: expert_ids themselves, or a copy */
    float *zeros;                   /* host, [hidden] */
    void *look;                     /* host, [look_bytes]: what a tap sees of a device */
    size_t look_bytes;
    void *page;                     /* host, the larger kind's bytes: a page on its way */
    page_change *changes;           /* [change_cap] */
    uint32_t change_cap;
    uint8_t plain_steps[RECORDED_ROWS_MAX + 1]; /* steps of so many rows that only decoded, before one was recorded */
    uint64_t busiest_rows, expert_rows; /* of recent layers: the busiest EP group's, all groups' */
    runner_reads reads;
    uint8_t *expert_hit;                /* [experts], scratch */
    live_rows live;
    uint32_t *wanted, wanted_count; /* rows of the step whose logits are wanted, rising */
    uint32_t *index, *device_index; /* scratch for gathers: host, and backend memory */
    sample_row *sample_rows;        /* [rows_max] */
    sample_result *sample_results;
    uint32_t *result_span, *result_row;
    size_t *exchange_bytes, *exchange_bytes_in; /* [ranks] */
    uint32_t *moe_index;            /* [2 · rows_max + 2 · ranks] */
    struct block { void *p; size_t bytes; } blocks[32];
    uint32_t block_count;
    uint8_t *spilled;               /* [spilled_cap · ranks]: this rank's, then everybody's */
    uint32_t spilled_cap;
    uint64_t spill_failures;
};

/* Fills r->live and r->wanted from a plan. */
status rows_begin(runner *r, const plan *p);
/* Keeps only the wanted rows: r->live and r->wanted (now 0 … count-1) follow; r->index holds where each was. */
void rows_keep_wanted(runner *r);
/* Reads and writes files of pages as the plan says. */
status runner_spill(runner *r, const plan *p);
/* Where a page's bytes lie on this rank, in backend memory. */
void *runner_page(const runner *r, kv_kind kind, uint32_t page);
/* Where the host has that page's bytes: there, or in r->page, until runner_send_page brings them back. */
void *runner_host_page(runner *r, kv_kind kind, uint32_t page);
void runner_send_page(runner *r, kv_kind kind, uint32_t page);
/* Tells the back end of r->live. */
void rows_announce(runner *r);
/* y[count, dim] = x[index[i]], index on the host; of one call at a time. */
void gather_rows(runner *r, float *y, const float *x, const uint32_t *index, uint32_t count, uint32_t dim);
/* h and ple change places with their spares. */
void swap_spares(runner *r);
/* The decoder up to the last layer's output in r->h, rows r->live. */
status forward(runner *r);
/* After the layers of a step: the chosen experts come to the host, by the step's next wait. */
void fetch_experts(runner *r);
/* After a step, whose first layers had n rows and whose last, from r->tail_begin on, r->live.n: how many of them each EP
 * group computed, and which experts they hit. */
void count_experts(runner *r, uint32_t n);
/* r->partial = this rank's sums [dense | experts] of r->live.calls rows becomes those of all ranks, or, with *normed,
 * rms(dense) + rms(experts). */
status expert_sums(runner *r, uint32_t layer, bool *normed);
/* next: what is multiplied after it, NULL: not known. */
status sum_over_ranks(runner *r, float *x, size_t count, const weight *next);
/* The first matrix after a layer. */
const weight *after_layer(const runner *r, uint32_t layer);
void runner_look(runner *r, const char *name, uint32_t layer, const float *data, const uint32_t *ids,
                 uint32_t rows, uint32_t cols);

#endif
