/* Mixture of experts on the CPU: tokens are grouped by expert, so that an expert's weights are streamed once
 * for all of its tokens, and a token's experts are added in expert-id order whatever order they were computed
 * in. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/cpu/cpu_backend.h"

static void reserve(cpu_backend *c, const moe_layer *m) {
    if (c->expert_x) return;
    size_t rows = c->options.rows_max, slots = rows * c->options.active_max;
    c->assigned_row = memory_alloc_array(slots, sizeof *c->assigned_row);
    c->assigned_slot = memory_alloc_array(slots, sizeof *c->assigned_slot);
    c->expert_begin = memory_alloc_array((size_t)m->experts + 1, sizeof *c->expert_begin);
    c->experts_cap = m->experts;
    c->expert_x = memory_alloc_array(slots * m->hidden, sizeof *c->expert_x);
    c->expert_y = memory_alloc_array(slots * m->hidden, sizeof *c->expert_y);
    c->expert_act = memory_alloc_array(slots * (m->width + 1), sizeof *c->expert_act);
    c->expert_up = memory_alloc_array(slots * (m->width + 1), sizeof *c->expert_up);
    c->router_x = memory_alloc_array(rows * m->hidden, sizeof *c->router_x);
    c->router_p = memory_alloc_array(rows * m->experts, sizeof *c->router_p);
}

/* ---- router ---- */

typedef struct route_work {
    cpu_backend *c;
    const moe_layer *m;
    const float *h;
    uint32_t *ids;
    float *weights;
    float root; /* 1 / sqrt(hidden) */
} route_work;

static void route_input(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    route_work *w = context;
    float *x = w->c->router_x + (size_t)i * w->m->hidden;
    w->c->k->rmsnorm(x, w->h + (size_t)i * w->m->hidden, NULL, w->m->eps, w->m->hidden);
    w->c->k->multiply(x, w->m->router_scale, w->m->hidden);
    w->c->k->scale(x, w->root, w->m->hidden);
}

static void route_choose(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    route_work *w = context;
    const moe_layer *m = w->m;
    float *p = w->c->router_p + (size_t)i * m->experts;
    uint32_t *ids = w->ids + (size_t)i * m->active;
    float *weights = w->weights + (size_t)i * m->active;
    float total = w->c->k->exp_sum(p, p, w->c->k->max(p, m->experts), 1.0f, m->experts);
    float inverse = 1.0f / total, sum = 0;
    w->c->k->scale(p, inverse, m->experts);
    for (uint32_t k = 0; k < m->active; k++) {
        uint32_t best = m->experts;
        for (uint32_t e = 0; e < m->experts; e++) {
            bool taken = false;
            for (uint32_t j = 0; j < k; j++) taken |= ids[j] == e;
            if (!taken && (best == m->experts || p[e] > p[best])) best = e;
        }
        ids[k] = best;
        weights[k] = p[best];
        sum += p[best];
    }
    for (uint32_t k = 0; k < m->active; k++) weights[k] = weights[k] / sum * m->per_expert_scale[ids[k]];
}

void cpu_route(backend *b, const moe_layer *m, const float *h, uint32_t n, uint32_t *ids, float *weights) {
    cpu_backend *c = cpu_of(b);
    INVARIANT(n <= c->options.rows_max && m->active <= c->options.active_max);
    reserve(c, m);
    route_work w = {c, m, h, ids, weights, 1.0f / __builtin_sqrtf((float)m->hidden)};
    pool_run(c->threads, n, route_input, &w);
    cpu_linear(b, c->router_p, m->experts, c->router_x, m->hidden, &m->router, n);
    pool_run(c->threads, n, route_choose, &w);
}

/* ---- experts ---- */

enum { EXPERT_ROWS_BLOCK = 32 };

typedef struct expert_work {
    cpu_backend *c;
    const moe_layer *m;
    const float *x;
    const uint32_t *ids;
    const float *weights;
    float *y;
    uint32_t blocks; /* a matrix's row blocks */
} expert_work;

/* Counting sort of (row, slot) by own expert: expert e's assignments stand at expert_begin[e] …
 * expert_begin[e+1]. */
static uint32_t group_by_expert(cpu_backend *c, const moe_layer *m, uint32_t n, const uint32_t *ids) {
    uint32_t *begin = c->expert_begin;
    memset(begin, 0, ((size_t)m->own_count + 1) * sizeof *begin);
    for (size_t i = 0; i < (size_t)n * m->active; i++)
        if (ids[i] - m->own_begin < m->own_count) begin[ids[i] - m->own_begin + 1]++;
    for (uint32_t e = 0; e < m->own_count; e++) begin[e + 1] += begin[e];
    uint32_t total = begin[m->own_count];
    for (size_t i = (size_t)n * m->active; i-- > 0;) {
        uint32_t e = ids[i] - m->own_begin;
        if (e >= m->own_count) continue;
        uint32_t at = --begin[e + 1];
        c->assigned_row[at] = (uint32_t)(i / m->active);
        c->assigned_slot[i] = at;
    }
    /* begin[e + 1] now holds expert e's first: shift back. */
    memmove(begin, begin + 1, m->own_count * sizeof *begin);
    begin[m->own_count] = total;
    return total;
}

