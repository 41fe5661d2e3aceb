/* Attention over paged KV. A unit is a tile of a span's rows and one KV head with all query heads that read it. Pages
 * and segments (runs of pages) are cut at absolute positions; each segment has its own online softmax, and segments are
 * merged in order, so a row's sums depend neither on how its prompt was chunked nor on who computed what. One work item
 * is a unit; where units are fewer than threads can use, as in decode, it is one segment of a unit, whose sums wait in a
 * slot until all of a wave are there. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/cpu/cpu_backend.h"
#include "shard/kernels/cpu/ref_math.h"

enum {
    SEGMENT_TOKENS = 512,
    TILE_QUERIES =
        64, /* rows · heads of a unit: amortises the widening of a page, and fits the second cache */
    SLOT_QUERIES = 16,  /* the same of a unit in segments */
    WIDEN_QUERIES = 24, /* from so many on a page is widened once for all of them */
    SLOTS_MIN = 64,
    SLOTS_PER_THREAD = 4
};

typedef struct attention_unit {
    const row_span *span;
    uint32_t first, rows;       /* inside the span */
    uint32_t kv_head;           /* local */
    uint32_t head_begin, group; /* local query heads that read it */
} attention_unit;

/* One segment of a unit. Queries are numbered row · group + head. */
typedef struct attention_slot {
    attention_unit unit;
    uint32_t segment;
    bool begins, ends; /* the unit's first, its last */
    float *m, *l, *o;  /* [queries], [queries], [queries, padded dim] */
} attention_slot;

struct attention_slots {
    attention_slot *slot;
    uint32_t *run; /* [slots + 1]: where each unit's slots begin in this wave */
    uint32_t max, count, runs, queries;
    float *memory;
    float *carried_m[2],
        *carried_l[2]; /* [queries]: of the unit that a wave cuts, read from one and written to the other */
    uint32_t wave;
};

typedef struct attention_work {
    cpu_backend *c;
    const attention_layer *l;
    const row_span *spans;
    uint32_t span_count, tile_rows;
    const float *q;
    float *y;
} attention_work;

/* One thread's working memory; every part begins at a cache line. */
typedef struct tile {
    attention_unit u;
    uint32_t queries, dim, padded; /* to whole registers */
    size_t row_stride; /* of keys and values; not a power of two, which would fall into few sets of a cache */
    float *q, *keys, *values, *scores, *rescale, *cosine, *sine;
    float *m, *l, *o, *total_m, *total_l;
} tile;

static size_t line(size_t floats) { return (floats + 15) / 16 * 16; }
static float *aligned(float *p) { return (float *)(((uintptr_t)p + 63) / 64 * 64); }
static uint32_t at_least(uint32_t x, uint32_t least) { return x > least ? x : least; }
static float *take(float **at, size_t floats) {
    float *p = *at;
    *at += line(floats);
    return p;
}

static void divide_scratch(tile *t, float *scratch, uint32_t queries, uint32_t dim, size_t *floats) {
    float *begin = aligned(scratch), *at = begin;
    t->dim = dim;
    t->padded = (uint32_t)line(dim);
    t->row_stride = t->padded + 16;
    t->q = take(&at, (size_t)queries * t->padded);
    t->o = take(&at, (size_t)queries * t->padded);
    t->keys = take(&at, KV_PAGE_TOKENS * t->row_stride);
    t->values = take(&at, KV_PAGE_TOKENS * t->row_stride);
    t->scores = take(&at, (size_t)queries * KV_PAGE_TOKENS);
    t->rescale = take(&at, queries);
    t->cosine = take(&at, dim / 2);
    t->sine = take(&at, dim / 2);
    t->m = take(&at, queries);
    t->l = take(&at, queries);
    t->total_m = take(&at, queries);
    t->total_l = take(&at, queries);
    if (floats) *floats = (size_t)(at - begin) + 16;
}

size_t cpu_attention_scratch(const cpu_backend_options *o) {
    tile t;
    size_t floats;
    divide_scratch(&t, NULL, at_least(o->heads_per_kv_max, TILE_QUERIES), o->head_dim_max, &floats);
    return floats;
}

