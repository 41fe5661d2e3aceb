/* What a step adds to the cache, and its queries made ready: one work item a row. */
#include <string.h>

#include "base/invariant.h"
#include "shard/kernels/cpu/cpu_backend.h"

typedef struct prepare_work {
    cpu_backend *c;
    const attention_layer *l;
    const row_span *spans;
    uint32_t span_count;
    float *q, *k, *v;
} prepare_work;

/* rows: 64 of keys or values, of which x is the index-th. */
static void store(const cpu_kernels *k, kv_type type, void *rows, uint32_t index, const float *x,
                  uint32_t dim, uint16_t *rounded) {
    size_t at = (size_t)index * dim;
    if (type == KV_F32) {
        memcpy((float *)rows + at, x, dim * sizeof *x);
        return;
    }
    if (type == KV_Q8) {
        float *scales = (float *)(void *)((int8_t *)rows + (size_t)KV_PAGE_TOKENS * dim);
        scales[index] = k->quantise_row((int8_t *)rows + at, x, dim);
        return;
    }
    uint16_t *y = (uint16_t *)rows + at;
    k->bf16_from_f32(rounded, x, dim);
    uint32_t paired = dim / KV_PAIR_BLOCK * KV_PAIR_BLOCK;
    for (uint32_t d = 0; d < paired; d += KV_PAIR_BLOCK)
        for (uint32_t j = 0; j < KV_PAIR_BLOCK / 2; j++) {
            y[d + 2 * j] = rounded[d + j];
            y[d + 2 * j + 1] = rounded[d + KV_PAIR_BLOCK / 2 + j];
        }
    memcpy(y + paired, rounded + paired, (dim - paired) * sizeof *y);
}

static const row_span *span_of_row(const prepare_work *w, uint32_t item, uint32_t *offset) {
    for (uint32_t s = 0; s < w->span_count; s++) {
        if (item < w->spans[s].count) {
            *offset = item;
            return &w->spans[s];
        }
        item -= w->spans[s].count;
    }
    INVARIANT(!"a row inside the spans");
    return NULL;
}

static void prepare_queries(const prepare_work *w, uint32_t row) {
    const attention_layer *l = w->l;
    const cpu_kernels *k = w->c->k;
    const rope *r = l->angles;
    uint32_t dim = l->kv.head_dim, half = dim / 2;
    for (uint32_t h = 0; h < l->heads; h++) {
        float *q = w->q + ((size_t)row * l->heads + h) * dim;
        k->rmsnorm(q, q, l->q_norm, l->eps, dim);
        if (l->kv.half_size) {
            /* k_norm belongs to the key; where nothing rotates it may as well scale the query. */
            k->multiply(q + r->pairs, l->k_norm + r->pairs, half - r->pairs);
            k->multiply(q + half + r->pairs, l->k_norm + half + r->pairs, half - r->pairs);
        } else {
            k->rope(q, r->cosine + (size_t)row * r->pairs, r->sine + (size_t)row * r->pairs, half, r->pairs);
        }
    }
}

static void prepare_row(void *context, uint32_t item, uint32_t thread) {
    prepare_work *w = context;
    const attention_layer *l = w->l;
    const cpu_kernels *k = w->c->k;
    const rope *r = l->angles;
    uint32_t offset, dim = l->kv.head_dim;
    const row_span *span = span_of_row(w, item, &offset);
    uint32_t row = span->row + offset, position = span->position + offset;
    prepare_queries(w, row);
    if (!w->k) return;
    uint16_t *rounded = (uint16_t *)(void *)w->c->scratch[thread];
    uint32_t page = span->pages[position / KV_PAGE_TOKENS];
    uint32_t at = position % KV_PAGE_TOKENS;
    for (uint32_t h = 0; h < l->kv.kv_heads; h++) {
        float *key = w->k + ((size_t)row * l->kv.kv_heads + h) * dim;
        char *head = kv_head_page(&l->kv, page, h);
        if (l->kv.half_size) {
            k->rmsnorm(key, key, NULL, l->eps, dim);
            store(k, l->kv.type, head, at, key, dim, rounded);
            continue;
        }
        /* A K=V model whose checkpoint gives no v_proj hands the same vector in as v (full-size cache never
         * does). */
        float *value = w->v + ((size_t)row * l->kv.kv_heads + h) * dim;
        k->rmsnorm(key, key, l->k_norm, l->eps, dim);
        k->rope(key, r->cosine + (size_t)row * r->pairs, r->sine + (size_t)row * r->pairs, dim / 2, r->pairs);
        k->rmsnorm(value, value, NULL, l->eps, dim);
        store(k, l->kv.type, head, at, key, dim, rounded);
        store(k, l->kv.type, head + kv_rows_bytes(l->kv.type, dim), at, value, dim, rounded);
    }
}

void cpu_attention_prepare(backend *b, const attention_layer *l, float *q, float *k, float *v) {
    cpu_backend *c = cpu_of(b);
    prepare_work w = {.c = c,
                      .l = l,
                      .spans = c->rows.spans[l->table],
                      .span_count = c->rows.span_count,
                      .q = q,
                      .k = k,
                      .v = v};
    pool_run(c->threads, c->rows.n, prepare_row, &w);
}
