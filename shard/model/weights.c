#include "shard/model/weights.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "shard/kernels/quant_layout.h"
#include "shard/model/weights_parts.h"

enum { STAGE_BYTES = 1 << 20 /* what is quantised passes through so much at a time */ };

static uint32_t column_count(const weight_part *p) {
    return (uint32_t)(p->slice.col_end - p->slice.col_begin);
}

static uint64_t row_count(const weight_part *p) { return p->slice.row_end - p->slice.row_begin; }

static uint64_t part_bytes(const weight_part *p, uint64_t rows) {
    return weight_rows_bytes(p->type, rows, column_count(p));
}

static status take_memory(weight_plan *plan, model_weights *w, backend *device, uint64_t bytes) {
    if (!plan->on_device) TRY(memory_map(&w->mapping, bytes));
    else TRY(device->ops->alloc(device, bytes, "weights", &w->mapping));
    w->bytes = bytes;
    w->device = plan->on_device ? device : NULL;
    return ST_OK;
}

/* One mapping for all; every part on a cache line of its own. */
static status place_parts(weight_plan *plan, model_weights *w, backend *device) {
    for (int pass = 0; pass < 2; pass++) {
        uint64_t offset = 0;
        for (uint32_t i = 0; i < plan->count; i++) {
            weight_part *p = &plan->parts[i];
            if (p->scalar) {
                p->memory = (char *)p->scalar;
                continue;
            }
            if (pass == 1) {
                p->memory = (char *)w->mapping + offset;
                if (p->matrix) p->matrix->data = p->memory;
                else *p->vector = (const float *)(const void *)p->memory;
            }
            offset += weights_aligned(part_bytes(p, row_count(p)));
        }
        if (pass == 0) TRY(take_memory(plan, w, device, offset));
    }
    return ST_OK;
}

/* Some rows of a part, few enough for one thread at a time. */
typedef struct job {
    const weight_part *part;
    uint64_t row_begin, row_end; /* counted from the part's first row; of types in strips row_begin is a strip's first */
    uint64_t offset;             /* in the file, of the tensor: the order of reading */
    uint32_t order;              /* breaks ties, so that the order is one */
} job;

typedef struct work {
    checkpoint *checkpoint; /* NULL: random weights */
    const device_load_ops *load;
    device_loader *loader; /* NULL: to host memory */
    job *jobs;
    uint32_t count;
    uint64_t job_bytes; /* of the largest */
    progress said;
} work;

