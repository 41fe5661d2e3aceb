#include "shard/model/weights_pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/model/weights_parts.h"
#include "shard/model/weights_slots.h"

static pack_form form_of(const weight_slot *s) {
    if (s->mapped) return PACK_TABLE;
    return s->matrix ? PACK_MATRIX : s->vector ? PACK_VECTOR : PACK_NUMBER;
}

/* ---- reading ---- */

typedef struct filling {
    const pack_file *file, *tables;
    uint32_t next, next_table;
} filling;

static const char *const form_names[PACK_FORMS] = {"a vector", "a matrix", "a number", "a table"};

static bool is_left_out(const filling *f, const weight_slot *s) {
    return s->optional && (!f->tables || f->next_table >= f->tables->parts ||
                           strcmp(f->tables->part[f->next_table].name, s->name) != 0);
}

static status fill_slot(void *context, const weight_slot *s) {
    filling *f = context;
    const pack_file *file = s->mapped ? f->tables : f->file;
    if (is_left_out(f, s)) return ST_OK;
    if (!file) return fail(ST_FORMAT, "the pack has no file for %s", s->name);
    uint32_t i = s->mapped ? f->next_table++ : f->next++;
    if (i >= file->parts)
        return fail(ST_FORMAT, "%s ends after %u parts, part %u has to be %s", file->name, file->parts, i,
                    s->name);
    const pack_part *p = &file->part[i];
    if (strcmp(p->name, s->name) != 0 || p->form != form_of(s) || p->matrix.rows != s->rows ||
        p->matrix.cols != s->cols || (!s->any_type && p->matrix.type != WEIGHT_F32))
        return fail(ST_FORMAT, "%s: part %u is %s, %s of %u x %u; config and layout want %s, %s of %u x %u%s",
                    file->name, i, p->name, form_names[p->form], p->matrix.rows, p->matrix.cols, s->name,
                    form_names[form_of(s)], s->rows, s->cols, s->any_type ? "" : " in float32");
    if (s->matrix) *s->matrix = p->matrix;
    else if (s->vector) *s->vector = p->matrix.data;
    else memcpy(s->number, p->matrix.data, sizeof *s->number);
    return ST_OK;
}

static status check_end(const pack_file *f, uint32_t used) {
    if (!f || f->parts == used) return ST_OK;
    return fail(ST_FORMAT, "%s has %u parts, the last %u of them (from %s) are none of this model's", f->name,
                f->parts, f->parts - used, f->part[used].name);
}

/* The mapping goes over to the weights. */
static void take_mapping(pack_file *f, void **mapping, uint64_t *bytes) {
    if (!f || !f->mapped) return;
    *mapping = (void *)(uintptr_t)f->bytes;
    *bytes = f->file_bytes;
    pack_file_keep_mapping(f);
}

status weights_pack_open(model_weights **out, pack_file *file, pack_file *tables, const model_config *config,
                         const layout *l, const weights_pack_options *o) {
    *out = NULL;
    status st;
    progress said;
    model_weights *w = weights_take(config, l);
    filling f = {.file = file, .tables = tables};
    TRY_OR_FAIL(weights_walk(w, config, l, fill_slot, &f));
    TRY_OR_FAIL(check_end(file, f.next));
    TRY_OR_FAIL(check_end(tables, f.next_table));
    w->bytes_read = w->bytes_expected = file->file_bytes;
    if (weights_go_to_device(o->device)) {
        TRY_OR_FAIL(weights_pack_to_device(w, file, tables, config, l, o));
    } else {
        /* Tables are looked up, a row a token: they come in as they are needed. */
        progress_begin(&said, o->say, file->file_bytes);
        TRY_OR_FAIL(pack_file_load(file, o->threads, &said));
        take_mapping(file, &w->mapping, &w->bytes);
        take_mapping(tables, &w->tables_mapping, &w->tables_bytes);
    }
    *out = w;
    w = NULL;
fail:
    model_weights_close(w);
    pack_file_close(tables);
    pack_file_close(file);
    return st;
}

/* ---- writing ---- */

typedef struct gathering {
    bool mapped; /* tables, or everything else */
    pack_part *part;
    uint32_t parts, capacity;
} gathering;

static status gather_slot(void *context, const weight_slot *s) {
    gathering *g = context;
    if (s->mapped != g->mapped || (s->optional && !s->matrix->data)) return ST_OK;
    if (g->parts == g->capacity) {
        g->capacity = g->capacity ? g->capacity * 2 : 256;
        g->part = memory_grow(g->part, (size_t)g->capacity * sizeof *g->part);
    }
    pack_part *p = &g->part[g->parts++];
    *p = (pack_part){.form = form_of(s)};
    snprintf(p->name, sizeof p->name, "%s", s->name);
    if (s->matrix) p->matrix = *s->matrix;
    else
        p->matrix =
            (weight){.data = s->vector ? (const void *)*s->vector : s->number, .rows = 1, .cols = s->cols};
    INVARIANT(p->matrix.rows == s->rows && p->matrix.cols == s->cols);
    return ST_OK;
}

static status write_file(const char *path, gathering *g, const pack_info *info, const weights_pack_options *o,
                         uint8_t head_hash[32], uint64_t *file_bytes) {
    progress said;
    *file_bytes = pack_file_place(g->part, g->parts);
    progress_begin(&said, o->say, *file_bytes);
    return pack_file_write(path, info, g->part, g->parts, o->threads, &said, head_hash);
}

status weights_pack_write(const char *path, model_weights *w, const model_config *config, const layout *l,
                          const pack_info *info, const weights_pack_options *o, uint8_t head_hash[32],
                          uint64_t *file_bytes) {
    gathering g = {.mapped = false};
    INVARIANT(!w->device); /* what is written is read here */
    pack_info full = *info;
    full.rank = l->rank;
    full.ranks = l->ranks;
    layout_describe(config, l, full.layout, sizeof full.layout);
    status st = weights_walk(w, config, l, gather_slot, &g);
    if (st == ST_OK) st = write_file(path, &g, &full, o, head_hash, file_bytes);
    free(g.part);
    return st;
}

status weights_pack_write_tables(const char *path, model_weights *w, const model_config *config,
                                 const layout *l, const pack_info *info, const weights_pack_options *o,
                                 uint8_t head_hash[32], uint64_t *file_bytes) {
    gathering g = {.mapped = true};
    INVARIANT(!w->device);
    pack_info full = *info;
    full.rank = PACK_SHARED_RANK;
    full.ranks = l->ranks;
    layout_describe(config, l, full.layout, sizeof full.layout);
    *file_bytes = 0;
    status st = weights_walk(w, config, l, gather_slot, &g);
    if (st == ST_OK && g.parts > 0) st = write_file(path, &g, &full, o, head_hash, file_bytes);
    free(g.part);
    return st;
}
