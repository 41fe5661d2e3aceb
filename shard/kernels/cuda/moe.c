/* Mixture of experts: scratch, and which way through the experts a call goes (moe.h). */
#include "shard/kernels/cuda/moe.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "shard/kernels/cuda/linear.h"

/* Addresses of a layer's matrices that do not lie at one distance from each other. */
typedef struct expert_table {
    const void *first; /* own expert 0's matrix: the key */
    uint32_t count;
    const unsigned char **place; /* device [count] */
} expert_table;

struct cuda_moe_state {
    float *logits;         /* [rows_max, experts] */
    uint32_t *counts;      /* [own_experts] */
    uint32_t *sorted;      /* [pairs] */
    expert_item *items;
    uint32_t *item_count;  /* [1] */
    uint16_t *x;           /* [pass rows, hidden rounded up] as bf16 */
    void *act;             /* [pairs, width rounded up], floats or bf16 */
    float *y_pair;         /* [pairs, hidden] */
    expert_table *tables;
    uint32_t table_count;
};

static uint32_t round_up(uint32_t x, uint32_t to) { return (x + to - 1) / to * to; }
static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* ---- memory ---- */

typedef struct moe_sizes {
    uint64_t logits, counts, sorted, items, item_count, x, act, y_pair;
} moe_sizes;

static uint32_t items_bound(uint32_t pairs, uint32_t own, uint32_t tokens) { return least(pairs, own + pairs / tokens); }

static moe_sizes sizes_of(const cuda_backend_options *o) {
    uint64_t rows = least(o->rows_max, MOE_PASS_ROWS), pairs = rows * o->active_max;
    return (moe_sizes){
        .logits = (uint64_t)o->rows_max * o->experts * sizeof(float),
        .counts = o->own_experts * sizeof(uint32_t),
        .sorted = pairs * sizeof(uint32_t),
        .items = (uint64_t)items_bound((uint32_t)pairs, o->own_experts, LISTED_TOKENS) * sizeof(expert_item),
        .item_count = sizeof(uint32_t),
        .x = rows * round_up(o->hidden, 8) * sizeof(uint16_t),
        .act = pairs * round_up(o->expert_width, 8) * sizeof(float),
        .y_pair = pairs * o->hidden * sizeof(float),
    };
}

uint64_t cuda_moe_bytes(const cuda_backend_options *o) {
    if (o->experts == 0) return 0;
    moe_sizes s = sizes_of(o);
    return s.logits + s.counts + s.sorted + s.items + s.item_count + s.x + s.act + s.y_pair;
}

status cuda_moe_open(cuda_backend *c) {
    if (c->options.experts == 0) return ST_OK;
    cuda_moe_state *m = c->moe = memory_alloc(sizeof *m);
    moe_sizes s = sizes_of(&c->options);
    status st;
    TRY_OR_FAIL(cuda_take(c, s.logits, "logits of the router", (void **)&m->logits));
    TRY_OR_FAIL(cuda_take(c, s.counts, "counts of experts", (void **)&m->counts));
    TRY_OR_FAIL(cuda_take(c, s.sorted, "tokens by expert", (void **)&m->sorted));
    TRY_OR_FAIL(cuda_take(c, s.items, "work of experts", (void **)&m->items));
    TRY_OR_FAIL(cuda_take(c, s.item_count, "work of experts", (void **)&m->item_count));
    TRY_OR_FAIL(cuda_take(c, s.x, "rounded inputs of experts", (void **)&m->x));
    TRY_OR_FAIL(cuda_take(c, s.act, "activations of experts", &m->act));
    TRY_OR_FAIL(cuda_take(c, s.y_pair, "outputs of experts", (void **)&m->y_pair));
    return ST_OK;
fail:
    cuda_moe_close(c);
    return st;
}

void cuda_moe_close(cuda_backend *c) {
    cuda_moe_state *m = c->moe;
    if (!m) return;
    for (uint32_t i = 0; i < m->table_count; i++) cuda_give((void *)m->tables[i].place);
    free(m->tables);
    cuda_give(m->logits);
    cuda_give(m->counts);
    cuda_give(m->sorted);
    cuda_give(m->items);
    cuda_give(m->item_count);
    cuda_give(m->x);
    cuda_give(m->act);
    cuda_give(m->y_pair);
    free(m);
    c->moe = NULL;
}

