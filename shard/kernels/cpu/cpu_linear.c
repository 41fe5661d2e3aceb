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

enum { PIECE_GROUPS = 48 };

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
    pool_run(c->threads, n * w.pieces, quantise_piece, &w);
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
    cpu_backend *c;
    const product *products;
    uint32_t count, items /* of one chunk of tokens */, strips /* of an item */, n;
    uint32_t end[PRODUCTS_MAX]; /* the item after each product's last */
} strips_work;

enum {
    CHUNK_TOKENS = 256, /* whose activations stay in the second-level cache while all strips pass */
    STRIPS_TOGETHER = 4,
    ITEM_BYTES = 96 << 10 /* of weights that few tokens take at once: threads finish together */
};

static void strips_item(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    const strips_work *s = context;
    uint32_t first = item / s->items * CHUNK_TOKENS, at = item % s->items, p = 0;
    uint32_t tokens = s->n - first < CHUNK_TOKENS ? s->n - first : CHUNK_TOKENS;
    while (at >= s->end[p]) p++;
    const product *to = &s->products[p];
    const weight *w = to->w;
    uint32_t row = (at - (p ? s->end[p - 1] : 0)) * s->strips * QUANT_ROWS, rows = s->strips * QUANT_ROWS;
    if (w->rows - row < rows) rows = w->rows - row;
    const char *data = (const char *)w->data + row / QUANT_ROWS * quant_strip_bytes(w->type, w->cols);
    quant_product_of(s->c->q, w->type)(to->y + row, to->y_stride, &s->c->input, first, tokens, data, rows,
                                       w->cols);
}

/* Few tokens: whole sets of the strips that kernels read side by side. Many: what stays in the cache. */
static uint32_t strips_of_item(const weight *w, uint32_t tokens) {
    uint64_t sets = ITEM_BYTES / (STRIPS_TOGETHER * quant_strip_bytes(w->type, w->cols) + 1);
    if (tokens > QUANT_BLOCK) return 2;
    return STRIPS_TOGETHER * (sets < 1 ? 1 : (uint32_t)sets);
}

static void linear_quantised(cpu_backend *c, const product *products, uint32_t count, uint32_t n) {
    strips_work s = {.c = c, .products = products, .count = count, .n = n};
    s.strips = strips_of_item(products[0].w, n);
    for (uint32_t p = 0; p < count; p++) {
        uint32_t rows = s.strips * QUANT_ROWS;
        s.items += (products[p].w->rows + rows - 1) / rows;
        s.end[p] = s.items;
    }
    pool_run(c->threads, (n + CHUNK_TOKENS - 1) / CHUNK_TOKENS * s.items, strips_item, &s);
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