static void gather_input(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    expert_work *w = context;
    uint32_t hidden = w->m->hidden;
    memcpy(w->c->expert_x + (size_t)i * hidden, w->x + (size_t)w->c->assigned_row[i] * hidden,
           hidden * sizeof(float));
}

static void block_product(const expert_work *w, const weight *matrix, uint32_t block, uint32_t e, float *y,
                          const float *x) {
    uint32_t begin = w->c->expert_begin[e], n = w->c->expert_begin[e + 1] - begin,
             first = block * EXPERT_ROWS_BLOCK;
    if (n == 0 || first >= matrix->rows) return;
    uint32_t rows = matrix->rows - first < EXPERT_ROWS_BLOCK ? matrix->rows - first : EXPERT_ROWS_BLOCK;
    const char *data =
        (const char *)matrix->data + (size_t)first * matrix->cols * weight_element_bytes(matrix->type);
    w->c->k->matmul[matrix->type](y + (size_t)begin * matrix->rows + first, matrix->rows,
                                  x + (size_t)begin * matrix->cols, matrix->cols, data, matrix->cols, rows, n,
                                  matrix->cols);
}

static void gate_up_block(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    expert_work *w = context;
    uint32_t e = item / w->blocks, block = item % w->blocks;
    block_product(w, &w->m->expert[e].gate, block, e, w->c->expert_act, w->c->expert_x);
    block_product(w, &w->m->expert[e].up, block, e, w->c->expert_up, w->c->expert_x);
}

static void activate(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    expert_work *w = context;
    size_t at = (size_t)i * w->m->width;
    w->c->k->gelu_multiply(w->c->expert_act + at, w->c->expert_act + at, w->c->expert_up + at, w->m->width);
}

static void down_block(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    expert_work *w = context;
    uint32_t e = item / w->blocks, block = item % w->blocks;
    block_product(w, &w->m->expert[e].down, block, e, w->c->expert_y, w->c->expert_act);
}

static void combine_row(void *context, uint32_t i, uint32_t thread) {
    (void)thread;
    expert_work *w = context;
    const moe_layer *m = w->m;
    float *y = w->y + (size_t)i * m->hidden;
    memset(y, 0, m->hidden * sizeof *y);
    const uint32_t *ids = w->ids + (size_t)i * m->active;
    uint32_t done = m->own_begin; /* ids below it have been added */
    for (uint32_t k = 0; k < m->active; k++) {
        uint32_t next = m->own_begin + m->own_count, slot = 0;
        for (uint32_t j = 0; j < m->active; j++)
            if (ids[j] >= done && ids[j] < next) {
                next = ids[j];
                slot = j;
            }
        if (next == m->own_begin + m->own_count) break;
        uint32_t at = w->c->assigned_slot[(size_t)i * m->active + slot];
        w->c->k->add_scaled(y, w->weights[(size_t)i * m->active + slot],
                            w->c->expert_y + (size_t)at * m->hidden, m->hidden);
        done = next + 1;
    }
}

void cpu_experts(backend *b, const moe_layer *m, const float *x, uint32_t n, const uint32_t *ids,
                 const float *weights, float *y) {
    cpu_backend *c = cpu_of(b);
    INVARIANT(n <= c->options.rows_max && m->active <= c->options.active_max);
    reserve(c, m);
    INVARIANT(m->experts <= c->experts_cap);
    uint32_t total = m->width == 0 ? 0 : group_by_expert(c, m, n, ids);
    if (total == 0) {
        memset(y, 0, (size_t)n * m->hidden * sizeof *y);
        return;
    }
    expert_work w = {c, m, x, ids, weights, y, (m->width + EXPERT_ROWS_BLOCK - 1) / EXPERT_ROWS_BLOCK};
    pool_run(c->threads, total, gather_input, &w);
    pool_run(c->threads, m->own_count * w.blocks, gate_up_block, &w);
    pool_run(c->threads, total, activate, &w);
    w.blocks = (m->hidden + EXPERT_ROWS_BLOCK - 1) / EXPERT_ROWS_BLOCK;
    pool_run(c->threads, m->own_count * w.blocks, down_block, &w);
    pool_run(c->threads, n, combine_row, &w);
}
