/* The operator of attention: against softmax in double precision, and bit for bit against itself when rows come in other
 * chunks, beside other sequences, with other numbers of threads and with every instruction set, at depths of several
 * segments and more segments than a wave has slots. */
#include <math.h>

#include "base/memory.h"
#include "shard/kernels/cpu/cpu_kernels.h"
#include "shard/kernels/ops.h"
#include "tests/test.h"

enum { HEADS = 6, KV_HEADS = 2, ROWS_MAX = 80 };

static uint64_t random_state = 11;
static float uniform(void) { /* -1 … 1 */
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(random_state >> 40) * 0x1p-23f - 1;
}

typedef struct shape {
    uint32_t dim, pairs, window, context;
    kv_type type;
    bool half_size;
} shape;

/* Raw q, k and v of a whole sequence, and its results. */
typedef struct sequence {
    const shape *s;
    uint32_t from;    /* rows before it only leave their keys and values */
    float *q, *k, *v; /* [context, heads · dim] and so on */
    float norm[2][256];
} sequence;

static void sequence_open(sequence *t, const shape *s) {
    t->s = s;
    size_t n = (size_t)s->context * s->dim;
    t->q = memory_alloc_array(n * HEADS, sizeof(float));
    t->k = memory_alloc_array(n * KV_HEADS, sizeof(float));
    t->v = memory_alloc_array(n * KV_HEADS, sizeof(float));
    for (size_t i = 0; i < n * HEADS; i++) t->q[i] = uniform();
    for (size_t i = 0; i < n * KV_HEADS; i++) t->k[i] = uniform(), t->v[i] = uniform();
    for (int i = 0; i < 256; i++) t->norm[0][i] = 0.3f, t->norm[1][i] = 1 + 0.2f * uniform();
}

static void sequence_close(sequence *t) { free(t->q), free(t->k), free(t->v); }

/* How a sequence is computed. */
typedef struct way {
    const char *isa;
    uint32_t threads, chunk;
    uint32_t last; /* so many rows at the end one by one */
    bool twice;    /* beside a copy of itself */
} way;

static void feed(backend *b, const attention_layer *l, const sequence *t, const uint32_t *pages, uint32_t at,
                 uint32_t count, bool twice, float *y) {
    const shape *s = t->s;
    static float q[ROWS_MAX * HEADS * 256], k[ROWS_MAX * KV_HEADS * 256], v[ROWS_MAX * KV_HEADS * 256],
        o[ROWS_MAX * HEADS * 256];
    uint32_t positions[ROWS_MAX], n = twice ? 2 * count : count;
    row_span spans[2] = {{0, count, at, 0, pages}, {count, count, at, 1, pages + (s->context + 63) / 64}};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t from = at + i % count;
        positions[i] = from;
        memcpy(q + i * HEADS * s->dim, t->q + (size_t)from * HEADS * s->dim, HEADS * s->dim * sizeof *q);
        memcpy(k + i * KV_HEADS * s->dim, t->k + (size_t)from * KV_HEADS * s->dim,
               KV_HEADS * s->dim * sizeof *k);
        memcpy(v + i * KV_HEADS * s->dim, t->v + (size_t)from * KV_HEADS * s->dim,
               KV_HEADS * s->dim * sizeof *v);
    }
    b->ops->rows_begin(
        b, &(step_rows){.n = n, .position = positions, .spans = {spans}, .span_count = twice ? 2 : 1});
    b->ops->rope_begin(b, l->angles);
    b->ops->attention_prepare(b, l, q, k, v);
    if (at + count <= t->from) return;
    b->ops->attention(b, l, q, o);
    CHECK_STATUS(b->ops->finish(b), ST_OK);
    memcpy(y + (size_t)at * HEADS * s->dim, o, (size_t)count * HEADS * s->dim * sizeof *y);
    if (twice)
        CHECK(!memcmp(o, o + (size_t)count * HEADS * s->dim, (size_t)count * HEADS * s->dim * sizeof *o));
}