/* ---- one page ---- */

/* Rows first … last-1 of a page of 8 bits, whose scales stand behind them, as floats. */
static void expand_bytes(const tile *t, const cpu_kernels *k, const void *page, float *to, uint32_t first,
                         uint32_t last) {
    const int8_t *bytes = page;
    const float *scales = (const float *)(const void *)(bytes + (size_t)KV_PAGE_TOKENS * t->dim);
    k->expand_q8(to, t->row_stride, bytes + (size_t)first * t->dim, t->dim, scales + first, t->dim,
                 last - first);
}

/* Rows first … last-1 of a page as floats, filled up to whole registers. */
static void widen(const tile *t, const cpu_kernels *k, kv_type type, const void *page, float *to,
                  uint32_t first, uint32_t last) {
    for (uint32_t i = first; i < last; i++) {
        float *row = to + i * t->row_stride;
        if (type == KV_F32) memcpy(row, (const float *)page + (size_t)i * t->dim, t->dim * sizeof *row);
        memset(row + t->dim, 0, (t->padded - t->dim) * sizeof *row);
    }
    if (type == KV_Q8) expand_bytes(t, k, page, to + first * t->row_stride, first, last);
    if (type == KV_BF16)
        k->expand_rows(to + first * t->row_stride, t->row_stride,
                       (const uint16_t *)page + (size_t)first * t->dim, t->dim, t->dim, last - first);
}

static kv_run run_of(kv_type type, const void *page, size_t at, size_t stride, uint32_t count) {
    return (kv_run){.data = (const char *)page + at * kv_element_bytes(type),
                    .stride = stride,
                    .count = count,
                    .paired = type == KV_BF16};
}

/* Scores of a half-size page as it is stored. The dimensions that rotate, and their neighbours up to a whole pair block,
 * are widened and turned by each key's offset in the page, a few keys at a time so that they stay in the first cache;
 * the others are read from the page itself, or, where it has 8 bits, from floats that stay in t->values. Meanwhile `next`
 * is fetched, a part with each few keys. */
static void scores_of_half(const attention_work *w, tile *t, const char *page, kv_ahead next, uint32_t first,
                           uint32_t last) {
    const attention_layer *l = w->l;
    const cpu_kernels *k = w->c->k;
    const rope *a = l->angles;
    kv_type type = l->kv.type == KV_BF16 ? KV_BF16 : KV_F32;
    uint32_t dim = t->dim, half = dim / 2,
             part = (a->pairs + KV_PAIR_BLOCK - 1) / KV_PAIR_BLOCK * KV_PAIR_BLOCK;
    size_t stride = 2 * (size_t)part, from_stride = l->kv.type == KV_Q8 ? t->row_stride : dim,
           row_bytes = from_stride * kv_element_bytes(type);
    size_t share = (size_t)(next.end - next.at) / (KV_PAGE_TOKENS / KV_ROWS_READ);
    kv_ahead part_of_next = {next.at, next.at, 1};
    for (uint32_t i = first / KV_ROWS_READ * KV_ROWS_READ; i < last; i += KV_ROWS_READ) {
        part_of_next.end += share;
        const char *rows = page + i * row_bytes;
        kv_run runs[4];
        uint32_t count = 0, begin = first > i ? first - i : 0,
                 end = last - i < KV_ROWS_READ ? last - i : KV_ROWS_READ;
        if (l->kv.type == KV_Q8) {
            rows = (const char *)(t->values + i * t->row_stride);
            expand_bytes(t, k, page, t->values + i * t->row_stride, i, i + end);
        }
        for (uint32_t side = 0; side < 2; side++) {
            float *turned = t->keys + side * part;
            const char *from = rows + (size_t)side * half * kv_element_bytes(type);
            if (type == KV_BF16) k->expand_rows(turned, stride, (const void *)from, dim, part, end);
            else
                for (uint32_t j = 0; j < end; j++)
                    memcpy(turned + j * stride, from + j * row_bytes, part * sizeof *turned);
            runs[count++] = run_of(KV_F32, turned, 0, stride, part);
            if (part >= half) continue;
            runs[count] = run_of(type, rows, side * half + part, from_stride, half - part);
            runs[count++].ahead = &part_of_next;
        }
        k->rotate_keys(t->keys, stride, part, l->k_norm, half, a->offset_cosine + (size_t)i * a->pairs,
                       a->offset_sine + (size_t)i * a->pairs, a->pairs, end);
        k->scores_page(t->scores + i, t->q, t->padded, t->queries, runs, count, begin, end);
    }
}

