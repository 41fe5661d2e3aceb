/* Inside of the CPU back end: what its operator files share. */
#ifndef SHARD_KERNELS_CPU_CPU_BACKEND_H
#define SHARD_KERNELS_CPU_CPU_BACKEND_H

#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/pool.h"
#include "shard/kernels/cpu/quant.h"
#include "shard/kernels/ops.h"

struct rope {
    double base;
    uint32_t head_dim, pairs, context;
    float *cosine, *sine;               /* [rows_max, pairs]: of this step's rows */
    float *offset_cosine, *offset_sine; /* [64, pairs]: offsets inside a page */
    /* cos and sin of 64·a and of b, unrounded: the angle at 64·a + b by the addition theorem (half-size KV rotates a
     * query once per page, and a table of every distance would be 128 MiB at the full context). */
    double *page_cosine, *page_sine; /* [context / 64 + 1, pairs] */
    double *step_cosine, *step_sine; /* [64, pairs] */
    uint32_t rows_max;
};

typedef struct attention_slots attention_slots;

typedef struct cpu_backend {
    backend base;
    const cpu_kernels *k;
    const quant_kernels *q;
    pool *threads;
    cpu_backend_options options;
    step_rows rows; /* the current ones */
    char name[32];
    float **scratch; /* [threads][scratch_floats] */
    size_t scratch_floats;
    attention_slots *attention_slots;
    /* experts: assignments sorted by own expert */
    uint32_t *assigned_row, *assigned_slot, *expert_begin;
    float *expert_x, *expert_act, *expert_up, *expert_y, *router_x, *router_p;
    uint32_t experts_cap;
    uint32_t *hit, *hit_rows, hit_count; /* own experts that have tokens */
    quant_input input;                   /* of cpu_linear */
    quant_input expert_in, expert_mid;   /* of gates and ups, and of downs, by hit expert */
} cpu_backend;

static inline cpu_backend *cpu_of(backend *b) { return (cpu_backend *)b; }

/* Also used by routing. */
void cpu_linear(backend *b, const product *products, uint32_t count, const float *x, size_t x_stride, uint32_t n);
void cpu_quant_open(quant_input *in, uint64_t rows, uint64_t groups);
void cpu_quant_close(quant_input *in);
void cpu_attention_prepare(backend *b, const attention_layer *l, float *q, float *k, float *v);
void cpu_attention(backend *b, const attention_layer *l, const float *q, float *y);
void cpu_route(backend *b, const moe_layer *m, const float *h, uint32_t n, uint32_t *ids, float *weights);
void cpu_experts(backend *b, const moe_layer *m, const float *x, uint32_t n, const uint32_t *ids,
                 const float *weights, float *y);
status cpu_rope_open(backend *b, double base, uint32_t head_dim, uint32_t pairs, uint32_t context,
                     uint32_t rows_max, rope **out);
void cpu_rope_close(backend *b, rope *r);
void cpu_rope_begin(backend *b, rope *r);

/* Floats of scratch that attention needs for one work item. */
size_t cpu_attention_scratch(const cpu_backend_options *options);
/* Memory for units that are computed in segments. */
void cpu_attention_slots_open(cpu_backend *c);
void cpu_attention_slots_close(cpu_backend *c);

#endif
