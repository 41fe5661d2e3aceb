#include "shard/kernels/timed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"

enum { EXPERTS_MAX = 4096 };

typedef struct named_weight {
    const weight *w;
    uint32_t op;
} named_weight;

typedef struct timed {
    backend base;
    backend_ops ops; /* without what the inner one does not have */
    backend *inner;
    bool waits; /* for the device after each operator */
    timed_totals totals;
    named_weight *names; /* sorted by address once `sorted` */
    uint32_t name_count, name_cap;
    bool sorted;
    bool hit[EXPERTS_MAX]; /* scratch, … */
    uint32_t *ids;         /* … of ids_cap, for back ends whose memory is not the host's */
    size_t ids_cap;
} timed;

static timed *timed_of(backend *b) { return (timed *)b; }

static uint32_t op_index(timed *t, const char *name) {
    timed_totals *a = &t->totals;
    for (uint32_t i = 0; i < a->op_count; i++)
        if (!strcmp(a->op[i].name, name)) return i;
    INVARIANT(a->op_count < TIMED_NAMES_MAX);
    snprintf(a->op[a->op_count].name, TIMED_NAME_BYTES, "%s", name);
    return a->op_count++;
}

/* What goes wrong on the device is kept there, and told by the step's own finish. */
static void wait_for(timed *t) {
    if (t->waits && t->inner->ops->finish(t->inner) != ST_OK) t->waits = false;
}

static void add(timed *t, uint32_t op, uint64_t begin) {
    wait_for(t);
    t->totals.op[op].ns += clock_now_ns() - begin;
    t->totals.op[op].calls++;
}

static void add_named(timed *t, const char *name, uint64_t begin) {
    wait_for(t);
    uint64_t end = clock_now_ns(); /* the search for the name is not the operator's */
    timed_operator *op = &t->totals.op[op_index(t, name)];
    op->ns += end - begin;
    op->calls++;
}

/* ---- names of matrices ---- */

static int by_address(const void *a, const void *b) {
    const weight *x = ((const named_weight *)a)->w, *y = ((const named_weight *)b)->w;
    return x < y ? -1 : x > y;
}

void timed_name(backend *b, const weight *w, const char *name) {
    timed *t = timed_of(b);
    if (t->name_count == t->name_cap) {
        t->name_cap = t->name_cap ? t->name_cap * 2 : 256;
        t->names = memory_grow(t->names, t->name_cap * sizeof *t->names);
    }
    t->names[t->name_count++] = (named_weight){w, op_index(t, name)};
    t->sorted = false;
}

static uint32_t op_of_weight(timed *t, const weight *w) {
    if (!t->sorted && t->name_count) qsort(t->names, t->name_count, sizeof *t->names, by_address);
    t->sorted = true;
    named_weight key = {w, 0};
    const named_weight *found =
        t->name_count ? bsearch(&key, t->names, t->name_count, sizeof key, by_address) : NULL;
    return found ? found->op : op_index(t, "linear");
}

void timed_wait(backend *b, bool waits) { timed_of(b)->waits = waits && !timed_of(b)->inner->is_host; }

void timed_take(backend *b, timed_totals *out) {
    timed *t = timed_of(b);
    *out = t->totals;
    for (uint32_t i = 0; i < t->totals.op_count; i++) t->totals.op[i].ns = t->totals.op[i].calls = 0;
    t->totals.weight_bytes = t->totals.expert_calls = t->totals.experts_hit = t->totals.expert_rows = 0;
}

static uint64_t bytes_of(const weight *w) { return weight_rows_bytes(w->type, w->rows, w->cols); }

/* ---- operators ---- */

/* One forwarder: what comes in goes on to the inner back end, and the time between is the operator's. */
#define FORWARD(name, parameters, arguments)                                                                 \
    static void timed_##name parameters {                                                                    \
        timed *t = timed_of(b);                                                                              \
        uint64_t begin = clock_now_ns();                                                                     \
        b = t->inner;                                                                                        \
        b->ops->name arguments;                                                                              \
        add_named(t, #name, begin);                                                                          \
    }

FORWARD(rope_begin, (backend * b, rope *r), (b, r))
FORWARD(embed, (backend * b, float *y, const weight *table, uint32_t first_id, uint32_t n, float factor),
        (b, y, table, first_id, n, factor))
FORWARD(gather, (backend * b, float *y, const float *x, const uint32_t *index, uint32_t n, uint32_t dim),
        (b, y, x, index, n, dim))
FORWARD(sum_blocks, (backend * b, float *y, const float *x, uint32_t blocks, size_t count),
        (b, y, x, blocks, count))
FORWARD(norm, (backend * b, float *y, const float *x, const float *w, float eps, uint32_t n, uint32_t dim),
        (b, y, x, w, eps, n, dim))