/* Few queries and a page of 8 bits: a few rows as floats at a time, so that they stay in the first cache. */
static void scores_of_bytes(tile *t, const cpu_kernels *k, const void *page, uint32_t first, uint32_t last) {
    kv_run run = run_of(KV_F32, t->keys, 0, t->row_stride, t->padded);
    for (uint32_t i = first / KV_ROWS_READ * KV_ROWS_READ; i < last; i += KV_ROWS_READ) {
        uint32_t end = last - i < KV_ROWS_READ ? last : i + KV_ROWS_READ;
        expand_bytes(t, k, page, t->keys, i, end);
        k->scores_page(t->scores + i, t->q, t->padded, t->queries, &run, 1, first > i ? first - i : 0,
                       end - i);
    }
}

static void values_of_bytes(tile *t, const cpu_kernels *k, const void *page, uint32_t first, uint32_t last) {
    kv_run run = run_of(KV_F32, t->values, 0, t->row_stride, t->padded);
    for (uint32_t i = first / KV_ROWS_READ * KV_ROWS_READ; i < last; i += KV_ROWS_READ) {
        uint32_t end = last - i < KV_ROWS_READ ? last : i + KV_ROWS_READ;
        expand_bytes(t, k, page, t->values, i, end);
        k->values_page(t->o, t->padded, t->rescale, t->scores + i, t->queries, &run,
                       first > i ? first - i : 0, end - i);
        for (uint32_t r = 0; r < t->queries; r++) t->rescale[r] = 1; /* is done */
    }
}

/* Keys and values as floats, a copy of them. */
static void widen_page(const attention_work *w, tile *t, const void *page, const void *value, uint32_t first,
                       uint32_t last) {
    const attention_layer *l = w->l;
    const rope *a = l->angles;
    widen(t, w->c->k, l->kv.type, page, t->keys, first, last);
    if (l->kv.half_size)
        w->c->k->rotate_keys(t->keys + first * t->row_stride, t->row_stride, t->dim / 2, l->k_norm,
                             t->dim / 2, a->offset_cosine + (size_t)first * a->pairs,
                             a->offset_sine + (size_t)first * a->pairs, a->pairs, last - first);
    widen(t, w->c->k, l->kv.type, value, t->values, first, last);
}

/* Queries turned back by the page's start: the angle position - start = 64·a + b. */
static void rotate_queries(const attention_work *w, tile *t, uint32_t page) {
    const attention_layer *l = w->l;
    const cpu_kernels *k = w->c->k;
    const rope *r = l->angles;
    uint32_t half = t->dim / 2;
    for (uint32_t i = 0; i < t->u.rows; i++) {
        uint32_t row = t->u.span->row + t->u.first + i, position = t->u.span->position + t->u.first + i;
        if (position / KV_PAGE_TOKENS < page) continue; /* sees nothing of this page */
        size_t a = (size_t)(position / KV_PAGE_TOKENS - page) * r->pairs,
               b = (size_t)(position % KV_PAGE_TOKENS) * r->pairs;
        k->compose_angles(t->cosine, t->sine, r->page_cosine + a, r->page_sine + a, r->step_cosine + b,
                          r->step_sine + b, r->pairs);
        for (uint32_t g = 0; g < t->u.group; g++) {
            const float *q = w->q + ((size_t)row * l->heads + t->u.head_begin + g) * t->dim;
            float *turned = t->q + ((size_t)i * t->u.group + g) * t->padded;
            memcpy(turned, q, r->pairs * sizeof *q);
            memcpy(turned + half, q + half, r->pairs * sizeof *q);
            k->rope(turned, t->cosine, t->sine, half, r->pairs);
        }
    }
}