/* ---- where matrices lie ---- */

static void refuse(cuda_backend *c, const char *what) {
    if (c->failed != ST_OK) return;
    c->failed = ST_INTERNAL;
    snprintf(c->failure, sizeof c->failure, "mixture of experts: %s", what);
}

typedef enum expert_part { PART_GATE, PART_UP, PART_DOWN } expert_part;

static const weight *part_of(const expert_weights *e, expert_part part) {
    return part == PART_GATE ? &e->gate : part == PART_UP ? &e->up : &e->down;
}

/* The table of addresses, made when a layer is first called, which is outside recordings. NULL: refused. */
static const unsigned char *const *table_of(cuda_backend *c, const moe_layer *m, expert_part part) {
    cuda_moe_state *s = c->moe;
    const void *first = part_of(&m->expert[0], part)->data;
    for (uint32_t i = 0; i < s->table_count; i++)
        if (s->tables[i].first == first && s->tables[i].count == m->own_count) return s->tables[i].place;
    enum cudaStreamCaptureStatus capturing;
    if (cuda_check(c, cudaStreamIsCapturing(c->stream, &capturing), "looking for a recording") != ST_OK) return NULL;
    if (capturing != cudaStreamCaptureStatusNone) {
        refuse(c, "a layer is called for the first time inside a recording");
        return NULL;
    }
    const void **place = memory_alloc_array(m->own_count, sizeof *place);
    for (uint32_t e = 0; e < m->own_count; e++) place[e] = part_of(&m->expert[e], part)->data;
    void *device = NULL;
    if (cuda_take(c, m->own_count * sizeof *place, "addresses of experts", &device) == ST_OK && device) {
        cuda_put(c, device, place, m->own_count * sizeof *place);
        s->tables = memory_grow(s->tables, (s->table_count + 1) * sizeof *s->tables);
        s->tables[s->table_count++] = (expert_table){first, m->own_count, device};
    }
    free(place);
    return device;
}

/* Parts of a layer are placed one behind the other, so that one distance mostly says it all. */
static bool matrix_of(cuda_backend *c, const moe_layer *m, expert_part part, expert_matrix *out) {
    const weight *first = part_of(&m->expert[0], part);
    *out = (expert_matrix){first->data, 0, NULL, first->rows, first->cols, first->type};
    if (m->own_count > 1) {
        ptrdiff_t stride = (const char *)part_of(&m->expert[1], part)->data - (const char *)first->data;
        bool even = true;
        for (uint32_t e = 1; e < m->own_count; e++) {
            const weight *w = part_of(&m->expert[e], part);
            even = even && (const char *)w->data - (const char *)first->data == (ptrdiff_t)e * stride;
            if (w->type != first->type || w->rows != first->rows || w->cols != first->cols) {
                refuse(c, "experts of one layer differ in shape or type");
                return false;
            }
        }
        out->stride = (uint64_t)stride;
        if (!even && !(out->table = table_of(c, m, part))) return false;
    }
    return true;
}

/* ---- operators ---- */

/* ST_INTERNAL is kept: this layer is not what the back end was opened for. */
static bool fits_options(cuda_backend *c, const moe_layer *m, uint32_t n) {
    const cuda_backend_options *o = &c->options;
    bool fits = c->moe && n <= o->rows_max && m->experts <= o->experts && m->active <= o->active_max &&
                m->own_count <= o->own_experts && m->active <= MOE_ACTIVE_MAX && m->width <= o->expert_width && m->hidden <= o->hidden;
    if (!fits) refuse(c, "a layer is larger than what the back end was opened for");
    return fits;
}

void cuda_route(backend *b, const moe_layer *m, const float *h, uint32_t n, uint32_t *ids, float *weights) {
    cuda_backend *c = cuda_of(b);
    if (n == 0 || !fits_options(c, m, n)) return;
    if (m->router.type != WEIGHT_F32) {
        refuse(c, "the router's weights are not float32");
        return;
    }
    moe_route_launch(c->stream, m, h, n, c->rows.count, c->moe->logits, ids, weights);
}

typedef struct expert_parts {
    expert_matrix gate, up, down;
    bool gate_fits, down_fits; /* tensor cores take them */
} expert_parts;