FORWARD(add_norm,
        (backend * b, float *h, const float *x, const float *w, float eps, float scale, float *y,
         const float *next, uint32_t n, uint32_t dim),
        (b, h, x, w, eps, scale, y, next, n, dim))
FORWARD(gelu_multiply,
        (backend * b, float *gate, size_t gate_stride, const float *up, size_t up_stride, uint32_t n,
         uint32_t dim),
        (b, gate, gate_stride, up, up_stride, n, dim))
FORWARD(softcap, (backend * b, float *x, float cap, uint32_t n, uint32_t dim), (b, x, cap, n, dim))
FORWARD(ple_mix,
        (backend * b, float *ple, const weight *table, const float *norm, float eps, float scale,
         float factor, uint32_t width, uint32_t n),
        (b, ple, table, norm, eps, scale, factor, width, n))
FORWARD(attention_prepare, (backend * b, const attention_layer *l, float *q, float *k, float *v),
        (b, l, q, k, v))

static void timed_attention(backend *b, const attention_layer *l, const float *q, float *y) {
    timed *t = timed_of(b);
    uint64_t begin = clock_now_ns();
    t->inner->ops->attention(t->inner, l, q, y);
    add_named(t, l->window ? "attention_sliding" : "attention_full", begin);
}

static void timed_linear(backend *b, const product *products, uint32_t count, const float *x, size_t x_stride,
                         uint32_t n) {
    timed *t = timed_of(b);
    uint32_t op = op_of_weight(t, products[0].w);
    uint64_t begin = clock_now_ns();
    t->inner->ops->linear(t->inner, products, count, x, x_stride, n);
    add(t, op, begin);
    for (uint32_t i = 0; i < count; i++) t->totals.weight_bytes += bytes_of(products[i].w);
}

static void timed_gated(backend *b, float *gate, float *up, const weight *g, const weight *u, const float *x,
                        size_t x_stride, uint32_t n) {
    timed *t = timed_of(b);
    uint32_t op = op_of_weight(t, g);
    uint64_t begin = clock_now_ns();
    t->inner->ops->gated(t->inner, gate, up, g, u, x, x_stride, n);
    add(t, op, begin);
    t->totals.weight_bytes += bytes_of(g) + bytes_of(u);
}

static void timed_route(backend *b, const moe_layer *m, const float *h, uint32_t n, uint32_t *ids,
                        float *weights) {
    timed *t = timed_of(b);
    uint64_t begin = clock_now_ns();
    t->inner->ops->route(t->inner, m, h, n, ids, weights);
    add_named(t, "route", begin);
    t->totals.weight_bytes += bytes_of(&m->router);
}

/* On the host; NULL: the device has failed. */
static const uint32_t *ids_on_host(timed *t, const uint32_t *ids, size_t count) {
    if (t->inner->is_host) return ids;
    if (count > t->ids_cap) {
        t->ids_cap = count * 2;
        t->ids = memory_grow(t->ids, t->ids_cap * sizeof *t->ids);
    }
    return t->inner->ops->get(t->inner, t->ids, ids, count * sizeof *ids) == ST_OK ? t->ids : NULL;
}

static void timed_experts(backend *b, const moe_layer *m, const float *x, uint32_t n, const uint32_t *ids,
                          const float *weights, float *y) {
    timed *t = timed_of(b);
    timed_totals *a = &t->totals;
    uint64_t begin = clock_now_ns();
    t->inner->ops->experts(t->inner, m, x, n, ids, weights, y);
    add_named(t, "experts", begin);
    INVARIANT(m->experts <= EXPERTS_MAX);
    if (!t->inner->is_host && !t->waits) return;
    ids = ids_on_host(t, ids, (size_t)n * m->active);
    if (!ids) return;
    memset(t->hit, 0, m->experts * sizeof *t->hit);
    for (uint32_t i = 0; i < n * m->active; i++) {
        if (ids[i] < m->experts) t->hit[ids[i]] = true;
        a->expert_rows += ids[i] - m->own_begin < m->own_count; /* unsigned: below the first is far above */
    }
    for (uint32_t e = 0; e < m->experts; e++) {
        if (!t->hit[e]) continue;
        a->experts_hit++;
        if (e - m->own_begin >= m->own_count) continue;
        const expert_weights *w = &m->expert[e - m->own_begin];
        a->weight_bytes += bytes_of(&w->gate) + bytes_of(&w->up) + bytes_of(&w->down);
    }
    a->expert_calls++;
}

/* ---- what is no operator ---- */

