/* Attention over paged KV. One work item is a tile of a span's rows and one KV head with all query heads that
 * read it: a page is expanded to float32 once for the tile, q·k is a product of the tile's query rows with
 * the page's 64 keys, and the online softmax walks the pages in order. Pages are cut at absolute positions,
 * so a row's sums do not depend on how its prompt was chunked. */
#include <string.h>

#include "base/invariant.h"
#include "shard/kernels/cpu/cpu_backend.h"

typedef struct attention_work {
    cpu_backend *c;
    const attention_layer *l;
    const row_span *spans;
    uint32_t span_count, kv_heads;
    float *q, *k, *v, *y;
    const float *q_in;
} attention_work;

static const float *expand(const cpu_kernels *k, kv_type type, const void *page, float *scratch, size_t n) {
    if (type == KV_F32) return page;
    k->f32_from_bf16(scratch, page, n);
    return scratch;
}

static void store(const cpu_kernels *k, kv_type type, void *head_page, size_t at, const float *x,
                  uint32_t dim) {
    if (type == KV_F32) memcpy((float *)head_page + at, x, dim * sizeof *x);
    else k->bf16_from_f32((uint16_t *)head_page + at, x, dim);
}

/* ---- prepare: one work item a row ---- */

static const row_span *span_of_row(const attention_work *w, uint32_t item, uint32_t *offset) {
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

static void prepare_queries(const attention_work *w, uint32_t row) {
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
    (void)thread;
    attention_work *w = context;
    const attention_layer *l = w->l;
    const cpu_kernels *k = w->c->k;
    const rope *r = l->angles;
    uint32_t offset, dim = l->kv.head_dim;
    const row_span *span = span_of_row(w, item, &offset);
    uint32_t row = span->row + offset, position = span->position + offset;
    prepare_queries(w, row);
    if (!w->k) return;
    uint32_t page = span->pages[position / KV_PAGE_TOKENS];
    size_t at = (size_t)(position % KV_PAGE_TOKENS) * dim;
    for (uint32_t h = 0; h < l->kv.kv_heads; h++) {
        float *key = w->k + ((size_t)row * l->kv.kv_heads + h) * dim;
        void *head = kv_head_page(&l->kv, page, h);
        if (l->kv.half_size) {
            k->rmsnorm(key, key, NULL, l->eps, dim);
            store(k, l->kv.type, head, at, key, dim);
            continue;
        }
        /* A K=V model whose checkpoint gives no v_proj hands the same vector in as v (full-size cache never
         * does). */
        float *value = w->v + ((size_t)row * l->kv.kv_heads + h) * dim;
        k->rmsnorm(key, key, l->k_norm, l->eps, dim);
        k->rope(key, r->cosine + (size_t)row * r->pairs, r->sine + (size_t)row * r->pairs, dim / 2, r->pairs);
        k->rmsnorm(value, value, NULL, l->eps, dim);
        store(k, l->kv.type, head, at, key, dim);
        store(k, l->kv.type, head, (size_t)KV_PAGE_TOKENS * dim + at, value, dim);
    }
}

static uint32_t rows_in(const row_span *spans, uint32_t count) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++) n += spans[i].count;
    return n;
}

void cpu_attention_prepare(backend *b, const attention_layer *l, const row_span *spans, uint32_t span_count,
                           float *q, float *k, float *v) {
    attention_work w = {
        .c = cpu_of(b), .l = l, .spans = spans, .span_count = span_count, .q = q, .k = k, .v = v};
    pool_run(w.c->threads, rows_in(spans, span_count), prepare_row, &w);
}

/* ---- attention: one work item a tile and a KV head ---- */

typedef struct tile {
    const row_span *span;
    uint32_t first, rows;                            /* inside the span */
    uint32_t kv_head;                                /* local */
    uint32_t head_begin, group;                      /* local query heads that read it */
    float *keys, *values, *queries, *scores, *m, *l; /* scratch */
} tile;

size_t cpu_attention_scratch(const cpu_backend_options *o) {
    size_t rows = (size_t)ATTENTION_TILE_ROWS * o->heads_per_kv_max;
    return 2 * (size_t)KV_PAGE_TOKENS * o->head_dim_max + rows * o->head_dim_max + rows * KV_PAGE_TOKENS +
           2 * rows;
}

