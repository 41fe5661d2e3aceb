// link: shard_core
/* Attention of one layer at the shapes of the published models, through the operators of the back end, on random KV:
 * decode at several depths and a prompt's chunk at two, beside the multiply-adds and the reads that the machine can do.
 *
 *     build/bench/bench_attention [threads [f32|bf16|q8]]        GEMMAD_ISA picks the variant */
#include <stdio.h>
#include <stdlib.h>

#include "shard/kernels/cpu/cpu_backend.h"
#include "tests/bench/machine.h"

enum { CHUNK = 512, DEPTH_MAX = 32768, PAGES = DEPTH_MAX / 64 + CHUNK / 64 };

typedef struct shape {
    const char *name;
    uint32_t layers, heads, kv_heads, head_dim, pairs, window;
    bool half_size;
} shape;

static const shape shapes[] = {{"26B full", 5, 16, 2, 512, 64, 0, true},
                               {"26B sliding", 25, 16, 8, 256, 128, 1024, false},
                               {"31B full", 10, 32, 4, 512, 64, 0, true},
                               {"31B sliding", 50, 32, 16, 256, 128, 1024, false}};

typedef struct bench {
    backend *b;
    rope *angles;
    const shape *s;
    attention_layer layer[8]; /* as many as make a step's reads miss the caches */
    uint32_t layers, pages[PAGES];
    void *kv;
    size_t kv_bytes;
    float *q, *k, *v, *y, *norm, *q_norm;
    double peak, read;
} bench;

static uint32_t random_state = 1;
static float uniform(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) * 0x1p-23f - 1;
}

static size_t floats_of(const shape *s) { return (size_t)CHUNK * s->heads * s->head_dim; }

/* Rows of one head in one page after another. */
static void fill(bench *t, const shape *s, kv_type type) {
    size_t bytes = kv_rows_bytes(type, s->head_dim), elements = (size_t)64 * s->head_dim;
    for (char *rows = t->kv; rows < (char *)t->kv + t->kv_bytes; rows += bytes) {
        for (size_t i = 0; i < elements; i++) {
            float x = uniform();
            if (type == KV_F32) ((float *)(void *)rows)[i] = x;
            else if (type == KV_Q8) ((int8_t *)rows)[i] = (int8_t)(127 * x);
            else ((uint16_t *)(void *)rows)[i] = (uint16_t)(0x3F00 | (random_state >> 16 & 0x80FF));
        }
        for (uint32_t i = 0; i < 64 && type == KV_Q8; i++)
            ((float *)(void *)(rows + elements))[i] = 1 / 127.0f;
    }
}

static status open_shape(bench *t, const shape *s, kv_type type) {
    const backend_ops *ops = t->b->ops;
    t->s = s;
    uint64_t page_bytes = kv_rows_bytes(type, s->head_dim) * s->kv_heads * (s->half_size ? 1 : 2);
    t->layers = 1 + (uint32_t)(((size_t)256 << 20) / (PAGES * page_bytes));
    if (t->layers > 8) t->layers = 8;
    t->kv_bytes = PAGES * page_bytes * t->layers;
    TRY(memory_map(&t->kv, t->kv_bytes));
    fill(t, s, type);
    TRY(ops->rope_open(t->b, 1e6, s->head_dim, s->pairs, s->half_size ? DEPTH_MAX + CHUNK : 0, CHUNK,
                       &t->angles));
    for (uint32_t i = 0; i < PAGES; i++) t->pages[i] = (i * 7919u) % PAGES; /* scattered: 7919 is prime */
    for (uint32_t l = 0; l < t->layers; l++)
        t->layer[l] = (attention_layer){.kv = {.base = (char *)t->kv + l * PAGES * page_bytes,
                                               .slab_bytes = PAGES * page_bytes,
                                               .page_bytes = page_bytes,
                                               .pages_per_slab = PAGES,
                                               .kv_heads = s->kv_heads,
                                               .head_dim = s->head_dim,
                                               .type = type,
                                               .half_size = s->half_size},
                                        .angles = t->angles,
                                        .heads = s->heads,
                                        .heads_per_kv = s->heads / s->kv_heads,
                                        .window = s->window,
                                        .q_norm = t->q_norm,
                                        .k_norm = t->norm,
                                        .eps = 1e-6f};
    size_t bytes = floats_of(s) * sizeof(float);
    TRY(memory_map((void **)&t->q, bytes));
    TRY(memory_map((void **)&t->k, bytes));
    TRY(memory_map((void **)&t->v, bytes));
    return memory_map((void **)&t->y, bytes);
}

static void close_shape(bench *t) {
    size_t bytes = floats_of(t->s) * sizeof(float);
    t->b->ops->rope_close(t->b, t->angles);
    memory_unmap(t->q, bytes), memory_unmap(t->k, bytes), memory_unmap(t->v, bytes),
        memory_unmap(t->y, bytes);
    memory_unmap(t->kv, t->kv_bytes);
    t->q = t->k = t->v = t->y = NULL, t->kv = NULL, t->angles = NULL;
}

