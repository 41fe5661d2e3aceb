#include "shard/bench/write_checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/shape.h"
#include "base/strbuf.h"
#include "shard/model/weights_random.h"

enum { FILE_NAME_BYTES = 64, DATA_ALIGN = 64, PIECE_BYTES = 8 << 20 };
static const uint64_t FILE_BYTES = UINT64_C(4) << 30;

/* A file, with the tensors first … end - 1 of the order of writing. */
typedef struct out_file {
    char name[FILE_NAME_BYTES], *path;
    int fd;
    uint32_t first, end;
    uint64_t data_begin, bytes;
} out_file;

/* Rows of a tensor, counted over its planes. */
typedef struct piece {
    const tensor *t;
    const out_file *file;
    uint64_t offset, row, rows;
} piece;

typedef struct writing {
    const char *directory;
    checkpoint *table;
    const tensor **tensors; /* in the order of writing, layer by layer */
    uint32_t tensor_count;
    out_file *files;
    uint32_t file_count;
    piece *pieces;
    uint32_t piece_count, piece_capacity;
    uint64_t piece_bytes, tensor_bytes, bytes; /* of a piece, of all tensors, of all files */
    void *buffer[PARALLEL_THREADS_MAX];
    progress said;
} writing;

static int by_offset(const void *a, const void *b) {
    const tensor *x = *(const tensor *const *)a, *y = *(const tensor *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static void order_tensors(writing *w) {
    w->tensor_count = checkpoint_tensor_count(w->table);
    w->tensors = memory_alloc_array(w->tensor_count, sizeof *w->tensors);
    for (uint32_t i = 0; i < w->tensor_count; i++) {
        w->tensors[i] = checkpoint_tensor(w->table, i);
        w->tensor_bytes += w->tensors[i]->bytes;
    }
    qsort(w->tensors, w->tensor_count, sizeof *w->tensors, by_offset);
}

/* As many tensors to a file as it holds, and one at least. */
static void share_out(writing *w, uint64_t file_bytes) {
    uint64_t used = 0;
    w->files = memory_alloc_array(w->tensor_count, sizeof *w->files);
    for (uint32_t i = 0; i < w->tensor_count; i++) {
        uint64_t n = w->tensors[i]->bytes;
        if (i == 0 || used + n > file_bytes) {
            w->files[w->file_count++] = (out_file){.fd = -1, .first = i};
            used = 0;
        }
        w->files[w->file_count - 1].end = i + 1;
        used += n;
    }
    for (uint32_t f = 0; f < w->file_count; f++) {
        snprintf(w->files[f].name, FILE_NAME_BYTES, "model-%05u-of-%05u.safetensors", f + 1, w->file_count);
        w->files[f].path = file_join(w->directory, w->files[f].name);
    }
}

static void make_header(const writing *w, const out_file *f, strbuf *out) {
    uint64_t at = 0;
    strbuf_add(out, "\0\0\0\0\0\0\0", 8);
    strbuf_add_string(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = f->first; i < f->end; i++) {
        const tensor *t = w->tensors[i];
        strbuf_add_format(out, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[", t->name);
        for (uint32_t d = 0; d < t->dims; d++)
            strbuf_add_format(out, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
        strbuf_add_format(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                          (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    strbuf_add_string(out, "}");
    while (out->size % DATA_ALIGN) strbuf_add_string(out, " ");
    uint64_t n = out->size - 8;
    for (int i = 0; i < 8; i++) out->data[i] = (char)(n >> (8 * i));
}

static void add_pieces(writing *w, const out_file *f, const tensor *t, uint64_t offset) {
    uint64_t row_bytes = 2 * t->shape[t->dims - 1], all = t->bytes / row_bytes, rows = w->piece_bytes / row_bytes;
    if (rows == 0) rows = 1;
    for (uint64_t row = 0; row < all; row += rows) {
        if (w->piece_count == w->piece_capacity) {
            w->piece_capacity = w->piece_capacity ? w->piece_capacity * 2 : 256;
            w->pieces = memory_grow(w->pieces, (size_t)w->piece_capacity * sizeof *w->pieces);
        }
        uint64_t n = all - row < rows ? all - row : rows;
        w->pieces[w->piece_count++] = (piece){t, f, offset + row * row_bytes, row, n};
    }
}

/* Header and room: a disk that is too small says so before any of the work. */
static status begin_file(writing *w, out_file *f) {
    strbuf header = {0};
    make_header(w, f, &header);
    f->data_begin = f->bytes = header.size;
    for (uint32_t i = f->first; i < f->end; i++) {
        add_pieces(w, f, w->tensors[i], f->bytes);
        f->bytes += w->tensors[i]->bytes;
    }
    w->bytes += f->bytes;
    status st = ST_OK;
    f->fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f->fd < 0) st = fail_errno(ST_IO, "%s", f->path);
    if (st == ST_OK && (errno = posix_fallocate(f->fd, 0, (off_t)f->bytes)) != 0)
        st = fail_errno(ST_IO, "%s: taking %llu bytes", f->path, (unsigned long long)f->bytes);
    if (st == ST_OK) st = file_write_at(f->fd, f->path, 0, header.data, header.size);
    strbuf_close(&header);
    return st;
}

static status write_piece(void *context, uint32_t item, uint32_t thread) {
    writing *w = context;
    const piece *p = &w->pieces[item];
    uint64_t cols = p->t->shape[p->t->dims - 1], plane_rows = p->t->dims > 1 ? p->t->shape[p->t->dims - 2] : 1;
    uint64_t bytes = p->rows * cols * 2; /* over piece_bytes where one row is */
    if (bytes > w->piece_bytes || !w->buffer[thread])
        w->buffer[thread] = memory_grow(w->buffer[thread], bytes > w->piece_bytes ? bytes : w->piece_bytes);
    uint16_t *out = w->buffer[thread];
    for (uint64_t i = 0; i < p->rows; i++)
        weights_random_row(p->t, (p->row + i) / plane_rows, (p->row + i) % plane_rows, out + i * cols);
    TRY(file_write_at(p->file->fd, p->file->path, p->offset, out, bytes));
    progress_add(&w->said, bytes);
    return ST_OK;
}

static status write_text(const char *directory, const char *name, const char *text) {
    char *path = file_join(directory, name);
    status st = file_write_all(path, text, strlen(text));
    free(path);
    return st;
}

static status write_index(const writing *w) {
    strbuf text = {0};
    strbuf_add_format(&text, "{\"metadata\":{\"total_size\":%llu},\"weight_map\":{",
                      (unsigned long long)w->tensor_bytes);
    for (uint32_t f = 0; f < w->file_count; f++)
        for (uint32_t i = w->files[f].first; i < w->files[f].end; i++)
            strbuf_add_format(&text, "%s\n\"%s\":\"%s\"", i ? "," : "", w->tensors[i]->name, w->files[f].name);
    strbuf_add_string(&text, "\n}}\n");
    status st = write_text(w->directory, "model.safetensors.index.json", strbuf_text(&text));
    strbuf_close(&text);
    return st;
}

static status take_directory(const char *directory) {
    static const char *const names[] = {"config.json", "model.safetensors", "model.safetensors.index.json"};
    if (mkdir(directory, 0755) != 0 && errno != EEXIST) return fail_errno(ST_IO, "%s", directory);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = file_join(directory, names[i]);
        bool there = access(path, F_OK) == 0;
        free(path);
        if (there) return fail(ST_EXISTS, "%s has a checkpoint already: there is a %s", directory, names[i]);
    }
    return ST_OK;
}

/* config.json comes last: a directory without it is no model. */
static status write_all(writing *w, const char *config, uint32_t threads) {
    for (uint32_t f = 0; f < w->file_count; f++) TRY(begin_file(w, &w->files[f]));
    progress_begin(&w->said, "writing weights", w->tensor_bytes);
    TRY(parallel_run_numbered(threads, w->piece_count, write_piece, w));
    for (uint32_t f = 0; f < w->file_count; f++)
        if (fsync(w->files[f].fd) != 0) return fail_errno(ST_IO, "%s", w->files[f].path);
    TRY(write_index(w));
    return write_text(w->directory, "config.json", config);
}

static void release(writing *w, bool failed) {
    for (uint32_t f = 0; f < w->file_count; f++) {
        if (w->files[f].fd >= 0) close(w->files[f].fd);
        if (failed && w->files[f].fd >= 0) unlink(w->files[f].path);
        free(w->files[f].path);
    }
    static const char *const texts[] = {"model.safetensors.index.json", "config.json"};
    for (size_t i = 0; failed && i < sizeof texts / sizeof *texts; i++) { /* ours: there were none before */
        char *path = file_join(w->directory, texts[i]);
        unlink(path);
        free(path);
    }
    for (int i = 0; i < PARALLEL_THREADS_MAX; i++) free(w->buffer[i]);
    free(w->pieces);
    free(w->files);
    free(w->tensors);
    checkpoint_close(w->table);
}

status bench_write_config(const char *directory, const char *config, uint64_t file_bytes, uint64_t piece_bytes,
                          uint32_t threads, uint64_t *bytes) {
    model_config *c = NULL;
    writing w = {.directory = directory, .piece_bytes = piece_bytes};
    *bytes = 0;
    TRY(take_directory(directory));
    TRY(model_config_parse(&c, config, strlen(config), NULL, 0));
    status st = weights_random_checkpoint(&w.table, c);
    if (st == ST_OK) {
        order_tensors(&w);
        share_out(&w, file_bytes);
        st = write_all(&w, config, threads);
    }
    *bytes = w.bytes;
    release(&w, st != ST_OK);
    model_config_close(c);
    return st;
}

status bench_write_checkpoint(const char *directory, const char *shape, uint32_t layers, uint32_t threads) {
    strbuf config = {0};
    uint64_t bytes = 0, begin = clock_now_ns();
    status st = shape_write_config(shape, layers, &config);
    if (st == ST_OK)
        st = bench_write_config(directory, strbuf_text(&config), FILE_BYTES, PIECE_BYTES, threads, &bytes);
    strbuf_close(&config);
    if (st != ST_OK) return st;
    uint64_t ns = clock_now_ns() - begin;
    printf("%s: %.2f GiB of random weights, shape %s, in %.1f s (%.2f GB/s)\n", directory, (double)bytes / 0x1p30,
           shape, (double)ns / 1e9, progress_rate(bytes, ns));
    return ST_OK;
}