/* Keys of a page that a row sees: first … last-1, none if first ≥ last. */
static void keys_seen(const attention_work *w, uint32_t position, uint32_t start, uint32_t *first,
                      uint32_t *last) {
    uint32_t window = w->l->window, least = window && position + 1 > window ? position + 1 - window : 0;
    *first = least > start ? least - start : 0;
    *last = position + 1 > start ? position + 1 - start : 0;
    if (*last > KV_PAGE_TOKENS) *last = KV_PAGE_TOKENS;
}

/* Scores become weights. A query that sees nothing of the page has weights of 0. */
static void softmax_queries(const attention_work *w, tile *t, uint32_t start) {
    for (uint32_t i = 0; i < t->u.rows; i++) {
        uint32_t first, last;
        keys_seen(w, t->u.span->position + t->u.first + i, start, &first, &last);
        for (uint32_t r = i * t->u.group; r < (i + 1) * t->u.group; r++) {
            float *scores = t->scores + (size_t)r * KV_PAGE_TOKENS;
            t->rescale[r] = 1;
            if (first < last) t->rescale[r] = w->c->k->softmax_page(scores, first, last, &t->m[r], &t->l[r]);
            else memset(scores, 0, KV_PAGE_TOKENS * sizeof *scores);
        }
    }
}

/* The page of bf16 or f32 as it is stored; the next one, if there is, is fetched while this one is read. */
static void stored_page(const attention_work *w, tile *t, const void *page, const void *value,
                        const char *next, uint32_t start, uint32_t first, uint32_t last) {
    const attention_layer *l = w->l;
    const cpu_kernels *k = w->c->k;
    size_t bytes = KV_PAGE_TOKENS * t->dim * kv_element_bytes(l->kv.type);
    kv_run values = run_of(l->kv.type, value, 0, t->dim, t->dim);
    kv_ahead after = {next, next ? next + bytes : NULL, 1};
    if (l->kv.half_size) { /* one half while keys are read, the other while they are read again as values */
        kv_ahead half = {next, next ? next + bytes / 2 : NULL, 1};
        scores_of_half(w, t, page, half, first, last);
        after.at = half.end;
        after.every = 2;
    } else {
        kv_run keys = run_of(l->kv.type, page, 0, t->dim, t->dim);
        kv_ahead own = {value, (const char *)value + bytes, 1};
        keys.ahead = &own;
        k->scores_page(t->scores, t->q, t->padded, t->queries, &keys, 1, first, last);
    }
    values.ahead = &after;
    softmax_queries(w, t, start);
    k->values_page(t->o, t->padded, t->rescale, t->scores, t->queries, &values, first, last);
}

static void byte_page(const attention_work *w, tile *t, const void *page, const void *value, uint32_t start,
                      uint32_t first, uint32_t last) {
    scores_of_bytes(t, w->c->k, page, first, last);
    softmax_queries(w, t, start);
    values_of_bytes(t, w->c->k, value, first, last);
}

/* The values were left in t->values as floats when the scores were computed. */
static void float_page(const attention_work *w, tile *t, uint32_t start, uint32_t first, uint32_t last) {
    kv_run values = run_of(KV_F32, t->values, 0, t->row_stride, t->padded);
    softmax_queries(w, t, start);
    w->c->k->values_page(t->o, t->padded, t->rescale, t->scores, t->queries, &values, first, last);
}

