/* A layer of attention over a cache that is filled position by position, and a back end around them: what the tests of attention and
 * of what comes before it share. What no row may see is NaN, pages that none needs have no number. */
#ifndef TESTS_UNIT_CUDA_ATTENTION_WORLD_H
#define TESTS_UNIT_CUDA_ATTENTION_WORLD_H

#include <math.h>

#include "base/memory.h"
#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cuda/attention.h"
#include "tests/unit/cuda/stand_in.h"

enum { SLOTS = 4, ROWS_MAX = 160, CONTEXT = 8192, CONTEXT_LONG = 65536, SLAB_PAGES = 3, DIM_MAX = 512, HEADS_MAX = 16, PARTS_MAX = 24 };
static const double BASE = 1e4;

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t over(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

/* ---- a layer, its cache, and a back end around them ---- */

typedef struct shape {
    uint32_t dim, pairs;
    bool half_size;
    kv_type type;
    uint32_t window, heads, first_head, heads_per_kv, first_kv, kv_heads;
    uint32_t shared_bytes;       /* that a block may have; 0: what the device says */
    bool invariant, is_long;     /* long: a context so long that not all rows' partial sums have room at once */
} shape;

/* Rows of one sequence. */
typedef struct part {
    uint32_t slot, position, count;
} part;

typedef struct world {
    shape s;
    cuda_backend c;
    rope angles;
    attention_layer l;
    kv_view host;                /* of pool */
    unsigned char *pool;
    size_t pool_bytes;
    uint32_t pages[SLOTS][CONTEXT_LONG / 64], depth[SLOTS], from[SLOTS];
    float q_norm[DIM_MAX], k_norm[DIM_MAX];
    float *device_q, *device_y;
    uint32_t *words, *device_pages;
    double *keys[SLOTS], *values[SLOTS]; /* [kv_heads, CONTEXT, dim]; keys turned */
} world;

static inline void open_backend(world *w) {
    cuda_backend *c = &w->c;
    const shape *s = &w->s;
    c->options = (cuda_backend_options){.rows_max = ROWS_MAX,
                                        .slots = SLOTS,
                                        .context = s->is_long ? CONTEXT_LONG : CONTEXT,
                                        .heads_max = HEADS_MAX,
                                        .head_dim_max = s->dim,
                                        .heads_per_kv_max = least(s->heads_per_kv, s->heads),
                                        .kv_heads_max = s->kv_heads,
                                        .window = s->window,
                                        .batch_invariant = s->invariant};
    int value = 0;
    OK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0));
    c->multiprocessors = (uint32_t)value;
    OK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    c->shared_bytes_max = s->shared_bytes ? s->shared_bytes : (size_t)value;
    OK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0));
    c->capability = 10 * value; /* of which only Hopper's, which is 9.0, matters here */
    OK(cudaStreamCreate(&c->stream));
    w->words = device_of(NULL, (1 + 3 * ROWS_MAX) * sizeof *w->words);
    w->device_pages = device_of(w->pages, sizeof w->pages);
    c->rows = (cuda_rows){.count = w->words,
                          .token = w->words + 1,
                          .position = w->words + 1 + ROWS_MAX,
                          .slot = w->words + 1 + 2 * ROWS_MAX,
                          .pages = {w->device_pages, w->device_pages},
                          .pages_per_slot = CONTEXT_LONG / 64};
    CHECK_STATUS(cuda_attention_open(c), ST_OK);
}

static inline void open_angles(world *w) {
    uint32_t pairs = w->s.pairs, pages = CONTEXT / 64 + 1;
    static float cosine[(CONTEXT / 64 + 1) * DIM_MAX / 2], sine[(CONTEXT / 64 + 1) * DIM_MAX / 2];
    w->angles = (rope){.base = BASE, .head_dim = w->s.dim, .pairs = pairs, .context = CONTEXT, .rows_max = ROWS_MAX};
    for (uint32_t i = 0; i < 64; i++) rope_angles(cosine + i * pairs, sine + i * pairs, i, BASE, w->s.dim, pairs);
    w->angles.offset_cosine = device_of(cosine, 64 * pairs * sizeof(float));
    w->angles.offset_sine = device_of(sine, 64 * pairs * sizeof(float));
    for (uint32_t i = 0; i < pages; i++) rope_angles(cosine + i * pairs, sine + i * pairs, 64 * i, BASE, w->s.dim, pairs);
    w->angles.page_cosine = device_of(cosine, pages * pairs * sizeof(float));
    w->angles.page_sine = device_of(sine, pages * pairs * sizeof(float));
    w->angles.cosine = device_of(NULL, ROWS_MAX * pairs * sizeof(float));
    w->angles.sine = device_of(NULL, ROWS_MAX * pairs * sizeof(float));
}