/* Best of several: attention alone in seconds[0], preparing q, k and v in seconds[1]. */
static void measure(bench *t, uint32_t depth, uint32_t rows, double seconds[2]) {
    const backend_ops *ops = t->b->ops;
    uint32_t table[PAGES], used = (depth + rows + 63) / 64;
    row_span span = {.row = 0, .count = rows, .position = depth, .pages = table};
    uint32_t positions[CHUNK] = {0};
    for (uint32_t i = 0; i < rows; i++) positions[i] = depth + i;
    ops->rows_begin(t->b, &(step_rows){.n = rows, .position = positions, .spans = {&span}, .span_count = 1});
    ops->rope_begin(t->b, t->angles);
    uint32_t dim = t->s->head_dim, n = rows > 1 ? 4 : 40;
    seconds[0] = seconds[1] = 1e9;
    double spent = 0;
    for (uint32_t i = 0; i < n || spent < 0.1; i++) {
        for (size_t j = 0; j < (size_t)rows * t->s->heads * dim; j++) t->q[j] = uniform();
        for (size_t j = 0; j < (size_t)rows * t->s->kv_heads * dim; j++)
            t->k[j] = uniform(), t->v[j] = uniform();
        const attention_layer *l = &t->layer[i % t->layers];
        /* Other pages each time: in a model nothing of a layer is left in a cache from the step before. */
        for (uint32_t j = 0; j < used; j++) table[j] = t->pages[(i / t->layers * used + j) % PAGES];
        uint64_t start = clock_now_ns();
        ops->attention_prepare(t->b, l, t->q, t->k, t->v);
        uint64_t middle = clock_now_ns();
        ops->attention(t->b, l, t->q, t->y);
        double both[2] = {(double)(clock_now_ns() - middle) * 1e-9, (double)(middle - start) * 1e-9};
        for (int j = 0; j < 2; j++)
            if (both[j] < seconds[j]) seconds[j] = both[j];
        spent += both[0];
        if (spent > 3) break;
    }
}

static void show(bench *t, uint32_t depth, uint32_t rows) {
    double seconds[2];
    measure(t, depth, rows, seconds);
    const shape *s = t->s;
    const kv_view *kv = &t->layer[0].kv;
    double pairs = 0; /* of a query and a key it sees */
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t keys = depth + i + 1;
        pairs += s->window && keys > s->window ? s->window : keys;
    }
    double flops = 4.0 * pairs * s->heads * s->head_dim;
    uint32_t keys = s->window && depth + rows > s->window + rows ? s->window + rows : depth + rows;
    double bytes = (double)keys / 64 * (double)kv_rows_bytes(kv->type, s->head_dim) * s->kv_heads *
                   (s->half_size ? 1 : 2);
    printf("%-11s %-4s %3u rows at %5u  %9.3f ms  x%2u layers %8.2f ms  prepare %6.3f ms  %6.1f GFLOP/s",
           s->name, kv_type_name(kv->type), rows, depth, seconds[0] * 1e3, s->layers,
           (seconds[0] + seconds[1]) * 1e3 * s->layers, seconds[1] * 1e3, flops / seconds[0] * 1e-9);
    if (t->peak > 0) printf(" %3.0f %%", 100 * flops / seconds[0] * 1e-9 / t->peak);
    printf("  %5.1f GB/s %3.0f %%\n", bytes / seconds[0] * 1e-9, 100 * bytes / seconds[0] * 1e-9 / t->read);
}

static status limits(bench *t) {
    cpu_backend *c = cpu_of(t->b);
    void *memory;
    size_t bytes = (size_t)512 << 20;
    TRY(memory_map(&memory, bytes));
    memset(memory, 1, bytes);
    t->peak = peak_gflops(c->threads, c->k), t->read = read_gb_per_s(c->threads, memory, bytes);
    memory_unmap(memory, bytes);
    printf("%s, %u threads: multiply-adds on registers %.1f GFLOP/s, reads alone %.1f GB/s\n", t->b->name,
           t->b->threads, t->peak, t->read);
    return ST_OK;
}

int main(int argc, char **argv) {
    bench t = {0};
    cpu_backend_options o = {.threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1,
                             .spin_us = 100,
                             .pin = true,
                             .rows_max = CHUNK,
                             .active_max = 1,
                             .hidden = 5376,
                             .head_dim_max = 512,
                             .heads_per_kv_max = 8};
    status st = cpu_backend_open(&t.b, &o);
    if (st != ST_OK) goto fail;
    t.norm = memory_alloc_array(512, sizeof *t.norm);
    t.q_norm = memory_alloc_array(512, sizeof *t.q_norm);
    /* Scores spread by about 3, as trained norms have them: an exponent is rarely 0 or below what a float holds. */
    for (int i = 0; i < 512; i++) t.norm[i] = 1, t.q_norm[i] = 0.15f;
    TRY_OR_FAIL(limits(&t));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int type = KV_Q8; type >= KV_F32; type--) {
            if (argc > 2 && strcmp(argv[2], kv_type_name((kv_type)type))) continue;
            TRY_OR_FAIL(open_shape(&t, &shapes[i], (kv_type)type));
            static const uint32_t depths[] = {0, 1024, 16384, 32767};
            for (int d = 0; d < 4; d++)
                if (!shapes[i].window || d < 3) show(&t, depths[d], 1);
            show(&t, 0, CHUNK);
            show(&t, 16384, CHUNK);
            close_shape(&t);
        }
fail:
    if (st != ST_OK) fprintf(stderr, "bench_attention: %s\n", status_text());
    free(t.norm), free(t.q_norm);
    if (t.b) t.b->ops->close(t.b);
    return st == ST_OK ? 0 : 1;
}
