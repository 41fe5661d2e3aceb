/* Products over the pool. Float weights: blocks of rows against the activations as they are. Quantised ones:
 * the activations become int8 once for all products of a call, then strips are handed out; the whole batch
 * passes a strip while it is in the cache. */
#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/cpu/cpu_backend.h"

/* ---- float weights ---- */

typedef struct linear_work {
    const cpu_kernels *k;
    const product *p;
    const float *x;
    size_t x_stride;
    uint32_t n, block;
} linear_work;

static void linear_block(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    const linear_work *l = context;
    const weight *w = l->p->w;
    uint32_t begin = item * l->block, rows = w->rows - begin < l->block ? w->rows - begin : l->block;
    const char *data = (const char *)w->data + (size_t)begin * w->cols * weight_element_bytes(w->type);
    l->k->matmul[w->type](l->p->y + begin, l->p->y_stride, l->x, l->x_stride, data, w->cols, rows, l->n,
                          w->cols);
}

static void linear_float(cpu_backend *c, const product *p, const float *x, size_t x_stride, uint32_t n) {
    /* Blocks of 32 rows: small enough that threads finish together, large enough that a block's weights (32
     * rows of a few thousand columns) outlast the hand-out. */
    linear_work l = {c->k, p, x, x_stride, n, 32};
    pool_run(c->threads, (p->w->rows + l.block - 1) / l.block, linear_block, &l);
}

/* ---- activations ---- */

typedef struct quantise_work {
    const quant_kernels *k;
    const quant_input *to;
    const float *x;
    size_t x_stride;
    uint32_t cols, pieces; /* of a token */
} quantise_work;

enum { PIECE_GROUPS = 48, ALONE_GROUPS = 192 /* one thread has done them before another is awake */ };

static void quantise_piece(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    const quantise_work *w = context;
    uint32_t token = item / w->pieces, first = item % w->pieces * PIECE_GROUPS;
    uint32_t groups = w->to->groups - first < PIECE_GROUPS ? w->to->groups - first : PIECE_GROUPS;
    quant_token(w->k, w->to, token, w->x + token * w->x_stride, w->cols, first, groups);
}

static void quantise(cpu_backend *c, const float *x, size_t x_stride, uint32_t cols, uint32_t n) {
    INVARIANT(cols <= c->options.columns_max && n <= c->options.rows_max);
    quant_input *to = &c->input;
    to->tokens = n;
    to->groups = quant_groups(cols);
    to->block_rows = quant_block_rows(n);
    quantise_work w = {c->q, to, x, x_stride, cols, (to->groups + PIECE_GROUPS - 1) / PIECE_GROUPS};
    if (n * to->groups <= ALONE_GROUPS)
        for (uint32_t i = 0; i < n * w.pieces; i++) quantise_piece(&w, i, 0);
    else pool_run(c->threads, n * w.pieces, quantise_piece, &w);
    quant_clear_rest(to);
}

void cpu_quant_open(quant_input *in, uint64_t rows, uint64_t groups) {
    in->values = aligned_alloc(64, (rows * groups * QUANT_GROUP + 64) & ~(size_t)63);
    in->scale = memory_alloc_array(rows * groups, sizeof *in->scale);
    in->bias = memory_alloc_array(rows * groups, sizeof *in->bias);
    INVARIANT(in->values);
}

void cpu_quant_close(quant_input *in) {
    free(in->values);
    free(in->scale);
    free(in->bias);
}

/* ---- quantised weights ---- */

typedef struct strips_work {
    const cpu_backend *c;
    const product *products;
    uint32_t count, n;
    uint32_t end[PRODUCTS_MAX]; /* the unit after each product's last */
} strips_work;

enum {
    CHUNK_TOKENS = 256,         /* whose activations stay in the second-level cache while all strips pass */
    UNIT_ROWS = 4 * QUANT_ROWS, /* strips that kernels read side by side */
    MANY_ROWS = 2 * QUANT_ROWS, /* what stays in the cache while many tokens pass */
};

static void rows_against_tokens(const strips_work *s, const product *to, uint32_t row, uint32_t rows,
                                uint32_t first, uint32_t tokens) {
    const weight *w = to->w;
    if (w->rows - row < rows) rows = w->rows - row;
    const char *data = (const char *)w->data + weight_rows_bytes(w->type, row, w->cols);
    quant_product_of(s->c->q, w->type)(to->y + row, to->y_stride, &s->c->input, first, tokens, data, rows,
                                       w->cols);
}

static const product *product_of_unit(const strips_work *s, uint32_t unit, uint32_t *first) {
    uint32_t p = 0;
    while (unit >= s->end[p]) p++;
    *first = p ? s->end[p - 1] : 0;
    return &s->products[p];
}

/* Few tokens: a range of units may run over from one product into the next. */
static void stream_units(void *context, uint32_t begin, uint32_t end, uint32_t thread) {
    (void)thread;
    const strips_work *s = context;
    while (begin < end) {
        uint32_t first;
        const product *to = product_of_unit(s, begin, &first);
        uint32_t stop = s->end[to - s->products] < end ? s->end[to - s->products] : end;
        rows_against_tokens(s, to, (begin - first) * UNIT_ROWS, (stop - begin) * UNIT_ROWS, 0, s->n);
        begin = stop;
    }
}

static void tile_unit(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    const strips_work *s = context;
    uint32_t units = s->end[s->count - 1], chunk = item / units * CHUNK_TOKENS, first;
    const product *to = product_of_unit(s, item % units, &first);
    rows_against_tokens(s, to, (item % units - first) * MANY_ROWS, MANY_ROWS, chunk,
                        s->n - chunk < CHUNK_TOKENS ? s->n - chunk : CHUNK_TOKENS);
}

static void linear_quantised(cpu_backend *c, const product *products, uint32_t count, uint32_t n) {
    strips_work s = {.c = c, .products = products, .count = count, .n = n};
    uint32_t units = 0, rows = n <= QUANT_BLOCK ? UNIT_ROWS : MANY_ROWS;
    for (uint32_t p = 0; p < count; p++) {
        units += (products[p].w->rows + rows - 1) / rows;
        s.end[p] = units;
    }
    if (n <= QUANT_BLOCK) pool_run_ranges(c->threads, units, stream_units, &s);
    else pool_run(c->threads, (n + CHUNK_TOKENS - 1) / CHUNK_TOKENS * units, tile_unit, &s);
}

void cpu_linear(backend *b, const product *products, uint32_t count, const float *x, size_t x_stride,
                uint32_t n) {
    cpu_backend *c = cpu_of(b);
    INVARIANT(count <= PRODUCTS_MAX);
    if (n == 0) return;
    product quantised[PRODUCTS_MAX];
    uint32_t quantised_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (products[i].w->rows == 0) continue;
        if (weight_is_quantised(products[i].w->type)) quantised[quantised_count++] = products[i];
        else linear_float(c, &products[i], x, x_stride, n);
    }
    if (quantised_count == 0) return;
    quantise(c, x, x_stride, quantised[0].w->cols, n);
    linear_quantised(c, quantised, quantised_count, n);
}