static inline double stored(const shape *s, const unsigned char *rows, uint32_t key, uint32_t d) {
    size_t at = (size_t)key * s->dim + d;
    if (s->type == KV_F32) return ((const float *)(const void *)rows)[at];
    if (s->type == KV_Q8)
        return (double)((const int8_t *)rows)[at] * ((const float *)(const void *)(rows + 64 * (size_t)s->dim))[key];
    return float_of((uint32_t)((const uint16_t *)(const void *)rows)[at] << 16);
}

static inline void store(const shape *s, unsigned char *rows, uint32_t key, const float *x) {
    size_t at = (size_t)key * s->dim;
    if (s->type == KV_F32) memcpy((float *)(void *)rows + at, x, s->dim * sizeof *x);
    if (s->type == KV_BF16) ref_bf16_from_f32((uint16_t *)(void *)rows + at, x, s->dim);
    if (s->type == KV_Q8)
        ((float *)(void *)(rows + 64 * (size_t)s->dim))[key] = ref_quantise_row((int8_t *)rows + at, x, s->dim);
}

/* x[pairs of dim] turned by the angle of the position. */
static inline void turn(const shape *s, double *x, uint32_t position) {
    for (uint32_t i = 0; i < s->pairs; i++) {
        double angle = position * pow(BASE, -2.0 * i / s->dim), a = x[i], b = x[i + s->dim / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + s->dim / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* One position of one KV head: random, and kept in double as a reader must see it. */
static inline void fill_position(world *w, uint32_t slot, uint32_t position, uint32_t head) {
    const shape *s = &w->s;
    unsigned char *rows = kv_head_page(&w->host, w->pages[slot][position / 64], head);
    size_t at = ((size_t)head * CONTEXT + position) * s->dim;
    double *key = w->keys[slot] + at, *value = w->values[slot] + at;
    float x[DIM_MAX], large = random_word() % 16 == 0 ? 64.0f : 1.0f;
    for (uint32_t d = 0; d < s->dim; d++) x[d] = 1.7f * random_float() * (s->half_size && large > 1 ? 8.0f : 1.0f);
    store(s, rows, position % 64, x);
    for (uint32_t d = 0; d < s->dim; d++) key[d] = stored(s, rows, position % 64, d);
    if (s->half_size) {
        memcpy(value, key, s->dim * sizeof *key);
        for (uint32_t d = 0; d < s->dim; d++)
            if (d % (s->dim / 2) < s->pairs && d < s->dim / 2 * 2) key[d] *= w->k_norm[d];
        turn(s, key, position);
        return;
    }
    rows += kv_rows_bytes(s->type, s->dim);
    for (uint32_t d = 0; d < s->dim; d++) x[d] = large * random_float();
    store(s, rows, position % 64, x);
    for (uint32_t d = 0; d < s->dim; d++) value[d] = stored(s, rows, position % 64, d);
}

/* Pages of slots in a mixed order, NaN wherever no row of `parts` looks. */
static inline void fill_cache(world *w, const part *parts, uint32_t count) {
    const shape *s = &w->s;
    uint32_t order[SLOTS * CONTEXT / 64], used = 0;
    for (uint32_t i = 0; i < SLOTS * CONTEXT / 64; i++) order[i] = i;
    memset(w->depth, 0, sizeof w->depth);
    memset(w->from, 0xFF, sizeof w->from);
    for (uint32_t i = 0; i < count; i++) {
        const part *p = &parts[i];
        uint32_t begin = s->window && p->position + 1 > s->window ? p->position + 1 - s->window : 0;
        if (p->position + p->count > w->depth[p->slot]) w->depth[p->slot] = p->position + p->count;
        w->from[p->slot] = least(w->from[p->slot], begin);
    }
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        if (w->depth[slot]) used += (w->depth[slot] - 1) / 64 - w->from[slot] / 64 + 1;
    used += 2;
    for (uint32_t i = used - 1; i > 0; i--) {
        uint32_t j = random_word() % (i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    memset(w->pages, 0xFF, sizeof w->pages);
    for (uint32_t slot = 0, next = 0; slot < SLOTS; slot++)
        for (uint32_t i = w->from[slot] / 64; i < over(w->depth[slot], 64); i++) w->pages[slot][i] = order[next++];
    uint64_t layer = s->kv_heads * kv_rows_bytes(s->type, s->dim) * (s->half_size ? 1 : 2);
    w->host = (kv_view){.page_bytes = layer + 768,
                        .slab_bytes = SLAB_PAGES * (layer + 768) + 1280,
                        .layer_offset = 256,
                        .pages_per_slab = SLAB_PAGES,
                        .kv_heads = s->kv_heads,
                        .head_dim = s->dim,
                        .type = s->type,
                        .half_size = s->half_size};
    w->pool_bytes = over(used, SLAB_PAGES) * w->host.slab_bytes;
    w->pool = memory_alloc(w->pool_bytes);
    w->host.base = w->pool;
    memset(w->pool, 0xFF, w->pool_bytes);
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        size_t n = w->depth[slot] ? (size_t)s->kv_heads * CONTEXT * s->dim : 1;
        w->keys[slot] = memory_alloc_array(n, sizeof(double));
        w->values[slot] = memory_alloc_array(n, sizeof(double));
        for (uint32_t p = w->from[slot]; p < w->depth[slot]; p++)
            for (uint32_t h = 0; h < s->kv_heads; h++) fill_position(w, slot, p, h);
    }
}

static inline world *world_open(const shape *s, const part *parts, uint32_t count) {
    world *w = memory_alloc(sizeof *w);
    w->s = *s;
    for (uint32_t d = 0; d < DIM_MAX; d++) w->q_norm[d] = 1 + 0.2f * random_float(), w->k_norm[d] = 1 + 0.2f * random_float();
    fill_cache(w, parts, count);
    open_backend(w);
    open_angles(w);
    size_t row = (size_t)s->heads * s->dim;
    w->device_q = device_of(NULL, ROWS_MAX * row * sizeof(float));
    w->device_y = device_of(NULL, ROWS_MAX * row * sizeof(float));
    w->l = (attention_layer){.kv = w->host,
                             .angles = &w->angles,
                             .heads = s->heads,
                             .first_head = s->first_head,
                             .heads_per_kv = s->heads_per_kv,
                             .first_kv = s->first_kv,
                             .window = s->window,
                             .table = s->window ? 0 : 1,
                             .q_norm = device_of(w->q_norm, sizeof w->q_norm),
                             .k_norm = device_of(w->k_norm, sizeof w->k_norm),
                             .eps = 1e-6f};
    w->l.kv.base = device_of(w->pool, w->pool_bytes);
    return w;
}

static inline void world_close(world *w) {
    OK(cudaStreamSynchronize(w->c.stream));
    CHECK(w->c.failed == ST_OK);
    cuda_attention_close(&w->c);
    void *taken[] = {w->device_q, w->device_y, w->words, w->device_pages, w->l.kv.base, (void *)(uintptr_t)w->l.q_norm,
                     (void *)(uintptr_t)w->l.k_norm, w->angles.cosine, w->angles.sine, w->angles.offset_cosine,
                     w->angles.offset_sine, w->angles.page_cosine, w->angles.page_sine};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) device_free(taken[i]);
    OK(cudaStreamDestroy(w->c.stream));
    for (uint32_t slot = 0; slot < SLOTS; slot++) free(w->keys[slot]), free(w->values[slot]);
    free(w->pool), free(w);
}

/* ---- a step ---- */

/* As rows_begin and rope_begin; rows behind those of the parts are padding. Returns how many there are. */
static inline uint32_t begin_rows(world *w, const part *parts, uint32_t count) {
    static row_span spans[PARTS_MAX];
    static uint32_t words[1 + 3 * ROWS_MAX];
    static float cosine[ROWS_MAX * DIM_MAX / 2], sine[ROWS_MAX * DIM_MAX / 2];
    uint32_t n = 0, pairs = w->s.pairs;
    memset(words, 0, sizeof words);
    for (uint32_t i = 0; i < count; n += parts[i++].count) {
        spans[i] = (row_span){n, parts[i].count, parts[i].position, parts[i].slot, w->pages[parts[i].slot]};
        for (uint32_t j = 0; j < parts[i].count; j++) {
            words[1 + ROWS_MAX + n + j] = parts[i].position + j;
            words[1 + 2 * ROWS_MAX + n + j] = parts[i].slot;
            rope_angles(cosine + (n + j) * pairs, sine + (n + j) * pairs, parts[i].position + j, BASE, w->s.dim, pairs);
        }
    }
    words[0] = n;
    cuda_put(&w->c, w->words, words, sizeof words);
    cuda_put(&w->c, w->angles.cosine, cosine, n * pairs * sizeof *cosine);
    cuda_put(&w->c, w->angles.sine, sine, n * pairs * sizeof *sine);
    w->c.host_rows = (step_rows){.n = n, .spans = {spans, spans}, .span_count = count};
    cuda_attention_plan(&w->c);
    return n;
}

#endif