static int by_place(const void *a, const void *b) {
    const job *x = a, *y = b;
    uint32_t fx = x->part->source->file, fy = y->part->source->file;
    if (fx != fy) return fx < fy ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static void make_jobs(const weight_plan *plan, uint64_t piece_bytes, work *all) {
    uint32_t capacity = 0;
    if (piece_bytes == 0) piece_bytes = WEIGHTS_PIECE_BYTES;
    for (uint32_t i = 0; i < plan->count; i++) {
        const weight_part *p = &plan->parts[i];
        uint64_t strips = piece_bytes / part_bytes(p, QUANT_ROWS);
        uint64_t rows = (strips ? strips : 1) * QUANT_ROWS;
        for (uint64_t row = 0; row < row_count(p); row += rows) {
            if (all->count == capacity) {
                capacity = capacity ? capacity * 2 : 256;
                all->jobs = memory_grow(all->jobs, (size_t)capacity * sizeof *all->jobs);
            }
            uint64_t end = row + rows < row_count(p) ? row + rows : row_count(p), bytes = part_bytes(p, end - row);
            if (bytes > all->job_bytes) all->job_bytes = bytes;
            all->jobs[all->count] = (job){p, row, end, p->source->offset, all->count};
            all->count++;
        }
    }
    qsort(all->jobs, all->count, sizeof *all->jobs, by_place);
}

static tensor_slice rows_of(const weight_part *p, uint64_t begin, uint64_t end) {
    tensor_slice slice = p->slice;
    slice.row_begin = p->slice.row_begin + begin;
    slice.row_end = p->slice.row_begin + end;
    return slice;
}

typedef void store_row(void *strips, uint32_t cols, uint32_t row, const void *blocks);

/* Blocks whose values need no rounding go over as they are, if groups are cut where they are. NULL: others. */
static store_row *store_of(const weight_part *p) {
    if (!weight_is_quantised(p->type) || p->slice.col_begin % QUANT_GROUP != 0) return NULL;
    if (p->type == WEIGHT_Q4) return p->source->type == TENSOR_Q4_0 ? quant_store_q4_0 : NULL;
    if (p->source->type == TENSOR_Q8_0) return quant_store_q8_0;
    return p->source->type == TENSOR_Q5_0 ? quant_store_q5_0 : NULL;
}

/* A few strips at a time pass through a stage, as floats or as the blocks they are. */
static status quantise_rows(checkpoint *c, const job *j, void *out) {
    const weight_part *p = j->part;
    uint32_t cols = column_count(p);
    store_row *store = store_of(p);
    tensor_type staged = store ? p->source->type : TENSOR_F32;
    uint64_t bytes = tensor_row_bytes(staged, cols), rows = STAGE_BYTES / bytes / QUANT_ROWS * QUANT_ROWS;
    if (rows == 0) rows = QUANT_ROWS;
    if (rows > j->row_end - j->row_begin) rows = j->row_end - j->row_begin;
    char *stage = memory_alloc(rows * bytes);
    status st = ST_OK;
    for (uint64_t at = j->row_begin; at < j->row_end && st == ST_OK; at += rows) {
        uint64_t n = j->row_end - at < rows ? j->row_end - at : rows;
        tensor_slice slice = rows_of(p, at, at + n);
        st = checkpoint_read_slice(c, p->source, &slice, staged, stage);
        for (uint64_t i = 0; i < n && st == ST_OK; i++) {
            const void *row = stage + i * bytes;
            uint32_t to = (uint32_t)(at - j->row_begin + i);
            if (store) store(out, cols, to, row);
            else quant_store_floats(p->type, out, cols, to, row);
        }
    }
    free(stage);
    return st;
}

static status read_rows(checkpoint *c, const job *j, void *out) {
    const weight_part *p = j->part;
    if (weight_in_strips(p->type)) return quantise_rows(c, j, out);
    tensor_slice slice = rows_of(p, j->row_begin, j->row_end);
    return checkpoint_read_slice(c, p->source, &slice, p->type == WEIGHT_F32 ? TENSOR_F32 : p->source->type,
                                 out);
}

/* The job's rows into out, which of types in strips is zeroed. */
static status make_rows(const work *all, const job *j, void *out) {
    if (all->checkpoint) return read_rows(all->checkpoint, j, out);
    weights_random_fill(j->part, j->row_begin, j->row_end, out);
    return ST_OK;
}

static status run_item(void *context, uint32_t item, uint32_t thread) {
    work *all = context;
    const job *j = &all->jobs[item];
    uint64_t bytes = part_bytes(j->part, j->row_end - j->row_begin);
    char *to = j->part->memory + part_bytes(j->part, j->row_begin);
    status st;
    if (!all->loader || j->part->scalar) {
        st = make_rows(all, j, to);
    } else {
        void *stage = all->load->stage(all->loader, thread);
        if (weight_in_strips(j->part->type)) memset(stage, 0, bytes);
        st = make_rows(all, j, stage);
        if (st == ST_OK) st = all->load->send(all->loader, thread, to, bytes);
    }
    progress_add(&all->said, bytes);
    return st;
}

static status fill_parts(const weight_plan *plan, checkpoint *c, const model_weights_options *o) {
    work all = {.checkpoint = o->random ? NULL : c, .load = o->load};
    status st = ST_OK;
    make_jobs(plan, o->piece_bytes, &all);
    /* One rank's word is enough; counted in memory, which is what a quantising load takes its time for. */
    progress_begin(&all.said, plan->layout->rank == 0 ? "loading weights" : NULL, plan->weights->bytes);
    if (plan->on_device)
        TRY_OR_FAIL(o->load->open(&all.loader, o->device, parallel_threads(o->threads), all.job_bytes));
    TRY_OR_FAIL(parallel_run_numbered(o->threads, all.count, run_item, &all));
    if (all.loader) TRY_OR_FAIL(o->load->finish(all.loader));
fail:
    if (all.loader) o->load->close(all.loader);
    free(all.jobs);
    return st;
}

static tensor_type stored_tensor_type(void *context, const weight_entry *e, uint32_t layer) {
    const tensor *t = weight_plan_find(context, e, layer);
    return t ? t->type : TENSOR_OTHER;
}

/* Tables of which a token needs one row: the per-layer embedding is as large as the rest of an E-model. */
static status map_tables(weight_plan *plan, checkpoint *c) {
    for (uint32_t i = 0; i < weight_model_entry_count; i++) {
        const weight_entry *e = &weight_model_entries[i];
        weight *table = weight_form_is_mapped(e->form) ? (weight *)((char *)plan->weights + e->place) : NULL;
        if (table && table->rows > 0)
            TRY(checkpoint_map(c, weight_plan_find(plan, e, UINT32_MAX), &table->data));
    }
    return ST_OK;
}

model_weights *weights_take(const model_config *config, const layout *l) {
    model_weights *w = memory_alloc(sizeof *w);
    w->layers = config->layers;
    w->layer = memory_alloc_array(config->layers, sizeof *w->layer);
    for (uint32_t i = 0; i < config->layers; i++) {
        w->layer[i].scalar = 1;
        if (range_count(l->experts) > 0)
            w->layer[i].expert = memory_alloc_array(range_count(l->experts), sizeof *w->layer[i].expert);
    }
    return w;
}

status model_weights_open(model_weights **out, checkpoint *c, const model_config *config, const layout *l,
                          const model_weights_options *options) {
    *out = NULL;
    status st = ST_OK;
    model_weights *w = weights_take(config, l);
    weight_plan plan = {.checkpoint = c,
                        .config = config,
                        .layout = l,
                        .choice = options->choice,
                        .on_device = weights_go_to_device(options->device),
                        .weights = w};
    INVARIANT(!plan.on_device || options->load);
    TRY_OR_FAIL(weight_plan_make(&plan));
    TRY_OR_FAIL(place_parts(&plan, w, options->device));
    uint64_t read_before = checkpoint_bytes_read(c), skipped_before = checkpoint_bytes_skipped(c);
    TRY_OR_FAIL(fill_parts(&plan, c, options));
    if (!plan.on_device) TRY_OR_FAIL(map_tables(&plan, c));
    w->bytes_read = checkpoint_bytes_read(c) - read_before;
    w->bytes_skipped = checkpoint_bytes_skipped(c) - skipped_before;
    w->bytes_expected = weights_expected_bytes(config, l, stored_tensor_type, &plan, plan.choice, plan.on_device);
    *out = w;
    w = NULL;
fail:
    weight_plan_release(&plan);
    model_weights_close(w);
    return st;
}

static void longest(const weight *w, uint32_t *columns) {
    if (weight_is_quantised(w->type) && w->cols > *columns) *columns = w->cols;
}

uint32_t model_weights_columns(const model_weights *w) {
    uint32_t columns = 0;
    longest(&w->embed, &columns);
    longest(&w->ple_context, &columns);
    for (uint32_t i = 0; i < w->layers; i++) {
        const layer_weights *l = &w->layer[i];
        const weight *all[] = {
            &l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down, &l->ple_gate, &l->ple_projection};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) longest(all[k], &columns);
    }
    return columns;
}

void model_weights_close(model_weights *w) {
    if (!w) return;
    if (w->device) w->device->ops->release(w->device, w->mapping, w->bytes);
    else memory_unmap(w->mapping, w->bytes);
    memory_unmap(w->tables_mapping, w->tables_bytes);
    for (uint32_t i = 0; i < w->layers; i++) free(w->layer[i].expert);
    free(w->layer);
    free(w);
}
