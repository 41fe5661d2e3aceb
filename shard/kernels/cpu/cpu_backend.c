#include "shard/kernels/cpu/cpu_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/quant_layout.h"

/* ---- rows: operators whose work item is one row ---- */

typedef struct row_work {
    cpu_backend *c;
    float *y, *normed, *dense;
    const float *x, *w, *next, *experts;
    const mixture_norms *mixture;
    const weight *table;
    const uint32_t *ids;
    size_t y_stride, x_stride;
    float eps, scale, factor;
    uint32_t n, dim, first_id, width;
} row_work;

static void run_rows(cpu_backend *c, row_work *w, uint32_t n, pool_work *work) {
    w->c = c;
    w->n = n;
    pool_run(c->threads, n, work, w);
}

static void table_row(const cpu_kernels *k, float *y, const weight *table, uint32_t row, uint32_t cols) {
    size_t at = (size_t)row * table->cols;
    switch (table->type) {
    case WEIGHT_F32: memcpy(y, (const float *)table->data + at, cols * sizeof *y); break;
    case WEIGHT_BF16: k->f32_from_bf16(y, (const uint16_t *)table->data + at, cols); break;
    case WEIGHT_F16: k->f32_from_f16(y, (const uint16_t *)table->data + at, cols); break;
    case WEIGHT_Q8:
    case WEIGHT_Q4: quant_row(table, row, y); break;
    case WEIGHT_BLOCKS: {
        uint32_t n = block_elements(table->blocks);
        const char *blocks = table->data;
        block_dequantise(table->blocks, blocks + at / n * block_bytes(table->blocks), y, cols);
        break;
    }
    default: INVARIANT(!"a weight type that embeddings know");
    }
}

static void embed_row(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    row_work *w = context;
    float *y = w->y + (size_t)i * w->table->cols;
    uint32_t row = w->ids[i] - w->first_id; /* of an id below the first far above */
    if (row >= w->table->rows) {
        memset(y, 0, w->table->cols * sizeof *y);
        return;
    }
    table_row(w->c->k, y, w->table, row, w->table->cols);
    w->c->k->scale(y, w->factor, w->table->cols);
}

static void cpu_embed(backend *b, float *y, const weight *table, uint32_t first_id, uint32_t n,
                      float factor) {
    row_work w = {
        .y = y, .table = table, .ids = cpu_of(b)->rows.token, .first_id = first_id, .factor = factor};
    run_rows(cpu_of(b), &w, n, embed_row);
}

static void gather_row(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    row_work *w = context;
    memcpy(w->y + (size_t)i * w->dim, w->x + (size_t)w->ids[i] * w->dim, w->dim * sizeof *w->y);
}

static void cpu_gather(backend *b, float *y, const float *x, const uint32_t *index, uint32_t n,
                       uint32_t dim) {
    row_work w = {.y = y, .x = x, .ids = index, .dim = dim};
    run_rows(cpu_of(b), &w, n, gather_row);
}

typedef struct sum_work {
    const cpu_kernels *k;
    float *y;
    const float *x;
    size_t count;
    uint32_t blocks;
} sum_work;

enum { SUM_PIECE = 4096 };

static void sum_piece(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    sum_work *w = context;
    size_t at = (size_t)item * SUM_PIECE, n = w->count - at < SUM_PIECE ? w->count - at : SUM_PIECE;
    memcpy(w->y + at, w->x + at, n * sizeof *w->y);
    for (uint32_t b = 1; b < w->blocks; b++) w->k->add(w->y + at, w->x + b * w->count + at, (uint32_t)n);
}

static void cpu_sum_blocks(backend *b, float *y, const float *x, uint32_t blocks, size_t count) {
    sum_work w = {cpu_of(b)->k, y, x, count, blocks};
    pool_run(cpu_of(b)->threads, (uint32_t)((count + SUM_PIECE - 1) / SUM_PIECE), sum_piece, &w);
}

static void norm_row(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    row_work *w = context;
    size_t at = (size_t)i * w->dim;
    w->c->k->rmsnorm(w->y + at, w->x + at, w->w, w->eps, w->dim);
}

static void cpu_norm(backend *b, float *y, const float *x, const float *weights, float eps, uint32_t n,
                     uint32_t dim) {
    row_work w = {.y = y, .x = x, .w = weights, .eps = eps, .dim = dim};
    run_rows(cpu_of(b), &w, n, norm_row);
}

static void add_norm_row(void *context, uint32_t i, uint32_t thread) {
    row_work *w = context;
    const cpu_kernels *k = w->c->k;
    size_t at = (size_t)i * w->dim;
    float *normed = w->c->scratch[thread];
    k->rmsnorm(normed, w->x + at, w->w, w->eps, w->dim);
    k->add(w->y + at, normed, w->dim);
    if (w->scale != 1.0f) k->scale(w->y + at, w->scale, w->dim);
    if (w->normed) k->rmsnorm(w->normed + at, w->y + at, w->next, w->eps, w->dim);
}

