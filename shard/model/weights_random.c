#include "shard/model/weights_random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "shard/model/weights_parts.h"

enum { NAME_MAX_BYTES = 128, JOB_BYTES = 16 << 20 };

bool weights_random_marked(const char *directory) {
    char *mark = file_join(directory, "random-weights");
    bool there = access(mark, F_OK) == 0;
    free(mark);
    return there;
}

/* ---- the table of tensors ---- */

typedef struct table {
    tensor *tensors;
    uint32_t count, capacity;
    uint64_t bytes;
} table;

static void add_tensor(table *t, const weight_entry *e, const model_config *c, uint32_t layer) {
    uint32_t in_layer = layer == UINT32_MAX ? 0 : layer;
    if (weight_entry_need(e, c, in_layer) != NEED_YES) return;
    if (e->form == FORM_ROWS) return; /* another view of a tensor that has an entry of its own */
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? t->capacity * 2 : 256;
        t->tensors = memory_grow(t->tensors, (size_t)t->capacity * sizeof *t->tensors);
    }
    char name[NAME_MAX_BYTES];
    if (layer == UINT32_MAX) snprintf(name, sizeof name, "model.language_model.%s", e->name);
    else snprintf(name, sizeof name, "model.language_model.layers.%u.%s", layer, e->name);
    tensor *n = &t->tensors[t->count++];
    *n = (tensor){.name = memory_copy_string(name), .dtype = "BF16", .type = TENSOR_BF16, .offset = t->bytes};
    n->dims = weight_entry_shape(e, c, in_layer, n->shape);
    n->bytes = 2;
    for (uint32_t i = 0; i < n->dims; i++) n->bytes *= n->shape[i];
    t->bytes += n->bytes;
}

status weights_random_checkpoint(checkpoint **out, const model_config *c) {
    table t = {0};
    for (uint32_t i = 0; i < weight_model_entry_count; i++)
        add_tensor(&t, &weight_model_entries[i], c, UINT32_MAX);
    for (uint32_t l = 0; l < c->layers; l++)
        for (uint32_t i = 0; i < weight_layer_entry_count; i++)
            add_tensor(&t, &weight_layer_entries[i], c, l);
    status st = checkpoint_open_table(out, t.tensors, t.count);
    for (uint32_t i = 0; i < t.count; i++) free((char *)t.tensors[i].name);
    free(t.tensors);
    return st;
}

/* ---- the values ---- */

/* Eight bytes of weights are (random & mask) | bits: an exponent that all share, random signs and fractions. */
typedef struct pattern {
    uint64_t mask, bits;
} pattern;

/* The exponent of the power of two next below 1 / sqrt(n). */
static int exponent_of(uint32_t n) {
    int e = 0;
    for (uint64_t square = 1; square < n; square *= 4) e--;
    return e;
}

static pattern pattern_of(weight_type type, uint32_t cols) {
    uint64_t e = (uint64_t)(exponent_of(cols) + 127);
    if (type == WEIGHT_F32) return (pattern){0x807FFFFF807FFFFF, 0x0000000100000001 * (e << 23)};
    if (type == WEIGHT_BF16) return (pattern){0x807F807F807F807F, 0x0001000100010001 * (e << 7)};
    INVARIANT(type == WEIGHT_F16);
    return (pattern){0x83FF83FF83FF83FF, 0x0001000100010001 * ((e - 127 + 15) << 10)};
}

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

/* Rows of one matrix: of a quantised one, whole strips. */
typedef struct job {
    char *memory;
    uint64_t bytes, seed;
    weight_type type;
    uint32_t cols, rows;
} job;

static void fill_floats(const job *j) {
    pattern p = pattern_of(j->type, j->cols);
    uint64_t state = j->seed, i = 0, v;
    for (; i + 8 <= j->bytes; i += 8) {
        v = (mix(state += 0x9E3779B97F4A7C15) & p.mask) | p.bits;
        memcpy(j->memory + i, &v, 8);
    }
    v = (mix(state + 1) & p.mask) | p.bits;
    memcpy(j->memory + i, &v, j->bytes - i);
}