/* Few queries read a page as it is stored; many, and widths that do not fill blocks, a copy in floats. */
static void tile_page(const attention_work *w, tile *t, uint32_t index, bool is_last) {
    const attention_layer *l = w->l;
    const uint32_t *pages = t->u.span->pages;
    uint32_t start = index * KV_PAGE_TOKENS, begin = t->u.span->position + t->u.first, first, last, unused;
    keys_seen(w, begin, start, &first, &unused);
    keys_seen(w, begin + t->u.rows - 1, start, &unused, &last);
    const char *page = kv_head_page(&l->kv, pages[index], t->u.kv_head), *value = page;
    if (!l->kv.half_size) value += kv_rows_bytes(l->kv.type, t->dim);
    else rotate_queries(w, t, index);
    if (t->queries >= WIDEN_QUERIES || t->dim % (2 * KV_PAIR_BLOCK) != 0) {
        widen_page(w, t, page, value, first, last);
        kv_run keys = run_of(KV_F32, t->keys, 0, t->row_stride, t->padded);
        w->c->k->scores_page(t->scores, t->q, t->padded, t->queries, &keys, 1, first, last);
        float_page(w, t, start, first, last);
    } else if (l->kv.type == KV_Q8 && !l->kv.half_size) {
        byte_page(w, t, page, value, start, first, last);
    } else if (l->kv.type == KV_Q8) {
        scores_of_half(w, t, page, (kv_ahead){NULL, NULL, 1}, first, last);
        float_page(w, t, start, first, last);
    } else {
        const char *next = is_last ? NULL : kv_head_page(&l->kv, pages[index + 1], t->u.kv_head);
        stored_page(w, t, page, value, next, start, first, last);
    }
}

/* ---- segments of a unit ---- */

/* Positions that any of its rows sees. */
static void unit_extent(const attention_work *w, const attention_unit *u, uint32_t *least, uint32_t *end) {
    uint32_t begin = u->span->position + u->first, window = w->l->window;
    *least = window && begin + 1 > window ? begin + 1 - window : 0;
    *end = begin + u->rows;
}

static float *row_of(const attention_work *w, const attention_unit *u, uint32_t query) {
    size_t row = u->span->row + u->first + query / u->group;
    return w->y + (row * w->l->heads + u->head_begin + query % u->group) * w->l->kv.head_dim;
}

static void load_unit(const attention_work *w, tile *t, const attention_unit *u, uint32_t thread,
                      uint32_t queries_max) {
    divide_scratch(t, w->c->scratch[thread], queries_max, w->l->kv.head_dim, NULL);
    t->u = *u;
    t->queries = u->rows * u->group;
    for (uint32_t r = 0; r < t->queries; r++) {
        float *q = t->q + (size_t)r * t->padded;
        memcpy(q, w->q + (row_of(w, u, r) - w->y), t->dim * sizeof *q);
        memset(q + t->dim, 0, (t->padded - t->dim) * sizeof *q);
    }
}

/* Leaves the segment's sums in m, l and o. */
static void run_segment(const attention_work *w, tile *t, uint32_t segment) {
    uint32_t least, end, from = segment * SEGMENT_TOKENS, to = from + SEGMENT_TOKENS;
    unit_extent(w, &t->u, &least, &end);
    if (least > from) from = least;
    if (end < to) to = end;
    for (uint32_t r = 0; r < t->queries; r++) t->m[r] = -INFINITY, t->l[r] = 0;
    memset(t->o, 0, (size_t)t->queries * t->padded * sizeof *t->o);
    for (uint32_t page = from / KV_PAGE_TOKENS; page * KV_PAGE_TOKENS < to; page++)
        tile_page(w, t, page, (page + 1) * KV_PAGE_TOKENS >= to);
}

/* y, m and l of the segments so far take in another one. */
static void merge_segment(const cpu_kernels *k, float *y, float *m, float *l, const float *o, float segment_m,
                          float segment_l, uint32_t dim) {
    if (segment_m == -INFINITY) return; /* sees nothing of it */
    float largest = ref_max(segment_m, *m);
    float old = *m == -INFINITY ? 0.0f : ref_softmax_exp(*m - largest),
          new = ref_softmax_exp(segment_m - largest);
    k->scale(y, old, dim);
    k->add_scaled(y, new, o, dim);
    *l = *l * old + segment_l * new;
    *m = largest;
}

static void begin_row(float *y, float *m, float *l, uint32_t dim) {
    memset(y, 0, dim * sizeof *y);
    *m = -INFINITY;
    *l = 0;
}