static void cpu_add_norm(backend *b, float *h, const float *x, const float *weights, float eps, float scale,
                         float *y, const float *next, uint32_t n, uint32_t dim) {
    INVARIANT(dim <= cpu_of(b)->scratch_floats);
    row_work w = {.y = h,
                  .x = x,
                  .w = weights,
                  .normed = y,
                  .next = next,
                  .eps = eps,
                  .scale = scale,
                  .dim = dim};
    run_rows(cpu_of(b), &w, n, add_norm_row);
}

static void add_mixture_row(void *context, uint32_t i, uint32_t thread) {
    row_work *w = context;
    const cpu_kernels *k = w->c->k;
    float *dense = w->dense + (size_t)i * w->dim, *normed = w->c->scratch[thread];
    k->rmsnorm(dense, dense, w->mixture->dense, w->eps, w->dim);
    k->rmsnorm(normed, w->experts + (size_t)i * w->dim, w->mixture->experts, w->eps, w->dim);
    k->add(dense, normed, w->dim);
    add_norm_row(context, i, thread);
}

static void cpu_add_mixture(backend *b, float *h, float *dense, const float *experts,
                            const mixture_norms *norms, float eps, float scale, float *y, const float *next,
                            uint32_t n, uint32_t dim) {
    INVARIANT(dim <= cpu_of(b)->scratch_floats);
    row_work w = {.y = h,
                  .x = dense,
                  .w = norms->sum,
                  .dense = dense,
                  .experts = experts,
                  .mixture = norms,
                  .normed = y,
                  .next = next,
                  .eps = eps,
                  .scale = scale,
                  .dim = dim};
    run_rows(cpu_of(b), &w, n, add_mixture_row);
}

enum { PIECE_FLOATS = 2048 };

static uint32_t pieces_of(uint32_t dim) { return (dim + PIECE_FLOATS - 1) / PIECE_FLOATS; }

static uint32_t piece_length(uint32_t dim, uint32_t at) {
    return dim - at < PIECE_FLOATS ? dim - at : PIECE_FLOATS;
}

/* One row is long enough to share: decode has no other. */
static void gelu_piece(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    row_work *w = context;
    uint32_t row = i / w->width, at = i % w->width * PIECE_FLOATS;
    float *gate = w->y + row * w->y_stride + at;
    w->c->k->gelu_multiply(gate, gate, w->x + row * w->x_stride + at, piece_length(w->dim, at));
}

static void cpu_gelu_multiply(backend *b, float *gate, size_t gate_stride, const float *up, size_t up_stride,
                              uint32_t n, uint32_t dim) {
    if (dim == 0) return;
    row_work w = {.y = gate,
                  .y_stride = gate_stride,
                  .x = up,
                  .x_stride = up_stride,
                  .dim = dim,
                  .width = pieces_of(dim)};
    run_rows(cpu_of(b), &w, n * w.width, gelu_piece);
}

static void cpu_gated(backend *b, float *gate, float *up, const weight *g, const weight *u, const float *x,
                      size_t x_stride, uint32_t n) {
    const product inputs[] = {{gate, g->rows, g}, {up, u->rows, u}};
    cpu_linear(b, inputs, 2, x, x_stride, n);
    cpu_gelu_multiply(b, gate, g->rows, up, u->rows, n, g->rows);
}

static void softcap_piece(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    row_work *w = context;
    uint32_t at = i % w->width * PIECE_FLOATS;
    w->c->k->softcap(w->y + (size_t)(i / w->width) * w->dim + at, w->scale, piece_length(w->dim, at));
}

static void cpu_softcap(backend *b, float *x, float cap, uint32_t n, uint32_t dim) {
    if (dim == 0) return;
    row_work w = {.y = x, .scale = cap, .dim = dim, .width = pieces_of(dim)};
    run_rows(cpu_of(b), &w, n * w.width, softcap_piece);
}

static void ple_row(void *context, uint32_t i, uint32_t thread) {
    row_work *w = context;
    const cpu_kernels *k = w->c->k;
    uint32_t cols = w->table->cols;
    float *y = w->y + (size_t)i * cols, *identity = w->c->scratch[thread];
    for (uint32_t at = 0; at < cols; at += w->width) {
        float *slice = y + at;
        k->scale(slice, w->scale, w->width);
        k->rmsnorm(slice, slice, w->w, w->eps, w->width);
    }
    table_row(k, identity, w->table, w->ids[i], cols);
    k->scale(identity, w->factor, cols);
    k->add(y, identity, cols);
    k->scale(y, 0.70710678118654752f, cols);
}

