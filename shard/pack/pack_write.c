#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/sha256.h"
#include "base/strbuf.h"
#include "shard/pack/pack_parts.h"

enum { WRITE_BYTES = 8 << 20 };

static void put_u32(uint8_t *p, uint32_t n) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(n >> (8 * i));
}
static void put_u64(uint8_t *p, uint64_t n) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(n >> (8 * i));
}
static void put_text(uint8_t *p, const char *text, size_t size) {
    INVARIANT(strlen(text) < size);
    memcpy(p, text, strlen(text));
}

static uint32_t type_number(const weight *m) {
    switch (m->type) {
    case WEIGHT_F32: return PACK_TYPE_F32;
    case WEIGHT_BF16: return PACK_TYPE_BF16;
    case WEIGHT_F16: return PACK_TYPE_F16;
    case WEIGHT_Q8: return PACK_TYPE_Q8;
    case WEIGHT_Q4: return PACK_TYPE_Q4;
    case WEIGHT_FP8: return PACK_TYPE_FP8;
    case WEIGHT_BLOCKS: return PACK_TYPE_BLOCKS + m->blocks;
    case WEIGHT_TYPES: break;
    }
    INVARIANT(!"a type that packs hold");
    return 0;
}

uint64_t pack_file_place(pack_part *part, uint32_t parts) {
    uint64_t at = pack_data_begin(parts);
    for (uint32_t i = 0; i < parts; i++) {
        part[i].bytes = pack_part_bytes(&part[i].matrix);
        part[i].offset = part[i].bytes ? at : 0;
        at = pack_aligned(at + part[i].bytes);
    }
    return at;
}

typedef struct writing {
    int fd;
    const char *path;
    pack_part *part;
    progress *progress;
} writing;

/* In pieces, so that what has just been hashed is still in the cache when it is written. */
static status write_part(void *context, uint32_t item) {
    writing *w = context;
    pack_part *part = &w->part[item];
    sha256 hash;
    sha256_begin(&hash);
    for (uint64_t at = 0; at < part->bytes;) {
        uint64_t n = part->bytes - at < WRITE_BYTES ? part->bytes - at : WRITE_BYTES;
        const char *data = (const char *)part->matrix.data + at;
        sha256_add(&hash, data, n);
        TRY(file_write_at(w->fd, w->path, part->offset + at, data, n));
        if (w->progress) progress_add(w->progress, n);
        at += n;
    }
    sha256_end(&hash, part->sha256);
    return ST_OK;
}

static void make_table(const pack_part *part, uint32_t parts, uint8_t *table) {
    for (uint32_t i = 0; i < parts; i++, part++, table += PACK_PART_BYTES) {
        put_text(table, part->name, PACK_NAME_BYTES);
        put_u32(table + AT_PART_FORM, part->form);
        put_u32(table + AT_PART_TYPE, type_number(&part->matrix));
        put_u32(table + AT_PART_ROWS, part->matrix.rows);
        put_u32(table + AT_PART_COLS, part->matrix.cols);
        put_u64(table + AT_PART_OFFSET, part->offset);
        put_u64(table + AT_PART_BYTES, part->bytes);
        memcpy(table + AT_PART_HASH, part->sha256, 32);
    }
}

static void make_header(const pack_info *info, uint32_t parts, uint64_t file_bytes, uint8_t *h) {
    memcpy(h + AT_MAGIC, PACK_MAGIC, 8);
    put_u32(h + AT_VERSION, PACK_VERSION);
    put_u32(h + AT_PARTS, parts);
    put_u32(h + AT_RANK, info->rank);
    put_u32(h + AT_RANKS, info->ranks);
    put_u64(h + AT_FILE_BYTES, file_bytes);
    put_text(h + AT_STORAGE, PACK_STORAGE, STORAGE_BYTES);
    put_text(h + AT_LAYOUT, info->layout, LAYOUT_BYTES);
    memcpy(h + AT_CONFIG_HASH, info->config_hash, 32);
    memcpy(h + AT_CHECKPOINT_HASH, info->checkpoint_hash, 32);
    pack_hash(h + PACK_HEADER_BYTES, (uint64_t)parts * PACK_PART_BYTES, h + AT_TABLE_HASH);
    pack_hash(h, AT_HEADER_HASH, h + AT_HEADER_HASH);
}

static status write_all(writing *w, const pack_info *info, uint32_t parts, uint32_t threads,
                        uint8_t head_hash[32]) {
    uint64_t file_bytes = pack_file_place(w->part, parts);
    /* All of the space before any of the work; it reads as zeros, so gaps need no writing. */
    int error = posix_fallocate(w->fd, 0, (off_t)file_bytes);
    if (error) {
        errno = error;
        return fail_errno(ST_IO, "%s: taking %llu bytes", w->path, (unsigned long long)file_bytes);
    }
    TRY(parallel_run(threads, parts, write_part, w));
    uint64_t head = PACK_HEADER_BYTES + (uint64_t)parts * PACK_PART_BYTES;
    uint8_t *h = memory_alloc(head);
    make_table(w->part, parts, h + PACK_HEADER_BYTES);
    make_header(info, parts, file_bytes, h);
    pack_hash(h, head, head_hash);
    status st = file_write_at(w->fd, w->path, 0, h, head);
    free(h);
    TRY(st);
    return fsync(w->fd) == 0 ? ST_OK : fail_errno(ST_IO, "%s", w->path);
}

status pack_file_write(const char *path, const pack_info *info, pack_part *part, uint32_t parts,
                       uint32_t threads, progress *p, uint8_t head_hash[32]) {
    strbuf fresh = {0};
    strbuf_add_format(&fresh, "%s.new", path);
    const char *name = strbuf_text(&fresh);
    writing w = {.fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644),
                 .path = name,
                 .part = part,
                 .progress = p};
    status st = w.fd < 0 ? fail_errno(ST_IO, "%s", name) : ST_OK;
    if (st == ST_OK) st = write_all(&w, info, parts, threads, head_hash);
    if (w.fd >= 0 && close(w.fd) != 0 && st == ST_OK) st = fail_errno(ST_IO, "%s", name);
    if (st == ST_OK && rename(name, path) != 0) st = fail_errno(ST_IO, "%s", path);
    if (st != ST_OK && w.fd >= 0) unlink(name);
    strbuf_close(&fresh);
    return st;
}
