#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/sha256.h"
#include "proto/limits.h"
#include "shard/pack/pack_parts.h"

enum { LOAD_BYTES = 32 << 20 };
#define FILE_BYTES_MAX (UINT64_C(1) << 48) /* far above any file; products of shapes below it fit 64 bits */

void pack_hash(const void *bytes, uint64_t n, uint8_t digest[32]) {
    sha256 s;
    sha256_begin(&s);
    sha256_add(&s, bytes, n);
    sha256_end(&s, digest);
}

static uint32_t u32_at(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t u64_at(const uint8_t *p) { return u32_at(p) | (uint64_t)u32_at(p + 4) << 32; }

/* Printable, ended inside its field, and nothing behind the end. */
static bool text_at(const uint8_t *p, uint32_t size, char *out) {
    uint32_t n = 0;
    while (n < size && p[n] > ' ' - 1 && p[n] < 127) n++;
    for (uint32_t i = n; i < size; i++)
        if (p[i] != 0) return false;
    memcpy(out, p, size);
    return n < size && n > 0;
}

static status check_header(pack_file *f) {
    const uint8_t *h = f->bytes;
    uint8_t digest[32];
    char storage[STORAGE_BYTES];
    if (f->file_bytes < PACK_HEADER_BYTES || memcmp(h + AT_MAGIC, PACK_MAGIC, 8) != 0)
        return fail(ST_FORMAT, "%s is no packed model: it does not begin with a header of %d bytes", f->name,
                    PACK_HEADER_BYTES);
    if (u32_at(h + AT_VERSION) != PACK_VERSION)
        return fail(ST_UNSUPPORTED, "%s has version %u of the packed format, this build reads %d", f->name,
                    u32_at(h + AT_VERSION), PACK_VERSION);
    pack_hash(h, AT_HEADER_HASH, digest);
    if (memcmp(digest, h + AT_HEADER_HASH, 32) != 0)
        return fail(ST_FORMAT, "%s: the header does not have the SHA-256 that it ends with", f->name);
    if (!text_at(h + AT_STORAGE, STORAGE_BYTES, storage) ||
        !text_at(h + AT_LAYOUT, LAYOUT_BYTES, f->info.layout))
        return fail(ST_FORMAT, "%s: storage class or layout is no text", f->name);
    if (strcmp(storage, PACK_STORAGE) != 0)
        return fail(ST_MISMATCH, "%s is stored as %s, this build's kernels read %s: pack the model again",
                    f->name, storage, PACK_STORAGE);
    if (u64_at(h + AT_FILE_BYTES) != f->file_bytes || f->file_bytes > FILE_BYTES_MAX)
        return fail(ST_FORMAT, "%s has %llu bytes, its header says %llu", f->name,
                    (unsigned long long)f->file_bytes, (unsigned long long)u64_at(h + AT_FILE_BYTES));
    f->info.rank = u32_at(h + AT_RANK);
    f->info.ranks = u32_at(h + AT_RANKS);
    if (f->info.ranks == 0 || f->info.ranks > LIMIT_RANKS ||
        (f->info.rank >= f->info.ranks && f->info.rank != PACK_SHARED_RANK))
        return fail(ST_FORMAT, "%s: rank %u of %u, at most %d ranks are allowed", f->name, f->info.rank,
                    f->info.ranks, LIMIT_RANKS);
    memcpy(f->info.config_hash, h + AT_CONFIG_HASH, 32);
    memcpy(f->info.checkpoint_hash, h + AT_CHECKPOINT_HASH, 32);
    return ST_OK;
}

/* Numbers between the kinds of floats and strips and the kinds of blocks are none. */
static bool type_of(uint32_t number, weight *m) {
    static const weight_type types[] = {[PACK_TYPE_F32] = WEIGHT_F32,
                                        [PACK_TYPE_BF16] = WEIGHT_BF16,
                                        [PACK_TYPE_F16] = WEIGHT_F16,
                                        [PACK_TYPE_Q8] = WEIGHT_Q8,
                                        [PACK_TYPE_Q4] = WEIGHT_Q4,
                                        [PACK_TYPE_FP8] = WEIGHT_FP8};
    if (number < sizeof types / sizeof *types) {
        m->type = types[number];
        return true;
    }
    if (number < PACK_TYPE_BLOCKS || number >= PACK_TYPES) return false;
    m->type = WEIGHT_BLOCKS;
    m->blocks = (block_format)(number - PACK_TYPE_BLOCKS);
    return m->cols % block_elements(m->blocks) == 0;
}

/* *end is where the part before ended. */
static status read_part(const pack_file *f, const uint8_t *p, pack_part *out, uint64_t *end) {
    if (!text_at(p, PACK_NAME_BYTES, out->name))
        return fail(ST_FORMAT, "%s: part %llu has no name", f->name,
                    (unsigned long long)((p - f->bytes - PACK_HEADER_BYTES) / PACK_PART_BYTES));
    uint32_t form = u32_at(p + AT_PART_FORM), type = u32_at(p + AT_PART_TYPE);
    uint32_t rows = u32_at(p + AT_PART_ROWS), cols = u32_at(p + AT_PART_COLS);
    out->matrix = (weight){.rows = rows, .cols = cols};
    /* Blocks are looked up and never multiplied, strips the other way round. */
    if (form >= PACK_FORMS || !type_of(type, &out->matrix) ||
        (form == PACK_TABLE ? weight_in_strips(out->matrix.type) : out->matrix.type == WEIGHT_BLOCKS))
        return fail(ST_FORMAT,
                    "%s: part %s has form %u and type %u, which do not go together with %u columns", f->name,
                    out->name, form, type, cols);
    bool is_float = form == PACK_VECTOR || form == PACK_NUMBER;
    if (is_float && (rows != 1 || type != PACK_TYPE_F32 || cols == 0 || (form == PACK_NUMBER && cols != 1)))
        return fail(ST_FORMAT, "%s: part %s is a vector or number of %u x %u and type %u", f->name, out->name,
                    rows, cols, type);
    /* The smallest type takes half a byte; products below the bound fit 64 bits. */
    if ((uint64_t)rows * cols > 2 * f->file_bytes)
        return fail(ST_FORMAT, "%s: part %s has %u x %u elements, the file %llu bytes", f->name, out->name,
                    rows, cols, (unsigned long long)f->file_bytes);
    out->form = (pack_form)form;
    out->offset = u64_at(p + AT_PART_OFFSET);
    out->bytes = u64_at(p + AT_PART_BYTES);
    memcpy(out->sha256, p + AT_PART_HASH, 32);
    uint64_t bytes = pack_part_bytes(&out->matrix), offset = bytes ? *end : 0;
    if (out->bytes != bytes || out->offset != offset || bytes > f->file_bytes - *end)
        return fail(
            ST_FORMAT,
            "%s: part %s of %u x %u has %llu bytes at %llu; %llu at %llu are right, and the file has %llu",
            f->name, out->name, rows, cols, (unsigned long long)out->bytes, (unsigned long long)out->offset,
            (unsigned long long)bytes, (unsigned long long)offset, (unsigned long long)f->file_bytes);
    if (bytes) out->matrix.data = f->bytes + offset;
    *end = pack_aligned(*end + bytes);
    return ST_OK;
}

static status read_table(pack_file *f) {
    uint32_t n = u32_at(f->bytes + AT_PARTS);
    uint64_t table = (uint64_t)n * PACK_PART_BYTES, end = pack_data_begin(n);
    if (n > PACK_PARTS_MAX || end > f->file_bytes)
        return fail(ST_FORMAT,
                    "%s: %u parts, allowed are at most %d and a table inside the file of %llu bytes", f->name,
                    n, PACK_PARTS_MAX, (unsigned long long)f->file_bytes);
    uint8_t digest[32];
    pack_hash(f->bytes + PACK_HEADER_BYTES, table, digest);
    if (memcmp(digest, f->bytes + AT_TABLE_HASH, 32) != 0)
        return fail(ST_FORMAT, "%s: the table of parts does not have the SHA-256 that the header gives",
                    f->name);
    pack_hash(f->bytes, PACK_HEADER_BYTES + table, f->head_hash);
    f->part = memory_alloc_array(n, sizeof *f->part);
    f->parts = n;
    for (uint32_t i = 0; i < n; i++)
        TRY(read_part(f, f->bytes + PACK_HEADER_BYTES + (uint64_t)i * PACK_PART_BYTES, &f->part[i], &end));
    if (end != f->file_bytes)
        return fail(ST_FORMAT, "%s has %llu bytes, its parts end at %llu", f->name,
                    (unsigned long long)f->file_bytes, (unsigned long long)end);
    return ST_OK;
}

status pack_file_parse(pack_file **out, const uint8_t *bytes, uint64_t n, const char *name) {
    *out = NULL;
    pack_file *f = memory_alloc(sizeof *f);
    f->name = memory_copy_string(name);
    f->bytes = bytes;
    f->file_bytes = n;
    f->fd = -1;
    status st = check_header(f);
    if (st == ST_OK) st = read_table(f);
    if (st == ST_OK) *out = f;
    else pack_file_close(f);
    return st;
}

static status map_file(int fd, const char *path, void **out, uint64_t *n) {
    struct stat info;
    if (fstat(fd, &info) != 0) return fail_errno(ST_IO, "%s", path);
    if (!S_ISREG(info.st_mode) || info.st_size < PACK_HEADER_BYTES)
        return fail(ST_FORMAT, "%s is no packed model: it is not a file of at least %d bytes", path,
                    PACK_HEADER_BYTES);
    *n = (uint64_t)info.st_size;
    *out = mmap(NULL, *n, PROT_READ, MAP_SHARED, fd, 0);
    if (*out == MAP_FAILED)
        return fail_errno(ST_NO_MEMORY, "%s: cannot map %llu bytes", path, (unsigned long long)*n);
    (void)madvise(*out, *n, MADV_HUGEPAGE); /* a hint, which most file systems cannot follow */
    return ST_OK;
}

status pack_file_open(pack_file **out, const char *path) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", path);
    void *bytes = NULL;
    uint64_t n = 0;
    status st = map_file(fd, path, &bytes, &n);
    if (st == ST_OK) {
        st = pack_file_parse(out, bytes, n, path);
        if (st != ST_OK) munmap(bytes, n);
    }
    if (st != ST_OK) {
        close(fd);
        return st;
    }
    (*out)->mapped = true;
    (*out)->fd = fd;
    return ST_OK;
}