/* Up to MOE_PASS_ROWS rows. */
static void run_experts(cuda_backend *c, const moe_layer *m, const expert_parts *p, const float *x, uint32_t n,
                        const uint32_t *ids, const float *weights, float *y) {
    cuda_moe_state *s = c->moe;
    cudaStream_t stream = c->stream;
    uint32_t pairs = n * m->active, act_stride = round_up(m->width, 4);
    expert_source source = {.ids = ids, .pairs = pairs, .active = m->active, .own_begin = m->own_begin,
                            .own_count = m->own_count};
    bool all_fit = p->gate_fits && p->down_fits;
    if (all_fit && n <= CUDA_STREAM_ROWS && pairs <= HIT_PAIRS_MAX && m->own_count <= HIT_EXPERTS_MAX) {
        source.one_row = n == 1;
        source.items_max = n == 1 ? pairs : least(pairs, m->own_count);
        moe_gate_up_launch(stream, &source, &p->gate, &p->up, &p->down, x, s->act, act_stride);
        if (pairs <= FUSED_PAIRS) {
            moe_down_few_launch(stream, &source, &p->down, s->act, act_stride, weights, y, n);
        } else {
            moe_down_pairs_launch(stream, &source, &p->down, s->act, act_stride, s->y_pair);
            moe_combine_launch(stream, &source, weights, s->y_pair, y, n, m->hidden);
        }
        return;
    }
    /* With few tokens an expert most of a large tile is empty. */
    bool many = all_fit && !c->options.batch_invariant && n > CUDA_STREAM_ROWS && pairs > 8 * m->experts;
    uint32_t tokens = many ? MANY_TOKENS : LISTED_TOKENS;
    moe_group_launch(stream, &source, tokens, s->counts, s->sorted, s->items, s->item_count);
    source.items_max = items_bound(pairs, m->own_count, tokens);
    source.items = s->items;
    source.item_count = s->item_count;
    source.sorted = s->sorted;
    if (many) {
        uint32_t x_stride = round_up(m->hidden, 8);
        act_stride = round_up(m->width, 8);
        linear_round_launch(stream, s->x, x_stride, x, m->hidden, m->hidden, n);
        moe_many_gate_up_launch(stream, &source, &p->gate, &p->up, s->x, x_stride, s->act, act_stride);
        moe_many_down_launch(stream, &source, &p->down, s->act, act_stride, s->y_pair);
    } else {
        if (p->gate_fits) moe_gate_up_launch(stream, &source, &p->gate, &p->up, &p->down, x, s->act, act_stride);
        else moe_plain_gate_up_launch(stream, &source, &p->gate, &p->up, x, s->act, act_stride);
        if (p->down_fits) moe_down_pairs_launch(stream, &source, &p->down, s->act, act_stride, s->y_pair);
        else moe_plain_down_launch(stream, &source, &p->down, s->act, act_stride, s->y_pair);
    }
    moe_combine_launch(stream, &source, weights, s->y_pair, y, n, m->hidden);
}

void cuda_experts(backend *b, const moe_layer *m, const float *x, uint32_t n, const uint32_t *ids, const float *weights,
                  float *y) {
    cuda_backend *c = cuda_of(b);
    if (n == 0 || !fits_options(c, m, n)) return;
    if (m->own_count == 0 || m->width == 0) {
        expert_source none = {.ids = ids, .pairs = n * m->active, .active = m->active};
        moe_combine_launch(c->stream, &none, weights, c->moe->y_pair, y, n, m->hidden);
        return;
    }
    expert_parts p;
    if (!matrix_of(c, m, PART_GATE, &p.gate) || !matrix_of(c, m, PART_UP, &p.up) || !matrix_of(c, m, PART_DOWN, &p.down))
        return;
    if (p.gate.type != p.up.type) {
        refuse(c, "gate and up of an expert are of different types");
        return;
    }
    p.gate_fits = moe_fragments_fit(p.gate.type, p.gate.cols) && m->hidden % 4 == 0 && ((uintptr_t)x & 15) == 0;
    p.down_fits = moe_fragments_fit(p.down.type, p.down.cols);
    for (uint32_t at = 0; at < n; at += MOE_PASS_ROWS) {
        size_t pair = (size_t)at * m->active, element = (size_t)at * m->hidden;
        run_experts(c, m, &p, x + element, least(n - at, MOE_PASS_ROWS), ids + pair, weights + pair, y + element);
    }
}
