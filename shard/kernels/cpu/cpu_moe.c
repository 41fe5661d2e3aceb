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
    c->hit = memory_alloc_array(m->experts, sizeof *c->hit);
    c->hit_rows = memory_alloc_array(m->experts, sizeof *c->hit_rows);
    /* Every hit expert may leave most of a block empty. */
    size_t padded = slots + (size_t)(QUANT_BLOCK - 1) * (m->experts < slots ? m->experts : slots);
    cpu_quant_open(&c->expert_in, padded, quant_groups(m->hidden));
    cpu_quant_open(&c->expert_mid, padded, quant_groups(m->width));
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
    cpu_linear(b, &(product){c->router_p, m->experts, &m->router}, 1, c->router_x, m->hidden, n);
    pool_run(c->threads, n, route_choose, &w);
}

/* ---- experts ---- */

/* Rows of an expert's gate and up that one item makes: whole groups of down's columns, so that the item can
 * quantise what it made. */
enum { WIDTH_BLOCK = 2 * QUANT_GROUP, HIDDEN_BLOCK = 128 };

typedef struct expert_work {
    cpu_backend *c;
    const moe_layer *m;
    const float *x;
    const uint32_t *ids;
    const float *weights;
    float *y;
    uint32_t blocks; /* a matrix's row blocks */
    bool quant_in;   /* gates and ups take int8; else floats */
    bool quant_down;
} expert_work;

/* Counting sort of (row, slot) by own expert: expert e's assignments stand at expert_begin[e] …
 * expert_begin[e+1]; experts that have any are listed in `hit`, with the rows of quantised activations before
 * theirs in hit_rows. */
static uint32_t group_by_expert(cpu_backend *c, const moe_layer *m, uint32_t n, const uint32_t *ids) {
    uint32_t *begin = c->expert_begin, rows = 0;
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
    c->hit_count = 0;
    for (uint32_t e = 0; e < m->own_count; e++) {
        uint32_t tokens = begin[e + 1] - begin[e];
        if (tokens == 0) continue;
        c->hit[c->hit_count] = e;
        c->hit_rows[c->hit_count++] = rows;
        rows += quant_padded(tokens);
    }
    return total;
}

/* Expert hit[h]'s part of the quantised activations. */
static quant_input part_of(const cpu_backend *c, const quant_input *all, uint32_t h, uint32_t groups) {
    uint32_t e = c->hit[h], tokens = c->expert_begin[e + 1] - c->expert_begin[e];
    size_t at = (size_t)c->hit_rows[h] * groups;
    return (quant_input){all->values + at * QUANT_GROUP, all->scale + at, all->bias + at, tokens, groups,
                         quant_block_rows(tokens)};
}

/* One hit expert's inputs; blocks of QUANT_BLOCK tokens are items, so that a popular expert is shared. */
static void gather_input(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    expert_work *w = context;
    cpu_backend *c = w->c;
    uint32_t h = item / w->blocks, hidden = w->m->hidden, e = c->hit[h];
    uint32_t begin = c->expert_begin[e], tokens = c->expert_begin[e + 1] - begin;
    quant_input to = part_of(c, &c->expert_in, h, quant_groups(hidden));
    for (uint32_t t = item % w->blocks * QUANT_BLOCK; t < tokens; t += w->blocks * QUANT_BLOCK) {
        uint32_t end = tokens - t < QUANT_BLOCK ? tokens : t + QUANT_BLOCK;
        for (uint32_t i = t; i < end; i++) {
            const float *x = w->x + (size_t)c->assigned_row[begin + i] * hidden;
            if (w->quant_in) quant_token(c->q, &to, i, x, hidden, 0, to.groups);
            else memcpy(c->expert_x + (size_t)(begin + i) * hidden, x, hidden * sizeof *x);
        }
        if (w->quant_in && end == tokens) quant_clear_rest(&to);
    }
}

/* Rows first … first + rows - 1 of an expert's matrix against its tokens. */
static void rows_product(const expert_work *w, const weight *matrix, uint32_t h, uint32_t first,
                         uint32_t rows, float *y, const float *x, const quant_input *in) {
    const cpu_backend *c = w->c;
    uint32_t begin = c->expert_begin[c->hit[h]], n = c->expert_begin[c->hit[h] + 1] - begin;
    float *to = y + (size_t)begin * matrix->rows + first;
    const char *data = (const char *)matrix->data + weight_rows_bytes(matrix->type, first, matrix->cols);
    if (weight_is_quantised(matrix->type)) {
        quant_input part = part_of(c, in, h, quant_groups(matrix->cols));
        quant_product_of(c->q, matrix->type)(to, matrix->rows, &part, 0, n, data, rows, matrix->cols);
    } else {
        c->k->matmul[matrix->type](to, matrix->rows, x + (size_t)begin * matrix->cols, matrix->cols, data,
                                   matrix->cols, rows, n, matrix->cols);
    }
}