static void divide_scratch(tile *t, float *scratch, uint32_t dim, uint32_t heads_max) {
    size_t rows = (size_t)ATTENTION_TILE_ROWS * heads_max;
    t->keys = scratch;
    t->values = t->keys + (size_t)KV_PAGE_TOKENS * dim;
    t->queries = t->values + (size_t)KV_PAGE_TOKENS * dim;
    t->scores = t->queries + rows * dim;
    t->m = t->scores + rows * KV_PAGE_TOKENS;
    t->l = t->m + rows;
}

/* Keys of a half-size page: u as stored, with the dimensions that rotate rebuilt as rope(u · k_norm) at the
 * offset inside the page. */
static void rebuild_keys(const attention_work *w, tile *t, const float *u, uint32_t keys) {
    const attention_layer *l = w->l;
    const rope *r = l->angles;
    uint32_t dim = l->kv.head_dim, half = dim / 2;
    for (uint32_t i = 0; i < keys; i++) {
        float *key = t->keys + (size_t)i * dim;
        memcpy(key, u + (size_t)i * dim, dim * sizeof *key);
        w->c->k->multiply(key, l->k_norm, r->pairs);
        w->c->k->multiply(key + half, l->k_norm + half, r->pairs);
        w->c->k->rope(key, r->offset_cosine + (size_t)i * r->pairs, r->offset_sine + (size_t)i * r->pairs,
                      half, r->pairs);
    }
}

/* Queries turned back by the page's start: the angle position - start = 64·a + b. */
static void rotate_queries(const attention_work *w, tile *t, uint32_t page) {
    const attention_layer *l = w->l;
    const rope *r = l->angles;
    uint32_t dim = l->kv.head_dim, half = dim / 2;
    for (uint32_t i = 0; i < t->rows; i++) {
        uint32_t row = t->span->row + t->first + i, position = t->span->position + t->first + i;
        if (position / KV_PAGE_TOKENS < page) continue; /* sees nothing of this page */
        size_t a = (size_t)(position / KV_PAGE_TOKENS - page) * r->pairs,
               b = (size_t)(position % KV_PAGE_TOKENS) * r->pairs;
        for (uint32_t g = 0; g < t->group; g++) {
            const float *q = w->q_in + ((size_t)row * l->heads + t->head_begin + g) * dim;
            float *out = t->queries + ((size_t)i * t->group + g) * dim;
            for (uint32_t p = 0; p < r->pairs; p++) {
                float cosine = (float)(r->page_cosine[a + p] * r->step_cosine[b + p] -
                                       r->page_sine[a + p] * r->step_sine[b + p]);
                float sine = (float)(r->page_sine[a + p] * r->step_cosine[b + p] +
                                     r->page_cosine[a + p] * r->step_sine[b + p]);
                out[p] = q[p] * cosine - q[half + p] * sine;
                out[half + p] = q[half + p] * cosine + q[p] * sine;
            }
        }
    }
}

static void tile_page(const attention_work *w, tile *t, uint32_t page, uint32_t tile_end) {
    const attention_layer *l = w->l;
    const cpu_kernels *k = w->c->k;
    uint32_t dim = l->kv.head_dim, start = page * KV_PAGE_TOKENS, rows = t->rows * t->group;
    uint32_t keys = tile_end - start < KV_PAGE_TOKENS ? tile_end - start : KV_PAGE_TOKENS;
    const char *head = kv_head_page(&l->kv, t->span->pages[page], t->kv_head);
    const float *key, *value;
    if (l->kv.half_size) {
        value = expand(k, l->kv.type, head, t->values, (size_t)keys * dim);
        rebuild_keys(w, t, value, keys);
        rotate_queries(w, t, page);
        key = t->keys;
    } else {
        size_t values_at = (size_t)KV_PAGE_TOKENS * dim * kv_element_bytes(l->kv.type);
        key = expand(k, l->kv.type, head, t->keys, (size_t)keys * dim);
        value = expand(k, l->kv.type, head + values_at, t->values, (size_t)keys * dim);
    }
    k->matmul[WEIGHT_F32](t->scores, KV_PAGE_TOKENS, t->queries, dim, key, dim, keys, rows, dim);
    for (uint32_t i = 0; i < t->rows; i++) {
        uint32_t position = t->span->position + t->first + i;
        uint32_t least = l->window && position + 1 > l->window ? position + 1 - l->window : 0;
        uint32_t first = least > start ? least - start : 0;
        uint32_t last = position + 1 > start ? position + 1 - start : 0;
        if (last > KV_PAGE_TOKENS) last = KV_PAGE_TOKENS;
        if (first >= last) continue;
        for (uint32_t g = 0; g < t->group; g++) {
            uint32_t r = i * t->group + g;
            float *scores = t->scores + (size_t)r * KV_PAGE_TOKENS;
            float *o = w->y + ((size_t)(t->span->row + t->first + i) * l->heads + t->head_begin + g) * dim;
            float rescale = k->softmax_page(scores, first, last, &t->m[r], &t->l[r]);
            k->values_page(o, rescale, scores, value, dim, first, last, dim);
        }
    }
}

