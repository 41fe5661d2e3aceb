/* Reading golden values: the float32 and int32 tensors of an expected.safetensors.
 *
 *     golden *g = golden_open(TEST_DATA "/golden/dense/expected.safetensors");
 *     uint64_t shape[4];
 *     const float *logits = golden_f32(g, "case0.logits", shape);   // [shape[0], shape[1]]
 *     const int32_t *ids = golden_i32(g, "case0.input_ids", shape); // [shape[0]]
 *
 * Memory:  golden_open reads the whole file, golden_close releases it; tensors point into it.
 * Errors:  golden_open ends the process with the sentence: a test without its data has nothing to say. A
 * tensor that is not there, or of another dtype, is NULL. */
#ifndef TESTS_GOLDEN_READER_H
#define TESTS_GOLDEN_READER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "shard/loader/checkpoint.h"

typedef struct golden {
    char *file;          /* as it lies on disk */
    char *data;          /* what follows its header, so that offsets keep their alignment */
    uint64_t data_begin; /* where that was */
    tensor *tensors;
    uint32_t count, capacity;
} golden;

static inline status golden_add_(void *context, const tensor *t) {
    golden *g = context;
    if (g->count == g->capacity) {
        g->capacity = g->capacity ? 2 * g->capacity : 64;
        g->tensors = memory_grow(g->tensors, g->capacity * sizeof *g->tensors);
    }
    g->tensors[g->count] = *t;
    g->tensors[g->count++].name = memory_copy_string(t->name);
    return ST_OK;
}

static inline golden *golden_open(const char *path) {
    golden *g = memory_alloc(sizeof *g);
    size_t n = 0;
    uint64_t header = 0;
    status st = file_read_all(path, (size_t)1 << 30, &g->file, &n);
    if (st == ST_OK && n < 8) st = fail(ST_FORMAT, "%s has %zu bytes", path, n);
    if (st == ST_OK) {
        for (int i = 0; i < 8; i++) header |= (uint64_t)(uint8_t)g->file[i] << (8 * i);
        st = safetensors_parse_header(g->file + 8, header, n, path, golden_add_, g);
    }
    if (st != ST_OK) {
        printf("golden values: %s\n", status_text());
        exit(1);
    }
    g->data_begin = 8 + header;
    g->data = memory_alloc(n - g->data_begin);
    memcpy(g->data, g->file + g->data_begin, n - g->data_begin);
    return g;
}

static inline void golden_close(golden *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->count; i++) free((char *)g->tensors[i].name);
    free(g->tensors);
    free(g->data);
    free(g->file);
    free(g);
}

/* shape[4] may be NULL; dimensions that the tensor has not are 0. */
static inline const void *golden_find_(const golden *g, const char *name, const char *dtype,
                                       uint64_t *shape) {
    for (uint32_t i = 0; i < g->count; i++) {
        const tensor *t = &g->tensors[i];
        if (strcmp(t->name, name) != 0 || strcmp(t->dtype, dtype) != 0 || t->offset % 4 != g->data_begin % 4)
            continue;
        if (shape) memcpy(shape, t->shape, sizeof t->shape);
        return g->data + (t->offset - g->data_begin);
    }
    return NULL;
}

static inline const float *golden_f32(const golden *g, const char *name, uint64_t *shape) {
    return golden_find_(g, name, "F32", shape);
}

static inline const int32_t *golden_i32(const golden *g, const char *name, uint64_t *shape) {
    return golden_find_(g, name, "I32", shape);
}

/* What a file has of a case: "logits", "input_ids", … */
static inline const float *golden_case_f32(const golden *g, uint32_t index, const char *what, uint64_t *shape) {
    char name[192];
    snprintf(name, sizeof name, "case%u.%s", index, what);
    return golden_f32(g, name, shape);
}
static inline const int32_t *golden_case_i32(const golden *g, uint32_t index, const char *what, uint64_t *shape) {
    char name[192];
    snprintf(name, sizeof name, "case%u.%s", index, what);
    return golden_i32(g, name, shape);
}

#endif
