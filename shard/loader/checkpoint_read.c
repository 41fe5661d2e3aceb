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

uint32_t tensor_unit_elements(tensor_type type) {
    return tensor_is_blocks(type) ? block_elements(tensor_block_format(type)) : 1;
}

uint32_t tensor_unit_bytes(tensor_type type) {
    INVARIANT(type != TENSOR_OTHER);
    if (tensor_is_blocks(type)) return block_bytes(tensor_block_format(type));
    return type == TENSOR_F32 ? 4 : 2;
}

uint64_t tensor_column_bytes(tensor_type type, uint64_t begin, uint64_t end) {
    uint64_t n = tensor_unit_elements(type);
    return begin < end ? ((end + n - 1) / n - begin / n) * tensor_unit_bytes(type) : 0;
}

/* A constant count is what compilers make vector code of. */
enum { LANES = 16 };
static void widen_bf16(const uint8_t *restrict in, uint8_t *restrict out) {
    uint16_t halves[LANES];
    uint32_t bits[LANES];
    memcpy(halves, in, sizeof halves);
    for (int i = 0; i < LANES; i++) bits[i] = (uint32_t)halves[i] << 16;
    memcpy(out, bits, sizeof bits);
}

/* n bf16 or f16 elements from in to out, which may be aligned anyhow. */
static void widen(tensor_type from, const uint8_t *in, uint8_t *out, size_t n) {
    size_t i = 0;
    for (; from == TENSOR_BF16 && i + LANES <= n; i += LANES) widen_bf16(in + 2 * i, out + 4 * i);
    for (; i < n; i++) {
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

/* One slice on its way from a file to memory, in units (elements, or blocks). */
typedef struct reading {
    checkpoint *c;
    const checkpoint_file *file;
    tensor_type from, to;
    uint8_t *out;        /* where the next unit goes */
    uint8_t *stage;      /* [STAGE_BYTES], or the whole slice where that is less */
    uint64_t run;        /* units of a row that are read */
    uint32_t head, tail; /* elements of a run's first and last block that are before and behind the slice */
    uint64_t run_at; /* units of the current run that are delivered; counted where there is a head or tail */
} reading;

static void deliver_blocks(reading *r, const uint8_t *in, uint64_t blocks) {
    block_format format = tensor_block_format(r->from);
    uint32_t size = block_bytes(format), elements = block_elements(format);
    float values[BLOCK_ELEMENTS_MAX];
    for (uint64_t i = 0; i < blocks; i++, in += size) {
        uint32_t begin = 0, end = elements;
        if (r->head || r->tail) {
            if (r->run_at == 0) begin = r->head;
            if (++r->run_at == r->run) {
                end -= r->tail;
                r->run_at = 0;
            }
        }
        block_dequantise(format, in, values, elements);
        memcpy(r->out, values + begin, (end - begin) * sizeof *values);
        r->out += (end - begin) * sizeof *values;
    }
}

static void deliver(reading *r, const uint8_t *in, uint64_t units) {
    if (r->from == r->to) {
        memcpy(r->out, in, units * tensor_unit_bytes(r->from));
        r->out += units * tensor_unit_bytes(r->from);
    } else if (tensor_is_blocks(r->from)) {
        deliver_blocks(r, in, units);
    } else {
        widen(r->from, in, r->out, units);
        r->out += units * sizeof(float);
    }
}

static status read_contiguous(reading *r, uint64_t offset, uint64_t units) {
    uint32_t size = tensor_unit_bytes(r->from);
    atomic_fetch_add(&r->c->bytes_read, units * size);
    if (r->from == r->to) {
        TRY(file_read_at(r->file->fd, r->file->path, offset, r->out, units * size));
        r->out += units * size;
        return ST_OK;
    }
    while (units > 0) {
        uint64_t n = units < STAGE_BYTES / size ? units : STAGE_BYTES / size;
        TRY(file_read_at(r->file->fd, r->file->path, offset, r->stage, n * size));
        deliver(r, r->stage, n);
        offset += n * size;
        units -= n;
    }
    return ST_OK;
}

/* `rows` runs of `run` units, one every `stride`: whole stretches are read, from the first run's begin to the
 * last one's end, and what lies between the runs is dropped. run is shorter than RUN_BYTES_MIN, so the stage
 * holds one. */
static status read_stretches(reading *r, uint64_t offset, uint64_t rows, uint64_t run, uint64_t stride) {
    uint32_t size = tensor_unit_bytes(r->from);
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
    uint32_t size = tensor_unit_bytes(r->from);
    if (run == stride) return read_contiguous(r, offset, rows * run);
    if (run * size < RUN_BYTES_MIN && (stride - run) * size < GAP_BYTES_MIN)
        return read_stretches(r, offset, rows, run, stride);
    for (uint64_t i = 0; i < rows; i++) TRY(read_contiguous(r, offset + i * stride * size, run));
    return ST_OK;
}

/* The tensor as [outer, rows, cols]. */
static void view(const tensor *t, uint64_t size[3]) {
    size[0] = t->dims == 3 ? t->shape[0] : 1;
    size[1] = t->dims >= 2 ? t->shape[t->dims - 2] : 1;
    size[2] = t->dims >= 1 ? t->shape[t->dims - 1] : 1;
}

static const char *type_name(tensor_type type) {
    if (type == TENSOR_F32) return "F32";
    return type == TENSOR_BF16 ? "BF16" : type == TENSOR_F16 ? "F16" : "blocks of another kind";
}

/* Columns in units, and what of the outer blocks is not wanted. */
static void set_run(reading *r, const tensor_slice *s, uint64_t cols) {
    uint32_t n = tensor_unit_elements(r->from);
    uint64_t begin = s->col_begin / n, end = (s->col_end + n - 1) / n;
    r->run = end - begin;
    r->head = (uint32_t)(s->col_begin - begin * n);
    r->tail = (uint32_t)(end * n - s->col_end);
    INVARIANT(r->from != r->to || (r->head == 0 && (r->tail == 0 || s->col_end == cols)));
}

status checkpoint_read_slice(checkpoint *c, const tensor *t, const tensor_slice *s, tensor_type type,
                             void *out) {
    INVARIANT(type != TENSOR_OTHER && t->file < c->file_count);
    if (t->type == TENSOR_OTHER || t->dims > 3 || (t->type != type && type != TENSOR_F32))
        return fail(ST_UNSUPPORTED, "%s: tensor %s of dtype %s and %u dimensions cannot be read as %s",
                    c->files[t->file].path, t->name, t->dtype, t->dims, type_name(type));
    uint64_t size[3];
    view(t, size);
    INVARIANT(s->outer_begin <= s->outer_end && s->outer_end <= size[0]);
    INVARIANT(s->row_begin <= s->row_end && s->row_end <= size[1]);
    INVARIANT(s->col_begin <= s->col_end && s->col_end <= size[2]);
    uint64_t outer = s->outer_end - s->outer_begin, rows = s->row_end - s->row_begin;
    if (outer == 0 || rows == 0 || s->col_begin == s->col_end) return ST_OK;
    reading r = {.c = c, .file = &c->files[t->file], .from = t->type, .to = type, .out = out};
    set_run(&r, s, size[2]);
    uint32_t unit = tensor_unit_bytes(t->type), elements = tensor_unit_elements(t->type);
    uint64_t stride = (size[2] + elements - 1) / elements;
    bool strided = r.run != stride;
    status st = ST_OK;
    if (strided || t->type != type) {
        uint64_t all = (((outer - 1) * size[1] + rows - 1) * stride + r.run) * unit;
        r.stage = memory_alloc(all < STAGE_BYTES ? all : STAGE_BYTES);
    }
    if (!strided && rows == size[1]) {
        rows *= outer; /* whole planes follow each other without a gap */
        outer = 1;
    }
    for (uint64_t i = 0; i < outer && st == ST_OK; i++) {
        uint64_t first = ((s->outer_begin + i) * size[1] + s->row_begin) * stride + s->col_begin / elements;
        st = read_rows(&r, t->offset + first * unit, rows, r.run, stride);
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
     * elements (of blocks, bytes). */
    if (t->type != TENSOR_OTHER && !tensor_is_blocks(t->type) && t->offset % tensor_unit_bytes(t->type) != 0)
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