/* The index-th unit of the spans, which are there. */
static attention_unit unit_at(const attention_work *w, uint32_t index) {
    const attention_layer *l = w->l;
    attention_unit u = {.kv_head = index % l->kv.kv_heads};
    index /= l->kv.kv_heads;
    for (uint32_t s = 0; s < w->span_count; s++) {
        uint32_t tiles = (w->spans[s].count + w->tile_rows - 1) / w->tile_rows;
        if (index < tiles) {
            u.span = &w->spans[s];
            break;
        }
        index -= tiles;
    }
    INVARIANT(u.span);
    u.first = index * w->tile_rows;
    u.rows = u.span->count - u.first < w->tile_rows ? u.span->count - u.first : w->tile_rows;
    /* Local query heads whose KV head is this one. */
    uint32_t global = l->first_kv + u.kv_head;
    uint32_t from = global * l->heads_per_kv, to = from + l->heads_per_kv;
    if (from < l->first_head) from = l->first_head;
    if (to > l->first_head + l->heads) to = l->first_head + l->heads;
    INVARIANT(from < to && to - from <= w->c->options.heads_per_kv_max);
    u.head_begin = from - l->first_head;
    u.group = to - from;
    return u;
}

/* Units of as many rows as give `queries` queries; returns how many there are. */
static uint32_t cut_units(attention_work *w, uint32_t queries) {
    uint32_t heads = w->l->heads_per_kv < w->l->heads ? w->l->heads_per_kv : w->l->heads, units = 0;
    w->tile_rows = at_least(queries / heads, 1);
    for (uint32_t i = 0; i < w->span_count; i++)
        units += (w->spans[i].count + w->tile_rows - 1) / w->tile_rows * w->l->kv.kv_heads;
    return units;
}

static void unit_item(void *context, uint32_t item, uint32_t thread) {
    attention_work *w = context;
    attention_unit u = unit_at(w, item);
    const cpu_kernels *k = w->c->k;
    tile t;
    load_unit(w, &t, &u, thread, at_least(w->c->options.heads_per_kv_max, TILE_QUERIES));
    for (uint32_t r = 0; r < t.queries; r++) begin_row(row_of(w, &u, r), &t.total_m[r], &t.total_l[r], t.dim);
    uint32_t least, end;
    unit_extent(w, &u, &least, &end);
    for (uint32_t segment = least / SEGMENT_TOKENS; segment * SEGMENT_TOKENS < end; segment++) {
        run_segment(w, &t, segment);
        for (uint32_t r = 0; r < t.queries; r++)
            merge_segment(k, row_of(w, &u, r), &t.total_m[r], &t.total_l[r], t.o + (size_t)r * t.padded,
                          t.m[r], t.l[r], t.dim);
    }
    for (uint32_t r = 0; r < t.queries; r++) k->scale(row_of(w, &u, r), 1.0f / t.total_l[r], t.dim);
}

/* ---- units in segments ---- */

void cpu_attention_slots_open(cpu_backend *c) {
    const cpu_backend_options *o = &c->options;
    attention_slots *s = c->attention_slots = memory_alloc(sizeof *s);
    s->max = at_least(o->threads * SLOTS_PER_THREAD, SLOTS_MIN);
    s->queries = at_least(o->heads_per_kv_max, SLOT_QUERIES);
    size_t each = 2 * line(s->queries) + s->queries * line(o->head_dim_max);
    s->slot = memory_alloc_array(s->max, sizeof *s->slot);
    s->run = memory_alloc_array(s->max + 1, sizeof *s->run);
    s->memory = memory_alloc_array(s->max * each + 4 * line(s->queries) + 16, sizeof *s->memory);
    float *at = aligned(s->memory);
    for (uint32_t i = 0; i < s->max; i++) {
        s->slot[i].m = take(&at, s->queries);
        s->slot[i].l = take(&at, s->queries);
        s->slot[i].o = take(&at, s->queries * line(o->head_dim_max));
    }
    for (int i = 0; i < 2; i++) {
        s->carried_m[i] = take(&at, s->queries);
        s->carried_l[i] = take(&at, s->queries);
    }
}