static status timed_alloc(backend *b, size_t bytes, const char *what, void **out) {
    return timed_of(b)->inner->ops->alloc(timed_of(b)->inner, bytes, what, out);
}
static void timed_release(backend *b, void *p, size_t bytes) {
    timed_of(b)->inner->ops->release(timed_of(b)->inner, p, bytes);
}
static status timed_finish(backend *b) { return timed_of(b)->inner->ops->finish(timed_of(b)->inner); }
static void timed_put(backend *b, void *to, const void *host, size_t bytes) {
    timed_of(b)->inner->ops->put(timed_of(b)->inner, to, host, bytes);
}
static status timed_get(backend *b, void *host, const void *from, size_t bytes) {
    return timed_of(b)->inner->ops->get(timed_of(b)->inner, host, from, bytes);
}
static void timed_get_later(backend *b, void *host, const void *from, size_t bytes) {
    timed_of(b)->inner->ops->get_later(timed_of(b)->inner, host, from, bytes);
}
static void timed_pages_change(backend *b, const page_change *changes, uint32_t count) {
    timed_of(b)->inner->ops->pages_change(timed_of(b)->inner, changes, count);
}
static void timed_rows_begin(backend *b, const step_rows *rows) {
    timed_of(b)->inner->ops->rows_begin(timed_of(b)->inner, rows);
}
/* Operators of a recording are not called one by one: there is nothing to time. */
static bool timed_replay(backend *b, uint64_t key) {
    timed *t = timed_of(b);
    return !t->waits && t->inner->ops->replay(t->inner, key);
}
static status timed_record_begin(backend *b, uint64_t key) {
    timed *t = timed_of(b);
    return t->waits ? ST_OK : t->inner->ops->record_begin(t->inner, key);
}
static status timed_record_end(backend *b, bool whole) {
    timed *t = timed_of(b);
    return t->waits ? ST_OK : t->inner->ops->record_end(t->inner, whole);
}
static void timed_forget(backend *b) { timed_of(b)->inner->ops->forget(timed_of(b)->inner); }
static status timed_scan(backend *b, const float *logits, uint32_t share, uint32_t first_id,
                         const scan_row *rows, uint32_t n, void *out, const float **adjusted) {
    timed *t = timed_of(b);
    uint64_t begin = clock_now_ns();
    status st = t->inner->ops->scan(t->inner, logits, share, first_id, rows, n, out, adjusted);
    add_named(t, "scan", begin);
    return st;
}
static status timed_rope_open(backend *b, double base, uint32_t head_dim, uint32_t pairs, uint32_t context,
                              uint32_t rows_max, rope **out) {
    backend *inner = timed_of(b)->inner;
    return inner->ops->rope_open(inner, base, head_dim, pairs, context, rows_max, out);
}
static void timed_rope_close(backend *b, rope *r) {
    timed_of(b)->inner->ops->rope_close(timed_of(b)->inner, r);
}
static void timed_close(backend *b) {
    if (!b) return;
    timed *t = timed_of(b);
    if (t->inner) t->inner->ops->close(t->inner);
    free(t->names);
    free(t->ids);
    free(t);
}

static const backend_ops timed_ops = {
    .close = timed_close,
    .alloc = timed_alloc,
    .release = timed_release,
    .finish = timed_finish,
    .put = timed_put,
    .get = timed_get,
    .get_later = timed_get_later,
    .pages_change = timed_pages_change,
    .rows_begin = timed_rows_begin,
    .replay = timed_replay,
    .record_begin = timed_record_begin,
    .record_end = timed_record_end,
    .forget = timed_forget,
    .scan = timed_scan,
    .rope_open = timed_rope_open,
    .rope_close = timed_rope_close,
    .rope_begin = timed_rope_begin,
    .embed = timed_embed,
    .gather = timed_gather,
    .sum_blocks = timed_sum_blocks,
    .norm = timed_norm,
    .add_norm = timed_add_norm,
    .linear = timed_linear,
    .gated = timed_gated,
    .gelu_multiply = timed_gelu_multiply,
    .softcap = timed_softcap,
    .ple_mix = timed_ple_mix,
    .attention_prepare = timed_attention_prepare,
    .attention = timed_attention,
    .route = timed_route,
    .experts = timed_experts,
};
/* An operator added to the interface needs its forwarder here. */
_Static_assert(sizeof(backend_ops) == 31 * sizeof(void (*)(void)), "every operator is forwarded");

void timed_open(backend **out, backend *inner) {
    timed *t = memory_alloc(sizeof *t);
    t->inner = inner;
    t->base = *inner;
    t->ops = timed_ops;
    if (!inner->ops->pages_change) t->ops.pages_change = NULL;
    if (!inner->ops->replay) t->ops.replay = NULL;
    if (!inner->ops->scan) t->ops.scan = NULL;
    t->base.ops = &t->ops;
    *out = &t->base;
}
