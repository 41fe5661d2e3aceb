/* Attention on the GPU. Answers are held against softmax in double precision over the values that the cache holds, with bounds
 * from the arithmetic of the kernel that is meant; what no row may see is NaN, pages that none needs have no number, and every
 * sixteenth value is large, so that one key too many or too few shows. Rows alone, together and in other chunks must have equal
 * bits, and so must a recorded call. What is written to the cache has the bits of the CPU's kernels. */
#include <math.h>

#include "base/memory.h"
#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/cpu/ref.h"
#include "shard/kernels/cuda/attention.h"
#include "tests/test.h"

#define OK(call) CHECK_THAT((call) == cudaSuccess, "%s", cudaGetErrorString(cudaPeekAtLastError()))

enum { SLOTS = 4, ROWS_MAX = 160, CONTEXT = 8192, CONTEXT_LONG = 65536, SLAB_PAGES = 3, DIM_MAX = 512, HEADS_MAX = 16, PARTS_MAX = 24 };
static const double BASE = 1e4;

/* ---- what of the back end is not under test ---- */

__attribute__((weak)) status cuda_check(cuda_backend *c, cudaError_t e, const char *what) {
    (void)c;
    return e == cudaSuccess ? ST_OK : fail(ST_INTERNAL, "%s: %s", what, cudaGetErrorString(e));
}
__attribute__((weak)) status cuda_take(cuda_backend *c, size_t bytes, const char *what, void **out) {
    *out = NULL;
    status st = cuda_check(c, cudaMalloc(out, bytes), what);
    return st != ST_OK ? st : cuda_check(c, cudaMemsetAsync(*out, 0, bytes, c->stream), what);
}
__attribute__((weak)) void cuda_give(void *p) { (void)cudaFree(p); }
__attribute__((weak)) void cuda_put(cuda_backend *c, void *to, const void *host, size_t bytes) {
    OK(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, c->stream));
    OK(cudaStreamSynchronize(c->stream));
}

/* ---- numbers ---- */

