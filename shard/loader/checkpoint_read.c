#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/file.h"
#include "base/half.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "shard/loader/checkpoint_parts.h"

enum {
    STAGE_BYTES = 1 << 20,    /* what is converted, or cut into runs, passes through so much at a time */
    RUN_BYTES_MIN = 16 << 10, /* a strided run as long as this is read by itself, … */
    GAP_BYTES_MIN =
        64 << 10, /* … and so is one before a gap as long as this: a call costs less than the gap */
};

/* n elements from in to out, which may be aligned anyhow. */
static void copy_elements(tensor_type from, tensor_type to, const uint8_t *in, uint8_t *out, size_t n) {
    if (from == to) {
        memcpy(out, in, n * tensor_element_bytes(from));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        if (from == TENSOR_F16) {
            float x = half_to_float(half);
            memcpy(&bits, &x, sizeof bits);
        }
        memcpy(out + 4 * i, &bits, sizeof bits);
    }
}

/* One slice on its way from a file to memory. */
typedef struct reading {
    checkpoint *c;
    const checkpoint_file *file;
    tensor_type from, to;
    uint8_t *out;   /* where the next element goes */
    uint8_t *stage; /* [STAGE_BYTES], or the whole block where that is less */
} reading;

static void deliver(reading *r, const uint8_t *in, uint64_t elements) {
    copy_elements(r->from, r->to, in, r->out, elements);
    r->out += elements * tensor_element_bytes(r->to);
}

static status read_contiguous(reading *r, uint64_t offset, uint64_t elements) {
    uint32_t size = tensor_element_bytes(r->from);
    atomic_fetch_add(&r->c->bytes_read, elements * size);
    if (r->from == r->to) {
        TRY(file_read_at(r->file->fd, r->file->path, offset, r->out, elements * size));
        r->out += elements * size;
        return ST_OK;
    }
    while (elements > 0) {
        uint64_t n = elements < STAGE_BYTES / size ? elements : STAGE_BYTES / size;
        TRY(file_read_at(r->file->fd, r->file->path, offset, r->stage, n * size));
        deliver(r, r->stage, n);
        offset += n * size;
        elements -= n;
    }
    return ST_OK;
}

/* `rows` runs of `run` elements, one every `stride`: whole blocks are read, from the first run's begin to the
 * last one's end, and what lies between the runs is dropped. run is shorter than RUN_BYTES_MIN, so the stage
 * holds one. */
static status read_blocks(reading *r, uint64_t offset, uint64_t rows, uint64_t run, uint64_t stride) {
    uint32_t size = tensor_element_bytes(r->from);
    while (rows > 0) {
        uint64_t fit = (STAGE_BYTES - run * size) / (stride * size) + 1;
        uint64_t n = rows < fit ? rows : fit;
        uint64_t bytes = ((n - 1) * stride + run) * size;
        TRY(file_read_at(r->file->fd, r->file->path, offset, r->stage, bytes));
        for (uint64_t i = 0; i < n; i++) deliver(r, r->stage + i * stride * size, run);
        atomic_fetch_add(&r->c->bytes_read, n * run * size);
        atomic_fetch_add(&r->c->bytes_skipped, (n - 1) * (stride - run) * size);
        offset += n * stride * size;
        rows -= n;
    }
    return ST_OK;
}

static status read_rows(reading *r, uint64_t offset, uint64_t rows, uint64_t run, uint64_t stride) {
    uint32_t size = tensor_element_bytes(r->from);
    if (run == stride) return read_contiguous(r, offset, rows * run);
    if (run * size < RUN_BYTES_MIN && (stride - run) * size < GAP_BYTES_MIN)
        return read_blocks(r, offset, rows, run, stride);
    for (uint64_t i = 0; i < rows; i++) TRY(read_contiguous(r, offset + i * stride * size, run));
    return ST_OK;
}