static float *compute(const sequence *t, const way *w) {
    const shape *s = t->s;
    backend *b;
    if (w->isa) setenv("GEMMAD_ISA", w->isa, 1);
    CHECK_STATUS(cpu_backend_open(&b, &(cpu_backend_options){.threads = w->threads,
                                                             .rows_max = ROWS_MAX,
                                                             .active_max = 1,
                                                             .hidden = 1,
                                                             .head_dim_max = 256,
                                                             .heads_per_kv_max = HEADS / KV_HEADS}),
                 ST_OK);
    unsetenv("GEMMAD_ISA");
    uint32_t count = 2 * ((s->context + 63) / 64), *pages = memory_alloc_array(count, sizeof *pages);
    for (uint32_t i = 0; i < count; i++) pages[i] = i * 7 % count; /* 7 divides no count here */
    uint64_t page_bytes = KV_HEADS * kv_rows_bytes(s->type, s->dim) * (s->half_size ? 1 : 2);
    void *kv = memory_alloc(count * page_bytes);
    attention_layer l = {.kv = {.base = kv,
                                .slab_bytes = count * page_bytes,
                                .page_bytes = page_bytes,
                                .pages_per_slab = count,
                                .kv_heads = KV_HEADS,
                                .head_dim = s->dim,
                                .type = s->type,
                                .half_size = s->half_size},
                         .heads = HEADS,
                         .heads_per_kv = HEADS / KV_HEADS,
                         .window = s->window,
                         .q_norm = t->norm[0],
                         .k_norm = t->norm[1],
                         .eps = 1e-6f};
    CHECK_STATUS(
        b->ops->rope_open(b, 1e4, s->dim, s->pairs, s->half_size ? s->context : 0, ROWS_MAX, &l.angles),
        ST_OK);
    float *y = memory_alloc_array((size_t)s->context * HEADS * s->dim, sizeof *y);
    for (uint32_t at = 0, n; at < s->context; at += n) {
        uint32_t single = s->context - w->last;
        n = at >= single ? 1 : single - at < w->chunk ? single - at : w->chunk;
        feed(b, &l, t, pages, at, n, w->twice, y);
    }
    b->ops->rope_close(b, l.angles);
    b->ops->close(b);
    free(kv), free(pages);
    return y;
}

/* ---- double precision ---- */

static void norm_double(double *y, const float *x, const float *w, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] / sqrt(sum / n + 1e-6) * (w ? w[i] : 1);
}