void pack_file_keep_mapping(pack_file *f) { f->mapped = false; }

void pack_file_close(pack_file *f) {
    if (!f) return;
    if (f->mapped) munmap((void *)(uintptr_t)f->bytes, f->file_bytes);
    if (f->fd >= 0) close(f->fd);
    free(f->part);
    free(f->name);
    free(f);
}

status pack_file_read(const pack_file *f, uint64_t offset, void *out, uint64_t n) {
    INVARIANT(offset <= f->file_bytes && n <= f->file_bytes - offset);
    if (f->fd >= 0) return file_read_at(f->fd, f->name, offset, out, n);
    memcpy(out, f->bytes + offset, n);
    return ST_OK;
}

typedef struct pass {
    const pack_file *file;
    progress *progress;
} pass;

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static status load_piece(void *context, uint32_t item) {
    const pass *p = context;
    uint64_t begin = (uint64_t)item * LOAD_BYTES, rest = p->file->file_bytes - begin;
    uint64_t n = rest < LOAD_BYTES ? rest : LOAD_BYTES;
    const volatile uint8_t *at = p->file->bytes + begin;
    if (madvise((void *)(uintptr_t)at, n, MADV_POPULATE_READ) != 0) {
        if (errno != EINVAL)
            return fail_errno(ST_IO, "%s: reading %llu bytes at %llu", p->file->name, (unsigned long long)n,
                              (unsigned long long)begin);
        for (uint64_t i = 0; i < n; i += 4096) (void)at[i]; /* a kernel before 5.14 */
    }
    if (p->progress) progress_add(p->progress, n);
    return ST_OK;
}

status pack_file_load(const pack_file *f, uint32_t threads, progress *p) {
    pass all = {f, p};
    return parallel_run(threads, (uint32_t)((f->file_bytes + LOAD_BYTES - 1) / LOAD_BYTES), load_piece, &all);
}

static status verify_part(void *context, uint32_t item) {
    const pass *p = context;
    const pack_part *part = &p->file->part[item];
    uint8_t digest[32];
    char found[65], wanted[65];
    pack_hash(part->matrix.data, part->bytes, digest);
    if (memcmp(digest, part->sha256, 32) != 0) {
        sha256_hex(digest, found);
        sha256_hex(part->sha256, wanted);
        return fail(ST_FORMAT,
                    "%s: the data of part %s, %llu bytes at %llu, has SHA-256 %.16s…, written was %.16s…",
                    p->file->name, part->name, (unsigned long long)part->bytes,
                    (unsigned long long)part->offset, found, wanted);
    }
    if (p->progress) progress_add(p->progress, part->bytes);
    return ST_OK;
}

status pack_file_verify(const pack_file *f, uint32_t threads, progress *p) {
    pass all = {f, p};
    return parallel_run(threads, f->parts, verify_part, &all);
}