static uint64_t random_state = 88172645463325252u;
static uint32_t random_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
static float uniform(void) { return (float)(int32_t)random_word() * 0x1p-31f; }
static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t over(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

static void *device_of(const void *host, size_t bytes) {
    void *p = NULL;
    OK(cudaMalloc(&p, bytes ? bytes : 1));
    if (host) OK(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    else OK(cudaMemset(p, 0xFF, bytes));
    OK(cudaDeviceSynchronize());
    return p;
}

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

static void open_backend(world *w) {
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

static void open_angles(world *w) {
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

static double stored(const shape *s, const unsigned char *rows, uint32_t key, uint32_t d) {
    size_t at = (size_t)key * s->dim + d;
    if (s->type == KV_F32) return ((const float *)(const void *)rows)[at];
    if (s->type == KV_Q8)
        return (double)((const int8_t *)rows)[at] * ((const float *)(const void *)(rows + 64 * (size_t)s->dim))[key];
    float x;
    uint32_t u = (uint32_t)((const uint16_t *)(const void *)rows)[at] << 16;
    memcpy(&x, &u, 4);
    return x;
}

static void store(const shape *s, unsigned char *rows, uint32_t key, const float *x) {
    size_t at = (size_t)key * s->dim;
    if (s->type == KV_F32) memcpy((float *)(void *)rows + at, x, s->dim * sizeof *x);
    if (s->type == KV_BF16) ref_bf16_from_f32((uint16_t *)(void *)rows + at, x, s->dim);
    if (s->type == KV_Q8)
        ((float *)(void *)(rows + 64 * (size_t)s->dim))[key] = ref_quantise_row((int8_t *)rows + at, x, s->dim);
}

/* x[pairs of dim] turned by the angle of the position. */
static void turn(const shape *s, double *x, uint32_t position) {
    for (uint32_t i = 0; i < s->pairs; i++) {
        double angle = position * pow(BASE, -2.0 * i / s->dim), a = x[i], b = x[i + s->dim / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + s->dim / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* One position of one KV head: random, and kept in double as a reader must see it. */
static void fill_position(world *w, uint32_t slot, uint32_t position, uint32_t head) {
    const shape *s = &w->s;
    unsigned char *rows = kv_head_page(&w->host, w->pages[slot][position / 64], head);
    size_t at = ((size_t)head * CONTEXT + position) * s->dim;
    double *key = w->keys[slot] + at, *value = w->values[slot] + at;
    float x[DIM_MAX], large = random_word() % 16 == 0 ? 64.0f : 1.0f;
    for (uint32_t d = 0; d < s->dim; d++) x[d] = 1.7f * uniform() * (s->half_size && large > 1 ? 8.0f : 1.0f);
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
    for (uint32_t d = 0; d < s->dim; d++) x[d] = large * uniform();
    store(s, rows, position % 64, x);
    for (uint32_t d = 0; d < s->dim; d++) value[d] = stored(s, rows, position % 64, d);
}

/* Pages of slots in a mixed order, NaN wherever no row of `parts` looks. */
static void fill_cache(world *w, const part *parts, uint32_t count) {
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

static world *world_open(const shape *s, const part *parts, uint32_t count) {
    world *w = memory_alloc(sizeof *w);
    w->s = *s;
    for (uint32_t d = 0; d < DIM_MAX; d++) w->q_norm[d] = 1 + 0.2f * uniform(), w->k_norm[d] = 1 + 0.2f * uniform();
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

static void world_close(world *w) {
    OK(cudaStreamSynchronize(w->c.stream));
    cuda_attention_close(&w->c);
    void *taken[] = {w->device_q, w->device_y, w->words, w->device_pages, w->l.kv.base, (void *)(uintptr_t)w->l.q_norm,
                     (void *)(uintptr_t)w->l.k_norm, w->angles.cosine, w->angles.sine, w->angles.offset_cosine,
                     w->angles.offset_sine, w->angles.page_cosine, w->angles.page_sine};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) OK(cudaFree(taken[i]));
    OK(cudaStreamDestroy(w->c.stream));
    for (uint32_t slot = 0; slot < SLOTS; slot++) free(w->keys[slot]), free(w->values[slot]);
    free(w->pool), free(w);
}

/* ---- a step ---- */

/* As rows_begin and rope_begin; rows behind those of the parts are padding. Returns how many there are. */
static uint32_t begin_rows(world *w, const part *parts, uint32_t count) {
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

/* [heads, dim] of a prepared query: always the same for a row. */
static void query_of(const world *w, uint32_t slot, uint32_t position, float *q) {
    uint64_t kept = random_state;
    random_state = (slot * 100003u + position + 1) * 0x9E3779B97F4A7C15u;
    for (uint32_t i = 0; i < w->s.heads * w->s.dim; i++) q[i] = 3.0f * uniform() / sqrtf((float)w->s.dim);
    random_state = kept;
}

static void put_queries(world *w, const part *parts, uint32_t count) {
    size_t row = (size_t)w->s.heads * w->s.dim, n = 0;
    float *q = memory_alloc_array(ROWS_MAX * row, sizeof *q);
    memset(q, 0xFF, ROWS_MAX * row * sizeof *q);
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < parts[i].count; j++) query_of(w, parts[i].slot, parts[i].position + j, q + row * n++);
    cuda_put(&w->c, w->device_q, q, ROWS_MAX * row * sizeof *q);
    memset(q, 0xFF, ROWS_MAX * row * sizeof *q);
    cuda_put(&w->c, w->device_y, q, ROWS_MAX * row * sizeof *q);
    free(q);
}

/* y[ROWS_MAX, heads · dim]; the caller's to free. */
static float *take_answers(world *w) {
    size_t bytes = (size_t)ROWS_MAX * w->s.heads * w->s.dim * sizeof(float);
    float *y = memory_alloc(bytes);
    OK(cudaStreamSynchronize(w->c.stream));
    OK(cudaGetLastError());
    OK(cudaMemcpy(y, w->device_y, bytes, cudaMemcpyDeviceToHost));
    return y;
}

static float *attend(world *w, const part *parts, uint32_t count) {
    begin_rows(w, parts, count);
    put_queries(w, parts, count);
    cuda_attention(&w->c.base, &w->l, w->device_q, w->device_y);
    return take_answers(w);
}

/* ---- what is right ---- */

/* Relative errors, as standard deviations of roundings, of one product of a score, and of a weight; and of sums. */
typedef struct arithmetic {
    double product, weight, sum;
} arithmetic;

static arithmetic arithmetic_of(const shape *s, uint32_t rows) {
    bool tensor = s->type != KV_F32 && (s->half_size ? s->dim == 512 && s->pairs == 64 : s->dim == 128 || s->dim == 256 || s->dim == 512);
    if (!tensor) return (arithmetic){0x1p-24, 0x1p-23, 0x1p-22};
    if (rows < ATTENTION_PREFILL_ROWS || s->invariant) return (arithmetic){0x1p-18, 0x1p-18, 0x1p-21};
    return (arithmetic){0x1p-10, 0x1p-10, 0x1p-21};
}

/* y[dim] of one row and head, and what it may be off by: a score by six deviations of its products' roundings and the rounding
 * of its sum, a weight by twice that of the worst score (once in itself, once in the sum) and its own rounding. */
static void exact(const world *w, uint32_t slot, uint32_t position, uint32_t head, const float *prepared, arithmetic a, double *y,
                  double *bound) {
    const shape *s = &w->s;
    uint32_t kv = (s->first_head + head) / s->heads_per_kv - s->first_kv;
    uint32_t from = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
    static double share[CONTEXT];
    double q[DIM_MAX], largest = -INFINITY, sum = 0, worst = 0;
    for (uint32_t d = 0; d < s->dim; d++) q[d] = prepared[head * s->dim + d];
    if (s->half_size) turn(s, q, position);
    for (uint32_t i = from; i <= position; i++) {
        const double *k = w->keys[slot] + ((size_t)kv * CONTEXT + i) * s->dim;
        double dot = 0, squares = 0, size = 0;
        for (uint32_t d = 0; d < s->dim; d++) dot += q[d] * k[d], squares += q[d] * k[d] * q[d] * k[d], size += fabs(q[d] * k[d]);
        share[i] = dot;
        worst = fmax(worst, 6 * a.product * sqrt(squares) + a.sum * size);
        largest = fmax(largest, dot);
    }
    for (uint32_t i = from; i <= position; i++) sum += share[i] = exp(share[i] - largest);
    for (uint32_t d = 0; d < s->dim; d++) y[d] = bound[d] = 0;
    for (uint32_t i = from; i <= position; i++) {
        const double *v = w->values[slot] + ((size_t)kv * CONTEXT + i) * s->dim;
        for (uint32_t d = 0; d < s->dim; d++) {
            y[d] += share[i] / sum * v[d];
            bound[d] += share[i] / sum * fabs(v[d]) * (2 * worst + 2 * a.weight + a.sum);
        }
    }
}

static double check_answers(world *w, const part *parts, uint32_t count, const float *y) {
    const shape *s = &w->s;
    double want[DIM_MAX], bound[DIM_MAX], nearest = 0;
    static float q[HEADS_MAX * DIM_MAX];
    uint32_t row = 0, wrong = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < parts[i].count; j++, row++) {
            query_of(w, parts[i].slot, parts[i].position + j, q);
            for (uint32_t h = 0; h < s->heads; h++) {
                exact(w, parts[i].slot, parts[i].position + j, h, q, arithmetic_of(s, parts[i].count), want, bound);
                const float *got = y + ((size_t)row * s->heads + h) * s->dim;
                for (uint32_t d = 0; d < s->dim; d++) {
                    double off = got[d] == want[d] ? 0 : fabs(got[d] - want[d]) / bound[d];
                    if (!(off <= 1) && !wrong++)
                        CHECK_THAT(off <= 1, "dim %u type %u half %u window %u: position %u row %u head %u element %u: %g not %g within %g",
                                   s->dim, s->type, s->half_size, s->window, parts[i].position + j, row, h, d, got[d], want[d], bound[d]);
                    nearest = fmax(nearest, off);
                }
            }
        }
    CHECK_THAT(wrong == 0, "%u elements", wrong);
    uint32_t pad = least(ROWS_MAX, row + row / 2 + 1);
    for (size_t i = (size_t)row * s->heads * s->dim; row < 64 && i < (size_t)pad * s->heads * s->dim; i++)
        if (y[i] != 0) {
            CHECK_THAT(y[i] == 0, "padded row: %g at %zu", y[i], i);
            break;
        }
    return nearest;
}

static void check_shape(const shape *s, const part *parts, uint32_t count) {
    static uint32_t shapes;
    if (TEST_SANITIZED && shapes++ % 3) return; /* a third of them, which still are of every kind */
    world *w = world_open(s, parts, count);
    float *y = attend(w, parts, count);
    check_answers(w, parts, count, y);
    free(y);
    world_close(w);
}

/* ---- tests ---- */

static const uint32_t depths[] = {0, 1, 63, 64, 65, 127, 255, 256, 511, 512, 1023, 1500};
enum { DEPTHS = sizeof depths / sizeof *depths };

static void check_decode(shape s) {
    part parts[DEPTHS + 1];
    for (uint32_t i = 0; i < DEPTHS; i++) parts[i] = (part){i % SLOTS, depths[i], 1};
    parts[DEPTHS] = (part){2, 700, 5};
    check_shape(&s, parts, DEPTHS + 1);
}

TEST(decode_float) {
    static const uint32_t dims[] = {16, 24, 64, 17};
    for (uint32_t i = 0; i < 4; i++)
        for (int type = 0; type < 3; type++) {
            shape s = {.dim = dims[i], .pairs = dims[i] / 2, .type = (kv_type)type, .heads = 4, .heads_per_kv = 2, .kv_heads = 2};
            s.window = i % 2 ? 100 : 0;
            check_decode(s);
            if (dims[i] % 8) continue;
            s.half_size = true;
            s.window = 0;
            s.pairs = dims[i] / 8;
            check_decode(s);
        }
}

TEST(decode_tensor) {
    static const uint32_t dims[] = {128, 256, 512};
    for (int type = KV_BF16; type <= KV_Q8; type++)
        for (uint32_t i = 0; i < 3; i++)
            for (int windowed = 0; windowed < 2; windowed++) {
                shape s = {.dim = dims[i], .pairs = dims[i] / 2, .type = (kv_type)type, .heads = 2, .heads_per_kv = 2, .kv_heads = 1};
                s.window = windowed ? 512 : 0;
                check_decode(s);
            }
}

/* GPUs with less shared memory than the tensor-core kernels of this width take. */
TEST(decode_little_memory) {
    shape s = {.dim = 512, .pairs = 256, .type = KV_BF16, .window = 100, .heads = 2, .heads_per_kv = 2, .kv_heads = 1};
    s.shared_bytes = 99 << 10;
    check_decode(s);
    s.pairs = 64;
    s.window = 0;
    s.half_size = true;
    check_decode(s);
}

TEST(decode_half_size) {
    for (int type = KV_BF16; type <= KV_Q8; type++)
        check_decode((shape){.dim = 512, .pairs = 64, .half_size = true, .type = (kv_type)type, .heads = 8, .heads_per_kv = 8,
                             .kv_heads = 1});
}

/* More splits than are merged at once, with and without a window. */
TEST(deep) {
    static const part parts[] = {{0, 5000, 1}, {1, 2111, 1}, {2, 2112, 2}, {3, 8190, 1}, {1, 4095, 1}};
    for (uint32_t i = 0; i < 6; i++) {
        shape s = {.dim = i % 3 == 0 ? 16 : i % 3 == 1 ? 128 : 512, .type = KV_BF16, .heads = 2, .heads_per_kv = 2, .kv_heads = 1};
        s.half_size = i == 5;
        s.pairs = s.half_size ? 64 : s.dim / 2;
        s.window = i < 2 ? 2100 : 0;
        check_shape(&s, parts, i % 3 == 2 ? 4 : 5);
    }
}

/* Rows in several launches, because a long context's partial sums are many. */
TEST(launches) {
    static const part parts[] = {{0, 300, 2}, {1, 280, 70}, {2, 0, 1}};
    check_shape(&(shape){.dim = 512, .pairs = 64, .half_size = true, .type = KV_BF16, .heads = 8, .heads_per_kv = 8, .kv_heads = 1,
                         .invariant = true, .is_long = true}, parts, 3);
}

/* Ranks' shares: heads of one KV head cut in two, more of them than a unit has, one of each. */
TEST(shares) {
    static const part parts[] = {{0, 130, 1}, {1, 70, 17}, {3, 3, 1}, {2, 200, 40}};
    static const shape shares[] = {{.heads = 5, .first_head = 3, .heads_per_kv = 4, .kv_heads = 2},
                                   {.heads = 16, .heads_per_kv = 16, .kv_heads = 1},
                                   {.heads = 11, .first_head = 18, .heads_per_kv = 16, .first_kv = 1, .kv_heads = 1},
                                   {.heads = 3, .first_head = 5, .heads_per_kv = 1, .first_kv = 5, .kv_heads = 3},
                                   {.heads = 9, .first_head = 12, .heads_per_kv = 8, .first_kv = 1, .kv_heads = 2}};
    for (uint32_t i = 0; i < 5; i++)
        for (int tensor = 0; tensor < 2; tensor++) {
            shape s = shares[i];
            s.dim = tensor ? 128 : 16;
            s.pairs = s.dim / 2;
            s.type = KV_BF16;
            check_shape(&s, parts, 4);
        }
}

TEST(prefill) {
    static const part parts[] = {{0, 0, 37}, {1, 700, 1}, {2, 250, 33}, {3, 63, 16}, {1, 95, 2}};
    static const uint32_t dims[] = {24, 128, 256, 512};
    for (int type = 0; type < 3; type++)
        for (uint32_t i = 0; i < 4; i++) {
            shape s = {.dim = dims[i], .pairs = dims[i] / 2, .type = (kv_type)type, .heads = 4, .heads_per_kv = 2, .kv_heads = 2};
            if (type == KV_F32 && i > 1) continue;
            s.window = (i + (uint32_t)type) % 2 ? 100 : 0;
            check_shape(&s, parts, 5);
        }
    for (int type = KV_BF16; type <= KV_Q8; type++) {
        shape s = {.dim = 512, .pairs = 64, .half_size = true, .type = (kv_type)type, .heads = 8, .heads_per_kv = 8, .kv_heads = 1};
        check_shape(&s, parts, 5);
    }
}

/* Products of warpgroups: as prefill; windows and spans that begin and end in the middle of pages and tiles, shares of heads, more
 * of them than a tile has, and what stays with the other kernel, which takes all of them elsewhere than on Hopper. */
TEST(prefill_wgmma) {
    static const part parts[] = {{0, 0, 37}, {1, 700, 1}, {2, 250, 65}, {3, 63, 16}, {1, 95, 2}};
    static const part deep[] = {{0, 0, 64}, {2, 1000, 81}, {1, 3, 1}};
    static const shape shapes[] = {{.dim = 256, .heads = 4, .heads_per_kv = 2, .kv_heads = 2},
                                   {.dim = 256, .window = 100, .heads = 4, .heads_per_kv = 2, .kv_heads = 2},
                                   {.dim = 256, .window = 100, .heads = 5, .first_head = 3, .heads_per_kv = 4, .kv_heads = 2},
                                   {.dim = 256, .type = KV_Q8, .heads = 2, .heads_per_kv = 2, .kv_heads = 1},
                                   {.dim = 512, .half_size = true, .heads = 8, .heads_per_kv = 8, .kv_heads = 1},
                                   {.dim = 512, .half_size = true, .heads = 16, .heads_per_kv = 16, .kv_heads = 1},
                                   {.dim = 512, .half_size = true, .heads = 3, .heads_per_kv = 8, .kv_heads = 1},
                                   {.dim = 256, .window = 512, .heads = 2, .heads_per_kv = 2, .kv_heads = 1}};
    OK(setenv("GEMMAD_WGMMA", "1", 1) ? cudaErrorUnknown : cudaSuccess);
    for (uint32_t i = 0; i < 8; i++) {
        shape s = shapes[i];
        s.pairs = s.half_size ? 64 : s.dim / 2;
        if (s.type != KV_Q8) s.type = KV_BF16;
        check_shape(&s, i < 6 ? parts : deep, i < 6 ? 5 : 3);
    }
    unsetenv("GEMMAD_WGMMA");
}

/* Row i of y and row j of z. */
static bool same_row(const world *w, const float *y, uint32_t i, const float *z, uint32_t j) {
    size_t row = (size_t)w->s.heads * w->s.dim;
    return !memcmp(y + i * row, z + j * row, row * sizeof *y);
}

/* A row's bits: alone, beside others, with more rows before it, and from a recording that was made for other rows. */
static void check_bits(shape s) {
    if (TEST_SANITIZED && s.dim > 256) return;
    static const part all[] = {{1, 600, 3}, {0, 1400, 1}, {2, 64, 1}, {3, 900, 1}, {2, 63, 1}};
    static const uint32_t first[] = {0, 3, 4, 5, 6};
    world *w = world_open(&s, all, 5);
    float *together = attend(w, all, 5);
    for (uint32_t i = 0; i < 5; i++) {
        float *alone = attend(w, &all[i], 1);
        for (uint32_t j = 0; j < all[i].count; j++) CHECK(same_row(w, together, first[i] + j, alone, j));
        free(alone);
    }
    cudaGraph_t graph;
    cudaGraphExec_t made;
    begin_rows(w, all + 2, 2);
    put_queries(w, all + 2, 2);
    OK(cudaStreamBeginCapture(w->c.stream, cudaStreamCaptureModeThreadLocal));
    cuda_attention(&w->c.base, &w->l, w->device_q, w->device_y);
    OK(cudaStreamEndCapture(w->c.stream, &graph));
    OK(cudaGraphInstantiate(&made, graph, 0));
    begin_rows(w, all + 1, 3);
    put_queries(w, all + 1, 3);
    OK(cudaGraphLaunch(made, w->c.stream));
    float *replayed = take_answers(w);
    for (uint32_t i = 0; i < 3; i++) CHECK(same_row(w, together, 3 + i, replayed, i));
    free(replayed);
    OK(cudaGraphExecDestroy(made));
    OK(cudaGraphDestroy(graph));
    free(together);
    world_close(w);
}

TEST(bits) {
    for (int type = 0; type < 3; type++) {
        check_bits((shape){.dim = 24, .pairs = 12, .type = (kv_type)type, .heads = 4, .heads_per_kv = 2, .kv_heads = 2});
        if (type == KV_F32) continue;
        check_bits((shape){.dim = 256, .pairs = 128, .type = (kv_type)type, .window = 512, .heads = 2, .heads_per_kv = 2, .kv_heads = 1});
        check_bits((shape){.dim = 512, .pairs = 64, .half_size = true, .type = (kv_type)type, .heads = 3, .heads_per_kv = 8,
                           .kv_heads = 1});
    }
}

/* With batch_invariant a prompt has the same bits in chunks of any size, and those of rows alone. */
TEST(chunks) {
    static const uint32_t chunks[] = {1, 7, 45};
    for (int tensor = 0; tensor < 2; tensor++) {
        shape s = {.dim = tensor ? 128 : 32, .pairs = 16, .type = KV_BF16, .heads = 2, .heads_per_kv = 2, .kv_heads = 1, .invariant = true};
        const part all = {2, 300, 90};
        world *w = world_open(&s, &all, 1);
        float *whole = attend(w, &all, 1);
        check_answers(w, &all, 1, whole);
        for (uint32_t c = 0; c < 3; c++)
            for (uint32_t at = 0; at < all.count; at += chunks[c]) {
                part some = {all.slot, all.position + at, least(chunks[c], all.count - at)};
                float *y = attend(w, &some, 1);
                for (uint32_t j = 0; j < some.count; j++) CHECK(same_row(w, whole, at + j, y, j));
                free(y);
            }
        free(whole);
        world_close(w);
    }
}

/* ---- prepare ---- */

static void prepare_head(const world *w, float *x, const float *norm, uint32_t position, bool turns) {
    static float cosine[DIM_MAX / 2], sine[DIM_MAX / 2];
    rope_angles(cosine, sine, position, BASE, w->s.dim, w->s.pairs);
    ref_rmsnorm(x, x, norm, w->l.eps, w->s.dim);
    if (turns) ref_rope(x, cosine, sine, w->s.dim / 2, w->s.pairs);
}

static void want_cached(world *w, uint32_t slot, uint32_t position, uint32_t head, float *k, float *v) {
    unsigned char *rows = kv_head_page(&w->host, w->pages[slot][position / 64], head);
    prepare_head(w, k, w->s.half_size ? NULL : w->k_norm, position, !w->s.half_size);
    store(&w->s, rows, position % 64, k);
    if (w->s.half_size) return;
    ref_rmsnorm(v, v, NULL, w->l.eps, w->s.dim);
    store(&w->s, rows + kv_rows_bytes(w->s.type, w->s.dim), position % 64, v);
}

static void check_prepare(shape s, bool owns_kv) {
    static const part parts[] = {{0, 62, 4}, {3, 1000, 1}, {1, 0, 20}, {2, 127, 1}};
    const uint32_t rows = 26, n = 30, dim = s.dim, half = dim / 2;
    world *w = world_open(&s, parts, 4);
    size_t q_row = (size_t)s.heads * dim, k_row = (size_t)s.kv_heads * dim;
    float *q = memory_alloc_array(n * q_row, sizeof *q), *k = memory_alloc_array(n * k_row, sizeof *k),
          *v = memory_alloc_array(n * k_row, sizeof *v), *got = memory_alloc_array(n * q_row, sizeof *q);
    for (size_t i = 0; i < n * q_row; i++) q[i] = uniform();
    for (size_t i = 0; i < n * k_row; i++) k[i] = uniform(), v[i] = uniform();
    memset(k + 5 * k_row, 0, dim * sizeof *k); /* a row of zeros: quantised without dividing by them */
    float *device_q = device_of(q, n * q_row * sizeof *q), *device_k = device_of(k, n * k_row * sizeof *k),
          *device_v = device_of(v, n * k_row * sizeof *v);
    CHECK(begin_rows(w, parts, 4) == rows);
    cuda_attention_prepare(&w->c.base, &w->l, device_q, owns_kv ? device_k : NULL, device_v);
    for (uint32_t i = 0, row = 0; i < 4; i++)
        for (uint32_t j = 0; j < parts[i].count; j++, row++) {
            uint32_t position = parts[i].position + j;
            for (uint32_t h = 0; h < s.heads; h++) {
                float *x = q + row * q_row + h * dim;
                prepare_head(w, x, w->q_norm, position, !s.half_size);
                for (uint32_t d = 0; s.half_size && d < half; d++)
                    if (d >= s.pairs) x[d] *= w->k_norm[d], x[d + half] *= w->k_norm[d + half];
            }
            for (uint32_t h = 0; owns_kv && h < s.kv_heads; h++)
                want_cached(w, parts[i].slot, position, h, k + row * k_row + h * dim, v + row * k_row + h * dim);
        }
    unsigned char *pool = memory_alloc(w->pool_bytes);
    OK(cudaStreamSynchronize(w->c.stream));
    OK(cudaMemcpy(pool, w->l.kv.base, w->pool_bytes, cudaMemcpyDeviceToHost));
    OK(cudaMemcpy(got, device_q, n * q_row * sizeof *q, cudaMemcpyDeviceToHost));
    CHECK(!memcmp(pool, w->pool, w->pool_bytes)); /* what is not written, too */
    CHECK(!memcmp(got, q, rows * q_row * sizeof *q));
    OK(cudaFree(device_q));
    OK(cudaFree(device_k));
    OK(cudaFree(device_v));
    free(pool), free(q), free(k), free(v), free(got);
    world_close(w);
}

TEST(prepare) {
    static const uint32_t dims[] = {16, 24, 36, 128, 256, 512};
    for (uint32_t i = 0; i < 6; i++)
        for (int type = 0; type < 3; type++)
            for (int half_size = 0; half_size < 2; half_size++) {
                shape s = {.dim = dims[i], .type = (kv_type)type, .half_size = half_size, .heads = 5, .heads_per_kv = 2, .kv_heads = 3};
                s.pairs = half_size ? dims[i] / 8 : dims[i] / 2;
                check_prepare(s, type != 1 || half_size);
            }
    check_prepare((shape){.dim = 64, .pairs = 32, .type = KV_BF16, .heads = 3, .heads_per_kv = 1, .kv_heads = 3}, true);
}

int main(void) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) test_skip("no GPU");
    RUN(prepare);
    RUN(decode_float);
    RUN(decode_tensor);
    RUN(decode_little_memory);
    RUN(decode_half_size);
    RUN(deep);
    RUN(launches);
    RUN(shares);
    RUN(prefill);
    RUN(prefill_wgmma);
    RUN(bits);
    RUN(chunks);
    return test_result();
}
