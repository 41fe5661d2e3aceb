#include "shard/model/weights_random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "shard/model/weights_parts.h"

enum { NAME_MAX_BYTES = 128 };

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
    if (weight_entry_need(e, c, in_layer) != NEED_YES || e->form == FORM_ROWS) return;
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

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15;

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

/* The exponent of the power of two next below 1 / sqrt(n). */
static int exponent_of(uint64_t n) {
    int e = 0;
    for (uint64_t square = 1; square < n; square *= 4) e--;
    return e;
}

static uint64_t seed_of(const tensor *t, uint64_t plane) {
    uint64_t seed = mix(plane);
    for (const char *c = t->name; *c; c++) seed = mix(seed + (uint8_t)*c);
    return seed;
}

/* Eight bytes are four elements: random signs and fractions, and an exponent that all share. By the tensor and the place in
 * it, not by the rank: whoever holds an element has the same. */
static void random_row(const tensor *t, uint64_t seed, uint64_t row, uint64_t begin, uint64_t end,
                       uint16_t *out) {
    uint64_t exponent = (uint64_t)(exponent_of(t->shape[t->dims - 1]) + 127);
    uint64_t bits = 0x0001000100010001 * (exponent << 7), row_seed = mix(seed + row);
    for (uint64_t col = begin; col < end;) {
        uint64_t four = (mix(row_seed + (col / 4 + 1) * GOLDEN) & 0x807F807F807F807F) | bits;
        uint64_t skip = col % 4, n = 4 - skip < end - col ? 4 - skip : end - col;
        if (n == 4) memcpy(out, &four, sizeof four);
        else memcpy(out, (char *)&four + 2 * skip, 2 * n);
        out += n;
        col += n;
    }
}

void weights_random_row(const tensor *t, uint64_t plane, uint64_t row, uint16_t *out) {
    uint64_t cols = t->shape[t->dims - 1];
    if (t->dims > 1) random_row(t, seed_of(t, plane), row, 0, cols, out);
    for (uint64_t i = 0; t->dims == 1 && i < cols; i++) out[i] = 0x3F80; /* norms are 1 */
}

static void fill_floats(const weight_part *p, uint64_t row_begin, uint64_t row_end, void *out) {
    enum { COLS_AT_ONCE = 1024 };
    const tensor_slice *s = &p->slice;
    uint64_t seed = seed_of(p->source, s->outer_begin);
    uint16_t *halves = out, stage[COLS_AT_ONCE];
    uint32_t *singles = out;
    INVARIANT(p->type == WEIGHT_BF16 || p->type == WEIGHT_F32);
    for (uint64_t r = row_begin; r < row_end; r++) {
        if (p->type == WEIGHT_BF16) {
            random_row(p->source, seed, s->row_begin + r, s->col_begin, s->col_end, halves);
            halves += s->col_end - s->col_begin;
            continue;
        }
        for (uint64_t c = s->col_begin; c < s->col_end; c += COLS_AT_ONCE) {
            uint64_t n = s->col_end - c < COLS_AT_ONCE ? s->col_end - c : COLS_AT_ONCE;
            random_row(p->source, seed, s->row_begin + r, c, c + n, stage);
            for (uint64_t i = 0; i < n; i++) *singles++ = (uint32_t)stage[i] << 16;
        }
    }
}

/* Stored bytes whose values are as often above zero as below: a mean of half a step, as plain random bits have, would be
 * the same for all rows, grow from layer to layer and end with all tokens alike. */
static uint64_t even_quants(weight_type type, uint64_t random) {
    if (type == WEIGHT_FP8) /* 1 to 1.875 of either sign */
        return (random & 0x8787878787878787) | 0x3838383838383838;
    if (type == WEIGHT_Q8) /* odd values -63 ... 63, stored with 128 added */
        return ((random & 0x7E7E7E7E7E7E7E7E) | 0x0101010101010101) + 0x4040404040404040;
    /* -7 ... 7, stored with 8 added: a nibble of 0 becomes one of 8. */
    uint64_t any = random | random >> 1 | random >> 2 | random >> 3;
    return random | (~any & 0x1111111111111111) << 3;
}

static void fill_quants(weight_type type, uint64_t seed, void *out, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i += 8) {
        uint64_t v = even_quants(type, mix(seed += GOLDEN));
        memcpy((char *)out + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

/* rows of the strip are there. */
static void fill_strip(weight_type type, uint32_t cols, uint32_t rows, uint64_t seed, char *strip) {
    if (type == WEIGHT_FP8) {
        uint32_t row_bytes = fp8_row_bytes(cols);
        float *scales = (float *)(void *)(strip + (size_t)QUANT_ROWS * row_bytes);
        for (uint32_t r = 0; r < rows; r++) {
            fill_quants(type, mix(seed + r), strip + (size_t)r * row_bytes, cols);
            scales[r] = ldexpf(1, exponent_of(cols));
        }
        return;
    }
    uint32_t groups = quant_groups(cols), quant_bytes = groups * quant_group_bytes(type);
    int exponent = exponent_of(cols) - (type == WEIGHT_Q8 ? 5 : 2);
    uint16_t *scales = (uint16_t *)(void *)(strip + quant_bytes);
    fill_quants(type, seed, strip, quant_bytes);
    for (uint32_t i = 0; i < groups * QUANT_ROWS; i++)
        scales[i] = i % QUANT_ROWS < rows ? (uint16_t)((exponent < -14 ? 1 : exponent + 15) << 10) : 0;
}

void weights_random_fill(const weight_part *p, uint64_t row_begin, uint64_t row_end, void *out) {
    if (!p->matrix) {
        float *ones = out;
        for (uint64_t i = p->slice.col_begin; i < p->slice.col_end; i++) *ones++ = 1;
        return;
    }
    if (!weight_in_strips(p->type)) {
        fill_floats(p, row_begin, row_end, out);
        return;
    }
    uint32_t cols = p->matrix->cols;
    uint64_t seed = mix(mix(seed_of(p->source, p->slice.outer_begin) + p->slice.row_begin) + p->slice.col_begin);
    char *strip = out;
    for (uint64_t r = row_begin; r < row_end; r += QUANT_ROWS, strip += quant_strip_bytes(p->type, cols)) {
        uint64_t rows = row_end - r < QUANT_ROWS ? row_end - r : QUANT_ROWS;
        fill_strip(p->type, cols, (uint32_t)rows, mix(seed + r), strip);
    }
}