/* The tensor as [outer, rows, cols]. */
static void view(const tensor *t, uint64_t size[3]) {
    size[0] = t->dims == 3 ? t->shape[0] : 1;
    size[1] = t->dims >= 2 ? t->shape[t->dims - 2] : 1;
    size[2] = t->dims >= 1 ? t->shape[t->dims - 1] : 1;
}

status checkpoint_read_slice(checkpoint *c, const tensor *t, const tensor_slice *s, tensor_type type,
                             void *out) {
    INVARIANT(type != TENSOR_OTHER && t->file < c->file_count);
    if (t->type == TENSOR_OTHER || t->dims > 3 || (t->type != type && type != TENSOR_F32))
        return fail(ST_UNSUPPORTED, "%s: tensor %s of dtype %s and %u dimensions cannot be read as %s",
                    c->files[t->file].path, t->name, t->dtype, t->dims,
                    type == TENSOR_F32    ? "F32"
                    : type == TENSOR_BF16 ? "BF16"
                                          : "F16");
    uint64_t size[3];
    view(t, size);
    INVARIANT(s->outer_begin <= s->outer_end && s->outer_end <= size[0]);
    INVARIANT(s->row_begin <= s->row_end && s->row_end <= size[1]);
    INVARIANT(s->col_begin <= s->col_end && s->col_end <= size[2]);
    uint64_t outer = s->outer_end - s->outer_begin, rows = s->row_end - s->row_begin,
             run = s->col_end - s->col_begin;
    if (outer == 0 || rows == 0 || run == 0) return ST_OK;
    reading r = {.c = c, .file = &c->files[t->file], .from = t->type, .to = type, .out = out};
    bool strided = run != size[2];
    uint32_t element = tensor_element_bytes(t->type);
    status st = ST_OK;
    if (strided || t->type != type) {
        uint64_t block = (((outer - 1) * size[1] + rows - 1) * size[2] + run) * element;
        r.stage = memory_alloc(block < STAGE_BYTES ? block : STAGE_BYTES);
    }
    if (!strided && rows == size[1]) {
        rows *= outer; /* whole planes follow each other without a gap */
        outer = 1;
    }
    for (uint64_t i = 0; i < outer && st == ST_OK; i++) {
        uint64_t first = ((s->outer_begin + i) * size[1] + s->row_begin) * size[2] + s->col_begin;
        st = read_rows(&r, t->offset + first * element, rows, run, size[2]);
    }
    free(r.stage);
    return st == ST_OK ? ST_OK : fail_within(st, "tensor %s", t->name);
}

uint64_t checkpoint_bytes_read(const checkpoint *c) { return atomic_load(&((checkpoint *)c)->bytes_read); }

uint64_t checkpoint_bytes_skipped(const checkpoint *c) {
    return atomic_load(&((checkpoint *)c)->bytes_skipped);
}

status checkpoint_map(checkpoint *c, const tensor *t, const void **out) {
    INVARIANT(t->file < c->file_count);
    checkpoint_file *f = &c->files[t->file];
    status st = ST_OK;
    /* The format aligns nothing, its writers do: a file of odd offsets is refused, since kernels load whole
     * elements. */
    if (t->type != TENSOR_OTHER && t->offset % tensor_element_bytes(t->type) != 0)
        return fail(ST_UNSUPPORTED, "%s: tensor %s begins at byte %llu, which is not aligned to its elements",
                    f->path, t->name, (unsigned long long)t->offset);
    pthread_mutex_lock(&c->map_lock);
    if (!f->mapping) {
        void *p = mmap(NULL, f->bytes, PROT_READ, MAP_SHARED, f->fd, 0);
        if (p == MAP_FAILED)
            st = fail_errno(ST_NO_MEMORY, "%s: cannot map %llu bytes", f->path, (unsigned long long)f->bytes);
        else f->mapping = p;
    }
    if (st == ST_OK) *out = (const uint8_t *)f->mapping + t->offset;
    pthread_mutex_unlock(&c->map_lock);
    return st;
}