/* Rows first … first + rows - 1 of one expert's gate and up, and of what comes of them. */
static void gate_up_rows(const expert_work *w, uint32_t h, uint32_t first, uint32_t rows) {
    const cpu_backend *c = w->c;
    uint32_t e = c->hit[h], begin = c->expert_begin[e], n = c->expert_begin[e + 1] - begin,
             width = w->m->width;
    rows_product(w, &w->m->expert[e].gate, h, first, rows, c->expert_act, c->expert_x, &c->expert_in);
    rows_product(w, &w->m->expert[e].up, h, first, rows, c->expert_up, c->expert_x, &c->expert_in);
    quant_input to = part_of(c, &c->expert_mid, h, quant_groups(width));
    for (uint32_t i = 0; i < n; i++) {
        size_t at = (size_t)(begin + i) * width;
        c->k->gelu_multiply(c->expert_act + at + first, c->expert_act + at + first, c->expert_up + at + first,
                            rows);
        if (w->quant_down)
            quant_token(c->q, &to, i, c->expert_act + at, width, first / QUANT_GROUP,
                        (rows + QUANT_GROUP - 1) / QUANT_GROUP);
    }
}

static void down_rows(const expert_work *w, uint32_t h, uint32_t first, uint32_t rows) {
    rows_product(w, &w->m->expert[w->c->hit[h]].down, h, first, rows, w->c->expert_y, w->c->expert_act,
                 &w->c->expert_mid);
}

/* A range of blocks, expert by expert: what lies together is read in one go. */
static void run_blocks(const expert_work *w, uint32_t begin, uint32_t end, uint32_t block, uint32_t height,
                       void (*rows_of)(const expert_work *w, uint32_t h, uint32_t first, uint32_t rows)) {
    while (begin < end) {
        uint32_t h = begin / w->blocks, stop = (h + 1) * w->blocks < end ? (h + 1) * w->blocks : end;
        uint32_t first = begin % w->blocks * block, rows = (stop - begin) * block;
        rows_of(w, h, first, height - first < rows ? height - first : rows);
        begin = stop;
    }
}

static void gate_up_blocks(void *context, uint32_t begin, uint32_t end, uint32_t thread) {
    (void)thread;
    const expert_work *w = context;
    run_blocks(w, begin, end, WIDTH_BLOCK, w->m->width, gate_up_rows);
}

static void down_blocks(void *context, uint32_t begin, uint32_t end, uint32_t thread) {
    (void)thread;
    const expert_work *w = context;
    run_blocks(w, begin, end, HIDDEN_BLOCK, w->m->hidden, down_rows);
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
    const expert_weights *e = &m->expert[0]; /* the others of a layer are of the same types */
    bool quant_in = weight_is_quantised(e->gate.type), quant_down = weight_is_quantised(e->down.type);
    expert_work w = {.c = c,
                     .m = m,
                     .x = x,
                     .ids = ids,
                     .weights = weights,
                     .y = y,
                     .blocks = (n + QUANT_BLOCK - 1) / QUANT_BLOCK,
                     .quant_in = quant_in,
                     .quant_down = quant_down};
    pool_run(c->threads, c->hit_count * w.blocks, gather_input, &w);
    for (uint32_t h = 0; quant_down && h < c->hit_count; h++) {
        quant_input mid = part_of(c, &c->expert_mid, h, quant_groups(m->width));
        quant_clear_rest(&mid);
    }
    w.blocks = (m->width + WIDTH_BLOCK - 1) / WIDTH_BLOCK;
    pool_run_ranges(c->threads, c->hit_count * w.blocks, gate_up_blocks, &w);
    w.blocks = (m->hidden + HIDDEN_BLOCK - 1) / HIDDEN_BLOCK;
    pool_run_ranges(c->threads, c->hit_count * w.blocks, down_blocks, &w);
    pool_run(c->threads, n, combine_row, &w);
}