static void rope_double(double *x, uint32_t position, const shape *s) {
    for (uint32_t i = 0; i < s->pairs; i++) {
        double angle = position * pow(1e4, -2.0 * i / s->dim), a = x[i], b = x[i + s->dim / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + s->dim / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* The last row's answer of one head. */
static void exact_row(const sequence *t, uint32_t head, double *y) {
    const shape *s = t->s;
    uint32_t row = s->context - 1, kv = head / (HEADS / KV_HEADS),
             first = s->window && row + 1 > s->window ? row + 1 - s->window : 0;
    double q[256], weights = 0;
    norm_double(q, t->q + ((size_t)row * HEADS + head) * s->dim, t->norm[0], s->dim);
    rope_double(q, row, s);
    memset(y, 0, s->dim * sizeof *y);
    for (uint32_t i = first; i <= row; i++) {
        double k[256], v[256], score = 0;
        size_t at = ((size_t)i * KV_HEADS + kv) * s->dim;
        norm_double(k, t->k + at, t->norm[1], s->dim);
        rope_double(k, i, s);
        norm_double(v, s->half_size ? t->k + at : t->v + at, NULL, s->dim);
        for (uint32_t d = 0; d < s->dim; d++) score += q[d] * k[d];
        double p = exp(score);
        weights += p;
        for (uint32_t d = 0; d < s->dim; d++) y[d] += p * v[d];
    }
    for (uint32_t d = 0; d < s->dim; d++) y[d] /= weights;
}

static void check_exact(const sequence *t, const float *y) {
    const shape *s = t->s;
    /* Scores reach some 20; a rounding of the cache is 2^-9 of a value, and of a key's 1/sqrt(dim) of a score. Of 8
     * bits it is up to 2^-8 of the largest value of a row, which is √3 times the root of their mean square. */
    double bound = s->type == KV_Q8 ? 4e-2 : s->type == KV_BF16 ? 2e-2 : 2e-5, worst = 0;
    for (uint32_t h = 0; h < HEADS; h++) {
        double want[256];
        exact_row(t, h, want);
        const float *got = y + ((size_t)(s->context - 1) * HEADS + h) * s->dim;
        for (uint32_t d = 0; d < s->dim; d++) worst = fmax(worst, fabs(got[d] - want[d]));
    }
    CHECK_THAT(worst < bound, "%u dimensions, window %u, %s%s: off by %g", s->dim, s->window,
               kv_type_name(s->type), s->half_size ? ", half size" : "", worst);
}

/* Under sanitizers a second segment is begun, and no more: their cost grows with the square of the depth. */
enum { SANITIZED_CONTEXT = 530 };

static void check_shape(const shape *wanted, uint32_t from, const way *ways, int count) {
    sequence t;
    shape lower = *wanted, *s = &lower;
    if (TEST_SANITIZED && from == 0 && s->context > SANITIZED_CONTEXT) s->context = SANITIZED_CONTEXT;
    sequence_open(&t, s);
    t.from = from;
    size_t unseen = (size_t)from * HEADS * s->dim;
    float *want = compute(&t, &(way){.isa = NULL, .threads = 1, .chunk = ROWS_MAX});
    check_exact(&t, want);
    for (int i = 0; i < count; i++) {
        bool slow = ways[i].isa && !strcmp(ways[i].isa, "scalar");
        if (slow && (s->context > 600 || s->type == KV_F32)) continue;
        if (TEST_SANITIZED && (slow || ways[i].threads == 1)) continue;
        float *got = compute(&t, &ways[i]);
        CHECK_THAT(!memcmp(got + unseen, want + unseen,
                           ((size_t)s->context * HEADS * s->dim - unseen) * sizeof *got),
                   "%u dimensions, %u pairs, window %u, %s%s: %s, %u threads, chunks of %u", s->dim, s->pairs,
                   s->window, kv_type_name(s->type), s->half_size ? ", half size" : "",
                   ways[i].isa ? ways[i].isa : "best", ways[i].threads, ways[i].chunk);
        free(got);
    }
    free(want);
    sequence_close(&t);
}

TEST(a_row_has_the_same_bits_every_way) {
    static const shape shapes[] = {{64, 32, 0, 1100, KV_BF16, false}, {64, 32, 500, 600, KV_F32, false},
                                   {128, 16, 0, 600, KV_BF16, true},  {256, 32, 0, 1100, KV_BF16, true},
                                   {128, 40, 0, 600, KV_F32, true},   {32, 4, 0, 600, KV_BF16, true},
                                   {18, 5, 100, 600, KV_BF16, false}, {256, 128, 520, 1100, KV_BF16, false},
                                   {48, 6, 0, 600, KV_F32, true},     {64, 32, 0, 600, KV_Q8, false},
                                   {128, 16, 0, 600, KV_Q8, true},    {18, 5, 100, 300, KV_Q8, false}};
    static const way ways[] = {{NULL, 1, 7, 0, false},          {NULL, 3, ROWS_MAX, 40, false},
                               {NULL, 3, 11, 0, true},          {"avx2", 2, 33, 5, false},
                               {"avx2", 1, ROWS_MAX, 3, false}, {"scalar", 2, 64, 2, false}};
    /* Threads share the work of one shape as of another. */
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i += TEST_RANKS_AS_THREADS ? 4 : 1)
        check_shape(&shapes[i], 0, ways, sizeof ways / sizeof *ways);
}

/* 2 KV heads of 40 segments each are more than the 64 slots: a unit is cut by a wave and goes on in the next. */
TEST(more_segments_than_slots) {
    static const shape deep = {32, 8, 0, 40 * 512 + 9, KV_BF16, false};
    static const way ways[] = {{NULL, 2, ROWS_MAX, 9, false}, {NULL, 5, 40, 9, true}};
    check_shape(&deep, deep.context - 200, ways, 2);
}

/* The full layers of the 31B at 16 requests of 262,144 tokens: 172 GiB of pages. */
TEST(pages_lie_where_64_bits_say) {
    void *base = (void *)(uintptr_t)4096;
    kv_view v = {.base = base,
                 .slab_bytes = 52428800,
                 .page_bytes = 2621440,
                 .layer_offset = 262144,
                 .pages_per_slab = 20,
                 .kv_heads = 4,
                 .head_dim = 512,
                 .type = KV_BF16,
                 .half_size = true};
    uintptr_t at = (uintptr_t)kv_head_page(&v, 65599, 3) - (uintptr_t)base;
    CHECK(at == UINT64_C(3279) * 52428800 + 19 * 2621440 + 262144 + 3 * 65536);
    v.type = KV_Q8, v.half_size = false;
    at = (uintptr_t)kv_head_page(&v, 65599, 3) - (uintptr_t)base;
    CHECK(at == UINT64_C(3279) * 52428800 + 19 * 2621440 + 262144 + 3 * 2 * 64 * (512 + 4));
}

int main(void) {
    RUN(pages_lie_where_64_bits_say);
    RUN(a_row_has_the_same_bits_every_way);
    if (TEST_SANITIZED) return test_result(); /* to fill so deep a cache is half a minute there */
    RUN(more_segments_than_slots);
    return test_result();
}
