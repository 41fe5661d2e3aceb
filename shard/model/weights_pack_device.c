/* A packed file to a device: a copy of the whole file, header and all, so that every part keeps its place in it; behind it the
 * tables that are looked up, as floats. */
#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "shard/model/weights_parts.h"
#include "shard/model/weights_slots.h"

static weight_type type_there(const weight *table) {
    return table->type == WEIGHT_BLOCKS ? WEIGHT_F32 : table->type;
}

static uint64_t bytes_there(const weight *table) {
    return weights_aligned(weight_rows_bytes(type_there(table), table->rows, table->cols));
}

uint64_t weights_pack_device_bytes(uint64_t file_bytes, const pack_file *tables) {
    uint64_t bytes = weights_aligned(file_bytes);
    for (uint32_t i = 0; tables && i < tables->parts; i++) bytes += bytes_there(&tables->part[i].matrix);
    return bytes;
}

/* Bytes of a file on their way to the device, few enough for a stage. */
typedef struct piece {
    const pack_file *file;
    uint64_t offset, bytes; /* in the file */
    char *to;
    uint64_t bytes_to;
    const weight *table; /* whose blocks they are; NULL: they stay as they are */
} piece;

typedef struct work {
    const weights_pack_options *o;
    device_loader *loader;
    piece *pieces;
    uint32_t count, capacity;
    uint64_t piece_bytes, stage_bytes; /* stage_bytes: of the largest */
    progress said;
} work;

static void add_piece(work *all, piece p) {
    if (all->count == all->capacity) {
        all->capacity = all->capacity ? all->capacity * 2 : 256;
        all->pieces = memory_grow(all->pieces, (size_t)all->capacity * sizeof *all->pieces);
    }
    if (p.bytes_to > all->stage_bytes) all->stage_bytes = p.bytes_to;
    all->pieces[all->count++] = p;
}

static void add_bytes(work *all, const pack_file *f, uint64_t offset, uint64_t bytes, char *to) {
    for (uint64_t at = 0; at < bytes; at += all->piece_bytes) {
        uint64_t n = bytes - at < all->piece_bytes ? bytes - at : all->piece_bytes;
        add_piece(all, (piece){f, offset + at, n, to + at, n, NULL});
    }
}

static void add_table(work *all, const pack_file *f, const pack_part *part, char *to) {
    const weight *t = &part->matrix;
    if (t->type != WEIGHT_BLOCKS) {
        add_bytes(all, f, part->offset, part->bytes, to);
        return;
    }
    uint64_t row_to = (uint64_t)t->cols * sizeof(float), row = part->bytes / (t->rows ? t->rows : 1);
    uint64_t rows = all->piece_bytes / (row_to ? row_to : 1);
    if (rows == 0) rows = 1;
    for (uint64_t at = 0; part->bytes && at < t->rows; at += rows) {
        uint64_t n = t->rows - at < rows ? t->rows - at : rows;
        add_piece(all, (piece){f, part->offset + at * row, n * row, to + at * row_to, n * row_to, t});
    }
}

static status fill_stage(const piece *p, void *stage) {
    if (!p->table) return pack_file_read(p->file, p->offset, stage, p->bytes);
    void *blocks = memory_alloc(p->bytes);
    status st = pack_file_read(p->file, p->offset, blocks, p->bytes);
    if (st == ST_OK) block_dequantise(p->table->blocks, blocks, stage, p->bytes_to / sizeof(float));
    free(blocks);
    return st;
}

static status send_piece(void *context, uint32_t item, uint32_t thread) {
    work *all = context;
    const piece *p = &all->pieces[item];
    void *stage = all->o->load->stage(all->loader, thread);
    TRY(fill_stage(p, stage));
    TRY(all->o->load->send(all->loader, thread, p->to, p->bytes_to));
    progress_add(&all->said, p->bytes_to);
    return ST_OK;
}

static status send_all(work *all, backend *device) {
    const weights_pack_options *o = all->o;
    status st;
    TRY(o->load->open(&all->loader, device, parallel_threads(o->threads), all->stage_bytes));
    TRY_OR_FAIL(parallel_run_numbered(o->threads, all->count, send_piece, all));
    TRY_OR_FAIL(o->load->finish(all->loader));
fail:
    o->load->close(all->loader);
    return st;
}

typedef struct moving {
    const uint8_t *from; /* of the file */
    char *to, *table;    /* its copy, and where the next table goes */
} moving;

static status move_slot(void *context, const weight_slot *s) {
    moving *m = context;
    if (s->matrix && !s->matrix->data) return ST_OK;
    if (s->mapped) {
        weight *t = s->matrix;
        t->data = m->table;
        m->table += bytes_there(t);
        if (t->type == WEIGHT_BLOCKS) *t = (weight){t->data, t->rows, t->cols, type_there(t), BLOCK_Q4_0};
    } else if (s->matrix) {
        s->matrix->data = m->to + ((const uint8_t *)s->matrix->data - m->from);
    } else if (s->vector) {
        *s->vector = (const float *)(void *)(m->to + ((const uint8_t *)*s->vector - m->from));
    }
    return ST_OK;
}

status weights_pack_to_device(model_weights *w, const pack_file *file, const pack_file *tables,
                              const model_config *config, const layout *l, const weights_pack_options *o) {
    work all = {.o = o, .piece_bytes = o->piece_bytes ? o->piece_bytes : WEIGHTS_PIECE_BYTES};
    INVARIANT(o->load);
    uint64_t bytes = weights_pack_device_bytes(file->file_bytes, tables);
    TRY(o->device->ops->alloc(o->device, bytes, "weights", &w->mapping));
    w->bytes = bytes;
    w->device = o->device;
    moving m = {file->bytes, w->mapping, (char *)w->mapping + weights_aligned(file->file_bytes)};
    char *table = m.table;
    add_bytes(&all, file, 0, file->file_bytes, m.to);
    for (uint32_t i = 0; tables && i < tables->parts; i++) {
        add_table(&all, tables, &tables->part[i], table);
        table += bytes_there(&tables->part[i].matrix);
        w->bytes_read += tables->part[i].bytes;
    }
    w->bytes_expected = w->bytes_read;
    progress_begin(&all.said, o->say, bytes);
    status st = weights_walk(w, config, l, move_slot, &m);
    INVARIANT(m.table == table);
    if (st == ST_OK) st = send_all(&all, o->device);
    free(all.pieces);
    return st;
}