/* Stored bytes whose values are as often above zero as below: a mean of half a step, as plain random bits have, would be
 * the same for all rows, grow from layer to layer and end with all tokens alike. */
static uint64_t even_quants(weight_type type, uint64_t random) {
    if (type == WEIGHT_Q8) /* odd values -63 ... 63, stored with 128 added */
        return ((random & 0x7E7E7E7E7E7E7E7E) | 0x0101010101010101) + 0x4040404040404040;
    /* -7 ... 7, stored with 8 added: a nibble of 0 becomes one of 8. */
    uint64_t any = random | random >> 1 | random >> 2 | random >> 3;
    return random | (~any & 0x1111111111111111) << 3;
}

static void fill_strips(const job *j) {
    uint64_t strip_bytes = quant_strip_bytes(j->type, j->cols), state = j->seed;
    uint32_t groups = quant_groups(j->cols), quant_bytes = groups * quant_group_bytes(j->type);
    int exponent = exponent_of(j->cols) - (j->type == WEIGHT_Q8 ? 5 : 2);
    uint16_t scale = (uint16_t)((exponent < -14 ? 1 : exponent + 15) << 10);
    for (uint32_t row = 0; row < j->rows; row += QUANT_ROWS) {
        char *strip = j->memory + row / QUANT_ROWS * strip_bytes;
        for (uint32_t i = 0; i < quant_bytes; i += 8) {
            uint64_t v = even_quants(j->type, mix(state += 0x9E3779B97F4A7C15));
            memcpy(strip + i, &v, 8);
        }
        uint16_t *scales = (uint16_t *)(void *)(strip + quant_bytes);
        for (uint32_t i = 0; i < groups * QUANT_ROWS; i++)
            scales[i] = row + i % QUANT_ROWS < j->rows ? scale : 0;
    }
}

typedef struct work {
    job *jobs;
    uint32_t count, capacity;
} work;

static status run_item(void *context, uint32_t item) {
    const job *j = &((const work *)context)->jobs[item];
    if (weight_is_quantised(j->type)) fill_strips(j);
    else fill_floats(j);
    return ST_OK;
}

static void add_jobs(work *all, const weight_part *p, uint64_t seed) {
    const weight *w = p->matrix;
    uint64_t strip = weight_rows_bytes(w->type, QUANT_ROWS, w->cols);
    uint32_t rows = (uint32_t)(JOB_BYTES / strip + 1) * QUANT_ROWS;
    for (uint32_t row = 0; row < w->rows; row += rows) {
        if (all->count == all->capacity) {
            all->capacity = all->capacity ? all->capacity * 2 : 256;
            all->jobs = memory_grow(all->jobs, (size_t)all->capacity * sizeof *all->jobs);
        }
        uint32_t n = w->rows - row < rows ? w->rows - row : rows;
        all->jobs[all->count++] = (job){.memory = p->memory + weight_rows_bytes(w->type, row, w->cols),
                                        .bytes = weight_rows_bytes(w->type, n, w->cols),
                                        .seed = mix(seed + row),
                                        .type = w->type,
                                        .cols = w->cols,
                                        .rows = n};
    }
}

static void add_part(work *all, const weight_part *p, uint64_t seed) {
    if (p->scalar) *p->scalar = 1;
    if (p->matrix) add_jobs(all, p, seed);
    float *v = (float *)(void *)p->memory;
    for (uint64_t i = p->slice.col_begin; p->vector && i < p->slice.col_end; i++) *v++ = 1;
}

/* By the tensor and the place in it, not by the rank: what every rank holds (the router) is the same on all. */
static uint64_t seed_of(const weight_part *p) {
    uint64_t seed = mix(p->slice.outer_begin);
    for (const char *c = p->source->name; *c; c++) seed = mix(seed + (uint8_t)*c);
    return mix(mix(seed + p->slice.row_begin) + p->slice.col_begin);
}

status weights_random_fill(const weight_plan *plan, uint32_t threads) {
    work all = {0};
    for (uint32_t i = 0; i < plan->count; i++) add_part(&all, &plan->parts[i], seed_of(&plan->parts[i]));
    status st = parallel_run(threads, all.count, run_item, &all);
    free(all.jobs);
    return st;
}