static void cpu_ple_mix(backend *b, float *ple, const weight *table, const float *norm, float eps,
                        float scale, float factor, uint32_t width, uint32_t n) {
    INVARIANT(table->cols <= cpu_of(b)->scratch_floats);
    row_work w = {.y = ple,
                  .table = table,
                  .ids = cpu_of(b)->rows.token,
                  .w = norm,
                  .eps = eps,
                  .scale = scale,
                  .factor = factor,
                  .width = width};
    run_rows(cpu_of(b), &w, n, ple_row);
}

/* ---- life ---- */

static status cpu_alloc(backend *b, size_t bytes, const char *what, void **out) {
    (void)b;
    status st = memory_map(out, bytes);
    return st == ST_OK ? ST_OK : fail_within(st, "%s", what);
}

static void cpu_release(backend *b, void *p, size_t bytes) {
    (void)b;
    memory_unmap(p, bytes);
}

static status cpu_finish(backend *b) {
    (void)b;
    return ST_OK;
}

static void cpu_put(backend *b, void *to, const void *host, size_t bytes) {
    (void)b;
    memcpy(to, host, bytes);
}

static status cpu_get(backend *b, void *host, const void *from, size_t bytes) {
    (void)b;
    memcpy(host, from, bytes);
    return ST_OK;
}

static void cpu_get_later(backend *b, void *host, const void *from, size_t bytes) {
    (void)b;
    memcpy(host, from, bytes);
}

static void cpu_rows_begin(backend *b, const step_rows *rows) { cpu_of(b)->rows = *rows; }

static void cpu_close(backend *b) {
    if (!b) return;
    cpu_backend *c = cpu_of(b);
    uint32_t threads = c->threads ? pool_threads(c->threads) : 0;
    pool_close(c->threads);
    for (uint32_t i = 0; c->scratch && i < threads; i++) free(c->scratch[i]);
    free(c->scratch);
    cpu_attention_slots_close(c);
    free(c->assigned_row);
    free(c->assigned_slot);
    free(c->expert_begin);
    free(c->expert_x);
    free(c->expert_act);
    free(c->expert_up);
    free(c->expert_y);
    free(c->hit);
    free(c->hit_rows);
    cpu_quant_close(&c->input);
    cpu_quant_close(&c->expert_in);
    cpu_quant_close(&c->expert_mid);
    free(c->router_x);
    free(c->router_p);
    free(c);
}

static const backend_ops cpu_ops = {
    .close = cpu_close,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .finish = cpu_finish,
    .put = cpu_put,
    .get = cpu_get,
    .get_later = cpu_get_later,
    .rope_open = cpu_rope_open,
    .rope_close = cpu_rope_close,
    .rows_begin = cpu_rows_begin,
    .rope_begin = cpu_rope_begin,
    .embed = cpu_embed,
    .gather = cpu_gather,
    .sum_blocks = cpu_sum_blocks,
    .norm = cpu_norm,
    .add_norm = cpu_add_norm,
    .add_mixture = cpu_add_mixture,
    .linear = cpu_linear,
    .gated = cpu_gated,
    .gelu_multiply = cpu_gelu_multiply,
    .softcap = cpu_softcap,
    .ple_mix = cpu_ple_mix,
    .attention_prepare = cpu_attention_prepare,
    .attention = cpu_attention,
    .route = cpu_route,
    .experts = cpu_experts,
};

status cpu_backend_open(backend **out, const cpu_backend_options *options) {
    cpu_backend *c = memory_alloc(sizeof *c);
    status st;
    c->base.ops = &cpu_ops;
    c->options = *options;
    TRY_OR_FAIL(cpu_kernels_pick(&c->k));
    TRY_OR_FAIL(quant_kernels_pick(&c->q));
    TRY_OR_FAIL(pool_open(&c->threads, &(pool_options){options->threads, options->spin_us, options->pin}));
    /* Integer kernels have names of their own where they go further. */
    snprintf(c->name, sizeof c->name, "cpu %s", c->q->name);
    cpu_quant_open(&c->input, quant_padded(options->rows_max), quant_groups(options->columns_max));
    c->base.name = c->name;
    c->base.threads = options->threads;
    c->base.is_host = true;
    c->scratch_floats = cpu_attention_scratch(options);
    if (c->scratch_floats < options->hidden) c->scratch_floats = options->hidden;
    if (c->scratch_floats < options->width_max) c->scratch_floats = options->width_max;
    c->scratch = memory_alloc_array(options->threads, sizeof *c->scratch);
    for (uint32_t i = 0; i < options->threads; i++)
        c->scratch[i] = memory_alloc_array(c->scratch_floats, sizeof **c->scratch);
    cpu_attention_slots_open(c);
    *out = &c->base;
    return ST_OK;
fail:
    cpu_close(&c->base);
    return st;
}