void cpu_attention_slots_close(cpu_backend *c) {
    attention_slots *s = c->attention_slots;
    if (!s) return;
    free(s->slot);
    free(s->run);
    free(s->memory);
    free(s);
}

static void slot_item(void *context, uint32_t item, uint32_t thread) {
    attention_work *w = context;
    attention_slot *s = &w->c->attention_slots->slot[item];
    tile t;
    load_unit(w, &t, &s->unit, thread, w->c->attention_slots->queries);
    t.m = s->m, t.l = s->l, t.o = s->o;
    run_segment(w, &t, s->segment);
}

/* One query of one unit takes in the segments of a wave. */
static void merge_item(void *context, uint32_t item, uint32_t thread) {
    (void)thread;
    attention_work *w = context;
    attention_slots *s = w->c->attention_slots;
    uint32_t run = item / s->queries, query = item % s->queries, dim = w->l->kv.head_dim;
    const attention_slot *slot = &s->slot[s->run[run]], *end = &s->slot[s->run[run + 1]];
    if (query >= slot->unit.rows * slot->unit.group) return;
    float *y = row_of(w, &slot->unit, query), m, l;
    if (slot->begins) begin_row(y, &m, &l, dim);
    else m = s->carried_m[s->wave % 2][query], l = s->carried_l[s->wave % 2][query];
    for (; slot < end; slot++)
        merge_segment(w->c->k, y, &m, &l, slot->o + query * line(dim), slot->m[query], slot->l[query], dim);
    if (slot[-1].ends) w->c->k->scale(y, 1.0f / l, dim);
    else s->carried_m[(s->wave + 1) % 2][query] = m, s->carried_l[(s->wave + 1) % 2][query] = l;
}

static void run_wave(attention_work *w) {
    attention_slots *s = w->c->attention_slots;
    s->run[s->runs] = s->count;
    pool_run(w->c->threads, s->count, slot_item, w);
    pool_run(w->c->threads, s->runs * s->queries, merge_item, w);
    s->count = s->runs = 0;
    s->wave++;
}

static void run_segments(attention_work *w, uint32_t units) {
    attention_slots *s = w->c->attention_slots;
    s->count = s->runs = 0;
    for (uint32_t i = 0; i < units; i++) {
        attention_unit u = unit_at(w, i);
        uint32_t least, end;
        unit_extent(w, &u, &least, &end);
        uint32_t first = least / SEGMENT_TOKENS, last = (end - 1) / SEGMENT_TOKENS;
        for (uint32_t segment = first; segment <= last; segment++) {
            if (s->count == s->max) run_wave(w);
            attention_slot *slot = &s->slot[s->count];
            if (segment == first || s->count == 0) s->run[s->runs++] = s->count;
            slot->unit = u;
            slot->segment = segment;
            slot->begins = segment == first;
            slot->ends = segment == last;
            s->count++;
        }
    }
    if (s->count) run_wave(w);
}

/* Whether some row sees more than a segment: otherwise there is nothing to cut. */
static bool is_deep(const attention_work *w) {
    for (uint32_t i = 0; i < w->span_count; i++)
        if (w->spans[i].position + w->spans[i].count > SEGMENT_TOKENS) return true;
    return false;
}

void cpu_attention(backend *b, const attention_layer *l, const float *q, float *y) {
    const step_rows *rows = &cpu_of(b)->rows;
    attention_work w = {.c = cpu_of(b),
                        .l = l,
                        .spans = rows->spans[l->table],
                        .span_count = rows->span_count,
                        .q = q,
                        .y = y};
    INVARIANT(l->kv.head_dim <= w.c->options.head_dim_max);
    uint32_t threads = pool_threads(w.c->threads), units = cut_units(&w, TILE_QUERIES);
    if (threads > 1 && units < SLOTS_PER_THREAD * threads && is_deep(&w))
        run_segments(&w, cut_units(&w, SLOT_QUERIES));
    else pool_run(w.c->threads, units, unit_item, &w);
}
