/* Paged attention on the host: the work lists of a step, and which kernels a layer's call goes to. */
#include "shard/kernels/cuda/attention.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

enum {
    SPLIT_PAGES_FULL = 4,    /* fewer in a split, and merging costs more than reading */
    SPLIT_PAGES_WINDOW = 2,  /* a window has so few pages that all of them should be under way at once */
    SPLITS_WANTED = 66,      /* 132 multiprocessors, two rounds of them with four KV heads */
    SPLITS_WANTED_FEW = 132, /* the same where there are one or two KV heads */
    HEADER_WORDS = 8         /* in front of row_items: keeps items aligned */
};
static const uint64_t PARTIAL_BYTES_MAX = (uint64_t)128 << 20;
static const uint32_t COUNTERS_MIN = 1 << 16;

typedef struct table_plan {
    uint32_t window, splits_max;
    uint32_t *words;         /* host: HEADER_WORDS, row_items, then items */
    uint32_t *device;        /* the same there */
    size_t items_at;         /* in words */
    uint32_t items_max;
    uint32_t items;          /* listed */
    bool complete;           /* rows of prefill spans are listed too */
} table_plan;

struct cuda_attention_state {
    table_plan table[PAGE_TABLES];
    attention_span *spans;   /* host, [rows_max / ATTENTION_PREFILL_ROWS + 1] */
    attention_span *device_spans;
    uint32_t span_count;     /* of prefill */
    uint32_t decode_rows, rows;
    float *partials;
    uint64_t partial_floats;
    uint32_t *counters;
    uint64_t counter_count;
    bool wgmma;              /* prefill may use it */
};

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t most(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t over(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
static size_t round_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

/* ---- sizes ---- */

static uint32_t splits_wanted(const cuda_backend_options *o) {
    return o->kv_heads_max <= 4 ? SPLITS_WANTED_FEW : SPLITS_WANTED;
}

static uint32_t window_pages(uint32_t window) { return (window + ATTENTION_PAGE - 2) / ATTENTION_PAGE + 1; }

/* Pages of one split of a context of `pages` pages. */
static uint32_t split_pages(const cuda_backend_options *o, uint32_t window, uint32_t pages) {
    if (window) return most(SPLIT_PAGES_WINDOW, over(window_pages(window), splits_wanted(o)));
    return most(SPLIT_PAGES_FULL, over(pages, splits_wanted(o)));
}

static uint32_t table_window(const cuda_backend_options *o, uint32_t table) { return table == 0 ? o->window : 0; }

/* A window may begin inside a split: one more. */
static uint32_t splits_max(const cuda_backend_options *o, uint32_t window) {
    uint32_t pages = over(o->context, ATTENTION_PAGE) + 1;
    if (window) return over(least(pages, window_pages(window)), split_pages(o, window, pages)) + 1;
    return least(splits_wanted(o), over(pages, SPLIT_PAGES_FULL));
}

static uint32_t most_splits(const cuda_backend_options *o) {
    return most(splits_max(o, table_window(o, 0)), splits_max(o, table_window(o, 1)));
}

static size_t table_words(const cuda_backend_options *o, uint32_t table, size_t *items_at, uint32_t *items_max) {
    *items_at = HEADER_WORDS + round_up((size_t)o->rows_max + 1, HEADER_WORDS);
    *items_max = o->rows_max * splits_max(o, table_window(o, table));
    return *items_at + (size_t)*items_max * (sizeof(attention_item) / sizeof(uint32_t));
}

static uint32_t partial_floats(uint32_t group, uint32_t head_dim) {
    return (uint32_t)round_up((size_t)group * (head_dim + 2), 4);
}

/* Slots of partial sums, and floats of all of them, of one row of the widest layer there may be. */
static void row_scratch(const cuda_backend_options *o, uint64_t *slots, uint64_t *floats) {
    uint32_t group = least(o->heads_per_kv_max, ATTENTION_GROUP), groups = over(o->heads_per_kv_max, ATTENTION_GROUP);
    *slots = (uint64_t)most_splits(o) * o->kv_heads_max * groups;
    *floats = *slots * partial_floats(group, o->head_dim_max);
}

static uint64_t scratch_floats(const cuda_backend_options *o) {
    uint64_t slots, floats, all, kept = PARTIAL_BYTES_MAX / sizeof(float);
    row_scratch(o, &slots, &floats);
    all = floats * o->rows_max;
    if (all < kept) kept = all;
    return kept > floats ? kept : floats;
}

static uint64_t scratch_counters(const cuda_backend_options *o) {
    uint64_t slots, floats;
    row_scratch(o, &slots, &floats);
    return slots > COUNTERS_MIN ? slots : COUNTERS_MIN;
}

static size_t spans_max(const cuda_backend_options *o) { return o->rows_max / ATTENTION_PREFILL_ROWS + 1; }

uint64_t cuda_attention_bytes(const cuda_backend_options *o) {
    uint64_t bytes = scratch_floats(o) * sizeof(float) + scratch_counters(o) * sizeof(uint32_t) +
                     spans_max(o) * sizeof(attention_span);
    for (uint32_t table = 0; table < PAGE_TABLES; table++) {
        size_t items_at;
        uint32_t items_max;
        bytes += table_words(o, table, &items_at, &items_max) * sizeof(uint32_t);
    }
    return bytes;
}

/* ---- open ---- */

static status open_table(cuda_backend *c, table_plan *t, uint32_t table) {
    const cuda_backend_options *o = &c->options;
    size_t words = table_words(o, table, &t->items_at, &t->items_max);
    t->window = table_window(o, table);
    t->splits_max = splits_max(o, t->window);
    INVARIANT(over(t->splits_max, ATTENTION_MERGE) <= 32);
    t->words = memory_alloc_array(words, sizeof *t->words);
    void *p;
    TRY(cuda_take(c, words * sizeof *t->words, "work lists of attention", &p));
    t->device = p;
    return ST_OK;
}

/* Products of warpgroups are Hopper's alone, and off until they have been seen to be right there. */
static bool wgmma_wanted(const cuda_backend *c) {
    const char *word = getenv("GEMMAD_WGMMA");
    return c->capability == 90 && word && strcmp(word, "1") == 0;
}

status cuda_attention_open(cuda_backend *c) {
    const cuda_backend_options *o = &c->options;
    if (o->head_dim_max > ATTENTION_DIM_MAX)
        return fail(ST_UNSUPPORTED, "heads of %u dimensions, at most %u on a GPU", o->head_dim_max,
                    ATTENTION_DIM_MAX);
    cuda_attention_state *a = c->attention = memory_alloc(sizeof *a);
    for (uint32_t table = 0; table < PAGE_TABLES; table++) TRY(open_table(c, &a->table[table], table));
    a->wgmma = wgmma_wanted(c);
    a->spans = memory_alloc_array(spans_max(o), sizeof *a->spans);
    a->partial_floats = scratch_floats(o);
    a->counter_count = scratch_counters(o);
    void *p;
    TRY(cuda_take(c, spans_max(o) * sizeof *a->spans, "spans of attention", &p));
    a->device_spans = p;
    TRY(cuda_take(c, a->partial_floats * sizeof(float), "partial sums of attention", &p));
    a->partials = p;
    TRY(cuda_take(c, a->counter_count * sizeof(uint32_t), "counters of attention", &p));
    a->counters = p;
    return ST_OK;
}

void cuda_attention_close(cuda_backend *c) {
    cuda_attention_state *a = c->attention;
    if (!a) return;
    for (uint32_t table = 0; table < PAGE_TABLES; table++) {
        free(a->table[table].words);
        cuda_give(a->table[table].device);
    }
    free(a->spans);
    cuda_give(a->device_spans);
    cuda_give(a->partials);
    cuda_give(a->counters);
    free(a);
    c->attention = NULL;
}

/* ---- plan ---- */

static bool is_prefill(const cuda_backend *c, const row_span *span) {
    return span->count >= ATTENTION_PREFILL_ROWS && !c->options.batch_invariant;
}

/* The splits of one row, cut at multiples of their length. */
static uint32_t list_row(const cuda_backend *c, const table_plan *t, attention_item *items, uint32_t count,
                         const row_span *span, uint32_t index) {
    uint32_t position = span->position + index, last = position / ATTENTION_PAGE;
    uint32_t begin = t->window && position >= t->window ? (position + 1 - t->window) / ATTENTION_PAGE : 0;
    uint32_t each = split_pages(&c->options, t->window, last + 1), from = begin / each, first = count;
    uint32_t splits = last / each - from + 1;
    INVARIANT(position < c->options.context && splits <= t->splits_max);
    for (uint32_t i = 0; i < splits; i++) {
        uint32_t page = most(begin, (from + i) * each), end = least(last + 1, (from + i + 1) * each);
        items[count++] = (attention_item){.row = span->row + index,
                                          .position = position,
                                          .slot = span->slot,
                                          .page = page,
                                          .pages = end - page,
                                          .split = i,
                                          .splits = splits,
                                          .first = first};
    }
    return count;
}

/* Lists rows of spans that are prefill, or of those that are not, behind what is listed. */
static void list_spans(const cuda_backend *c, uint32_t table, bool prefill) {
    table_plan *t = &c->attention->table[table];
    const step_rows *rows = &c->host_rows;
    uint32_t *row_items = t->words + HEADER_WORDS, listed = prefill ? t->words[0] : 0;
    attention_item *items = (attention_item *)(void *)(t->words + t->items_at);
    for (uint32_t s = 0; s < rows->span_count; s++) {
        const row_span *span = &rows->spans[table][s];
        if (is_prefill(c, span) != prefill) continue;
        INVARIANT(listed + span->count <= c->options.rows_max);
        for (uint32_t i = 0; i < span->count; i++) {
            row_items[listed++] = t->items;
            t->items = list_row(c, t, items, t->items, span, i);
        }
    }
    row_items[listed] = t->items;
    t->words[1] = listed;
    if (!prefill) t->words[0] = listed;
}

/* The lists as they are now, of items those from `from` on. */
static void put_lists(cuda_backend *c, const table_plan *t, uint32_t from) {
    const size_t item_words = sizeof(attention_item) / sizeof *t->words, at = t->items_at + from * item_words;
    if (from == 0) {
        cuda_put(c, t->device, t->words, (at + t->items * item_words) * sizeof *t->words);
        return;
    }
    cuda_put(c, t->device, t->words, t->items_at * sizeof *t->words);
    cuda_put(c, t->device + at, t->words + at, (t->items - from) * sizeof(attention_item));
}

static void plan_table(cuda_backend *c, uint32_t table) {
    table_plan *t = &c->attention->table[table];
    t->items = 0;
    list_spans(c, table, false);
    c->attention->decode_rows = t->words[0];
    t->complete = t->words[0] == c->host_rows.n;
    put_lists(c, t, 0);
}

/* Rows of prefill spans, of which there may be many items, are listed where a layer needs them: those that tiles take do
 * not. That is outside of recordings, which have no such spans. */
static void complete_lists(cuda_backend *c, uint32_t table) {
    table_plan *t = &c->attention->table[table];
    uint32_t before = t->items;
    if (t->complete) return;
    INVARIANT(!c->recording);
    list_spans(c, table, true);
    t->complete = true;
    put_lists(c, t, before);
}

void cuda_attention_plan(cuda_backend *c) {
    cuda_attention_state *a = c->attention;
    const step_rows *rows = &c->host_rows;
    for (uint32_t table = 0; table < PAGE_TABLES; table++) plan_table(c, table);
    a->rows = rows->n;
    a->span_count = 0;
    for (uint32_t s = 0; s < rows->span_count; s++) {
        const row_span *span = &rows->spans[0][s];
        if (!is_prefill(c, span)) continue;
        INVARIANT(a->span_count < spans_max(&c->options));
        a->spans[a->span_count++] = (attention_span){span->row, span->count, span->position, span->slot};
    }
    if (a->span_count) cuda_put(c, a->device_spans, a->spans, a->span_count * sizeof *a->spans);
}

/* ---- calls ---- */

static attention_device device_of(const cuda_backend *c) {
    return (attention_device){
        .stream = c->stream, .multiprocessors = c->multiprocessors, .shared_bytes_max = c->shared_bytes_max};
}

static attention_call call_of(const cuda_backend *c, const attention_layer *l) {
    const kv_view *kv = &l->kv;
    const rope *r = l->angles;
    cuda_attention_state *a = c->attention;
    const table_plan *t = &a->table[l->table];
    uint64_t rows_bytes = kv_rows_bytes(kv->type, kv->head_dim);
    uint32_t per_kv = least(l->heads_per_kv, l->heads);
    INVARIANT(l->window == t->window);
    attention_call call = {.base = kv->base,
                           .slab_bytes = kv->slab_bytes,
                           .page_bytes = kv->page_bytes,
                           .layer_offset = kv->layer_offset,
                           .head_bytes = rows_bytes * (kv->half_size ? 1 : 2),
                           .rows_bytes = rows_bytes,
                           .pages_per_slab = kv->pages_per_slab,
                           .kv_heads = kv->kv_heads,
                           .head_dim = kv->head_dim,
                           .type = kv->type,
                           .half_size = kv->half_size,
                           .heads = l->heads,
                           .first_head = l->first_head,
                           .heads_per_kv = l->heads_per_kv,
                           .first_kv = l->first_kv,
                           .window = l->window,
                           .pairs = r->pairs,
                           .group = least(per_kv, ATTENTION_GROUP),
                           .groups = over(per_kv, ATTENTION_GROUP),
                           .eps = l->eps,
                           .q_norm = l->q_norm,
                           .k_norm = l->k_norm,
                           .cosine = r->cosine,
                           .sine = r->sine,
                           .offset_cosine = r->offset_cosine,
                           .offset_sine = r->offset_sine,
                           .page_cosine = r->page_cosine,
                           .page_sine = r->page_sine,
                           .rows = c->rows,
                           .pages = c->rows.pages[l->table],
                           .rows_max = c->options.rows_max,
                           .partials = a->partials,
                           .counters = a->counters};
    call.lists = (attention_lists){.decode_rows = t->device,
                                   .rows = t->device + 1,
                                   .row_items = t->device + HEADER_WORDS,
                                   .items = (const attention_item *)(const void *)(t->device + t->items_at),
                                   .spans = a->device_spans};
    call.partial_floats = partial_floats(call.group, call.head_dim);
    return call;
}

/* Rows that a recording made now may be replayed for: up to half as many again, and one. */
static uint32_t rows_padded(const cuda_backend *c, uint32_t rows) {
    return least(c->options.rows_max, rows + rows / 2 + 1);
}

void cuda_attention_prepare(backend *b, const attention_layer *l, float *q, float *k, float *v) {
    cuda_backend *c = cuda_of(b);
    if (l->heads == 0 && (!k || l->kv.kv_heads == 0)) return;
    attention_device d = device_of(c);
    attention_call call = call_of(c, l);
    call.q = q;
    call.k = k;
    call.v = v;
    attention_prepare_launch(&d, &call, rows_padded(c, c->attention->rows));
}

/* Listed rows go through the kernels of items, as many at once as partial sums have room for. */
static void run_items(cuda_backend *c, const attention_device *d, attention_call *call, uint32_t splits,
                      bool tensor) {
    cuda_attention_state *a = c->attention;
    uint64_t slots = (uint64_t)splits * call->kv_heads * call->groups;
    uint64_t fit = a->partial_floats / (slots * call->partial_floats), counted = a->counter_count / slots;
    uint32_t listed = rows_padded(c, call->decode_only ? a->decode_rows : a->rows);
    if (counted < fit) fit = counted;
    INVARIANT(fit > 0);
    call->row_count = fit < listed ? (uint32_t)fit : listed;
    for (call->first_row = 0; call->first_row < listed; call->first_row += call->row_count) {
        call->fill = call->first_row == 0;
        if (tensor) INVARIANT(attention_decode_launch(d, call));
        else attention_float_launch(d, call);
    }
}

static uint32_t tiles_of(const cuda_attention_state *a, uint32_t tile_rows) {
    uint32_t tiles = 0;
    for (uint32_t s = 0; s < a->span_count; s++) tiles += over(a->spans[s].count, tile_rows);
    return tiles;
}

void cuda_attention(backend *b, const attention_layer *l, const float *q, float *y) {
    cuda_backend *c = cuda_of(b);
    cuda_attention_state *a = c->attention;
    if (l->heads == 0) return;
    attention_device d = device_of(c);
    attention_call call = call_of(c, l);
    call.q = (float *)(uintptr_t)q;
    call.y = y;
    bool tensor = attention_decode_takes(&d, &call);
    uint32_t wide = tensor && a->span_count && a->wgmma ? attention_wgmma_takes(&d, &call) : 0;
    if (wide || (tensor && a->span_count && attention_prefill_takes(&d, &call))) {
        attention_call tiles = call;
        tiles.group = least(least(l->heads_per_kv, l->heads), ATTENTION_TILE_HEADS);
        tiles.groups = over(least(l->heads_per_kv, l->heads), ATTENTION_TILE_HEADS);
        tiles.tile_rows = (wide ? wide : ATTENTION_TILE) / tiles.group;
        uint32_t count = tiles_of(a, tiles.tile_rows);
        INVARIANT(wide ? attention_wgmma_launch(&d, &tiles, count) : attention_prefill_launch(&d, &tiles, count));
        if (a->decode_rows == 0) return;
        call.decode_only = true;
    } else {
        complete_lists(c, l->table);
    }
    run_items(c, &d, &call, a->table[l->table].splits_max, tensor);
}