static void run_tile(const attention_work *w, tile *t) {
    const attention_layer *l = w->l;
    uint32_t dim = l->kv.head_dim;
    uint32_t begin = t->span->position + t->first, end = begin + t->rows;
    uint32_t least = l->window && begin + 1 > l->window ? begin + 1 - l->window : 0;
    for (uint32_t i = 0; i < t->rows; i++) {
        size_t at = ((size_t)(t->span->row + t->first + i) * l->heads + t->head_begin) * dim;
        memcpy(t->queries + (size_t)i * t->group * dim, w->q_in + at, (size_t)t->group * dim * sizeof(float));
        memset(w->y + at, 0, (size_t)t->group * dim * sizeof(float));
    }
    for (uint32_t r = 0; r < t->rows * t->group; r++) {
        t->m[r] = -__builtin_inff();
        t->l[r] = 0;
    }
    for (uint32_t page = least / KV_PAGE_TOKENS; page * KV_PAGE_TOKENS < end; page++)
        tile_page(w, t, page, end);
    for (uint32_t i = 0; i < t->rows; i++)
        for (uint32_t g = 0; g < t->group; g++) {
            float *o = w->y + ((size_t)(t->span->row + t->first + i) * l->heads + t->head_begin + g) * dim;
            w->c->k->scale(o, 1.0f / t->l[i * t->group + g], dim);
        }
}

static void attention_item(void *context, uint32_t item, uint32_t thread) {
    attention_work *w = context;
    const attention_layer *l = w->l;
    tile t = {.kv_head = item % w->kv_heads};
    uint32_t index = item / w->kv_heads;
    for (uint32_t s = 0; s < w->span_count; s++) {
        uint32_t tiles = (w->spans[s].count + ATTENTION_TILE_ROWS - 1) / ATTENTION_TILE_ROWS;
        if (index < tiles) {
            t.span = &w->spans[s];
            break;
        }
        index -= tiles;
    }
    t.first = index * ATTENTION_TILE_ROWS;
    t.rows = t.span->count - t.first < ATTENTION_TILE_ROWS ? t.span->count - t.first : ATTENTION_TILE_ROWS;
    /* Local query heads whose KV head is this one. */
    uint32_t global = l->first_kv + t.kv_head;
    uint32_t from = global * l->heads_per_kv, to = from + l->heads_per_kv;
    if (from < l->first_head) from = l->first_head;
    if (to > l->first_head + l->heads) to = l->first_head + l->heads;
    INVARIANT(from < to && to - from <= w->c->options.heads_per_kv_max);
    t.head_begin = from - l->first_head;
    t.group = to - from;
    divide_scratch(&t, w->c->scratch[thread], l->kv.head_dim, w->c->options.heads_per_kv_max);
    run_tile(w, &t);
}

void cpu_attention(backend *b, const attention_layer *l, const row_span *spans, uint32_t span_count,
                   const float *q, float *y) {
    attention_work w = {.c = cpu_of(b), .l = l, .spans = spans, .span_count = span_count, .q_in = q, .y = y};
    INVARIANT(l->kv.head_dim <= w.c->options.head_dim_max);
    w.kv_heads = l->kv.kv_heads;
    uint32_t items = 0;
    for (uint32_t i = 0; i < span_count; i++)
        items += (spans[i].count + ATTENTION_TILE_ROWS - 1) / ATTENTION_TILE_ROWS * w.kv_heads;
    pool_run(w.c->threads, items, attention_item, &w);
}
