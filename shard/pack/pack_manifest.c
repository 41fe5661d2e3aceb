#include "shard/pack/pack_manifest.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "shard/pack/pack_parts.h"

enum { MANIFEST_BYTES_MAX = 1 << 20 };

bool pack_manifest_exists(const char *directory) {
    char *path = file_join(directory, PACK_MANIFEST_NAME);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

void pack_rank_name(uint32_t rank, uint32_t ranks, char name[PACK_FILE_NAME_BYTES]) {
    if (rank == PACK_SHARED_RANK) snprintf(name, PACK_FILE_NAME_BYTES, "%s", PACK_TABLES_NAME);
    else snprintf(name, PACK_FILE_NAME_BYTES, "rank-%u-of-%u.pack", rank, ranks);
}

/* ---- reading ---- */

static status read_text(json_t *o, const char *where, const char *key, char *out, size_t size) {
    const char *text = NULL;
    TRY(json_read_string_optional(o, where, key, &text));
    if (!text || !*text || strlen(text) >= size)
        return fail(ST_FORMAT, "%s: %s is missing, empty or longer than %zu bytes", where, key, size - 1);
    memcpy(out, text, strlen(text) + 1);
    return ST_OK;
}

static int digit_of(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static status read_hash(json_t *o, const char *where, const char *key, uint8_t out[32]) {
    char text[65] = "";
    TRY(read_text(o, where, key, text, sizeof text));
    for (int i = 0; i < 32; i++) {
        int high = digit_of(text[2 * i]), low = high < 0 ? -1 : digit_of(text[2 * i + 1]);
        if (low < 0) return fail(ST_FORMAT, "%s: %s is not 64 hexadecimal digits", where, key);
        out[i] = (uint8_t)(high << 4 | low);
    }
    return ST_OK;
}

static status read_entry(json_t *o, const char *where, pack_manifest *m) {
    char name[PACK_FILE_NAME_BYTES], known[PACK_FILE_NAME_BYTES];
    unsigned rank = PACK_SHARED_RANK, ranks = 0;
    if (!json_is_object(o)) return fail(ST_FORMAT, "%s: files has an entry that is no object", where);
    TRY(read_text(o, where, "name", name, sizeof name));
    if (sscanf(name, "rank-%u-of-%u", &rank, &ranks) != 2) rank = PACK_SHARED_RANK;
    pack_rank_name(rank, m->ranks, known);
    if (strcmp(name, known) != 0 || (rank != PACK_SHARED_RANK && rank >= m->ranks))
        return fail(ST_FORMAT, "%s: files has %s, which is none of a pack for %u ranks", where, name,
                    m->ranks);
    pack_entry *e = rank == PACK_SHARED_RANK ? &m->tables : &m->rank[rank];
    json_t *bytes = json_object_get(o, "bytes");
    if (!json_is_integer(bytes) || json_integer_value(bytes) < PACK_HEADER_BYTES || e->bytes)
        return fail(ST_FORMAT, "%s: files has %s twice, or bytes of it that are no number from %d on", where,
                    name, PACK_HEADER_BYTES);
    e->bytes = (uint64_t)json_integer_value(bytes);
    return read_hash(o, where, "head_sha256", e->head_hash);
}

static status read_files(json_t *o, const char *where, pack_manifest *m) {
    json_t *files = json_object_get(o, "files");
    if (!json_is_array(files)) return fail(ST_FORMAT, "%s: files is missing or no list", where);
    for (size_t i = 0; i < json_array_size(files); i++) TRY(read_entry(json_array_get(files, i), where, m));
    for (uint32_t r = 0; r < m->ranks; r++)
        if (!m->rank[r].bytes)
            return fail(ST_FORMAT, "%s: files lacks the one of rank %u of %u", where, r, m->ranks);
    return ST_OK;
}

static status read_manifest(json_t *o, const char *where, pack_manifest *m) {
    uint32_t version = 0;
    char storage[32];
    TRY(json_read_u32(o, where, "version", 0, UINT32_MAX, &version));
    if (version != PACK_VERSION)
        return fail(ST_UNSUPPORTED, "%s has version %u of the packed format, this build reads %d", where,
                    version, PACK_VERSION);
    TRY(read_text(o, where, "storage", storage, sizeof storage));
    if (strcmp(storage, PACK_STORAGE) != 0)
        return fail(ST_MISMATCH, "%s: the model is stored as %s, this build's kernels read %s: pack it again",
                    where, storage, PACK_STORAGE);
    TRY(json_read_u32(o, where, "ranks", 1, LIMIT_RANKS, &m->ranks));
    TRY(json_read_u32(o, where, "group", 1, QUANT_GROUP, &m->group));
    if (m->group != 1 && m->group != QUANT_GROUP)
        return fail(ST_FORMAT, "%s: group is %u, allowed are 1 and %d", where, m->group, QUANT_GROUP);
    TRY(json_read_u32(o, where, "expert_degree", 1, m->ranks, &m->expert_degree));
    TRY(json_read_u32(o, where, "width_degree", 1, m->ranks, &m->width_degree));
    TRY(read_text(o, where, "layout", m->layout, sizeof m->layout));
    TRY(read_text(o, where, "weights", m->weights, sizeof m->weights));
    TRY(read_text(o, where, "stored", m->stored, sizeof m->stored));
    TRY(read_text(o, where, "source", m->source, sizeof m->source));
    TRY(read_hash(o, where, "config_sha256", m->config_hash));
    TRY(read_hash(o, where, "checkpoint_sha256", m->checkpoint_hash));
    return read_files(o, where, m);
}

status pack_manifest_parse(pack_manifest *out, const char *bytes, size_t n, const char *where) {
    json_t *o = NULL;
    memset(out, 0, sizeof *out);
    TRY(json_read_bytes(bytes, n, where, &o));
    status st = read_manifest(o, where, out);
    pack_hash(bytes, n, out->hash);
    json_decref(o);
    return st;
}

status pack_manifest_read(pack_manifest *out, const char *directory) {
    char *path = file_join(directory, PACK_MANIFEST_NAME), *bytes = NULL;
    size_t n;
    status st = file_read_all(path, MANIFEST_BYTES_MAX, &bytes, &n);
    if (st == ST_OK) st = pack_manifest_parse(out, bytes, n, path);
    free(bytes);
    free(path);
    return st;
}

static status check_against(const pack_manifest *m, const char *directory, uint32_t rank,
                            const pack_file *f) {
    const pack_entry *e = rank == PACK_SHARED_RANK ? &m->tables : &m->rank[rank];
    if (f->file_bytes != e->bytes || memcmp(f->head_hash, e->head_hash, 32) != 0)
        return fail(ST_MISMATCH, "%s is not the file that %s/%s was written for", f->name, directory,
                    PACK_MANIFEST_NAME);
    const pack_info *i = &f->info;
    if (i->rank != rank || i->ranks != m->ranks || strcmp(i->layout, m->layout) != 0 ||
        memcmp(i->config_hash, m->config_hash, 32) != 0 ||
        memcmp(i->checkpoint_hash, m->checkpoint_hash, 32) != 0)
        return fail(ST_MISMATCH,
                    "%s is for rank %u of %u, layout %s; %s/%s says rank %u of %u, layout %s, or config or "
                    "checkpoint is another",
                    f->name, i->rank, i->ranks, i->layout, directory, PACK_MANIFEST_NAME, rank, m->ranks,
                    m->layout);
    return ST_OK;
}

status pack_manifest_open(const pack_manifest *m, const char *directory, uint32_t rank, pack_file **out) {
    char name[PACK_FILE_NAME_BYTES];
    *out = NULL;
    pack_rank_name(rank, m->ranks, name);
    char *path = file_join(directory, name);
    status st = pack_file_open(out, path);
    if (st == ST_OK) st = check_against(m, directory, rank, *out);
    free(path);
    if (st == ST_OK) return ST_OK;
    pack_file_close(*out);
    *out = NULL;
    return st;
}

/* ---- writing ---- */

static json_t *integer(uint64_t n) { return json_integer((json_int_t)n); }

static json_t *hex(const uint8_t hash[32]) {
    char text[65];
    sha256_hex(hash, text);
    return json_string(text);
}

static json_t *entry(const pack_manifest *m, uint32_t rank) {
    const pack_entry *e = rank == PACK_SHARED_RANK ? &m->tables : &m->rank[rank];
    char name[PACK_FILE_NAME_BYTES];
    pack_rank_name(rank, m->ranks, name);
    json_t *o = json_object();
    json_object_set_new(o, "name", json_string(name));
    json_object_set_new(o, "bytes", integer(e->bytes));
    json_object_set_new(o, "head_sha256", hex(e->head_hash));
    return o;
}

static json_t *describe(const pack_manifest *m) {
    json_t *o = json_object(), *files = json_array();
    json_object_set_new(o, "version", integer(PACK_VERSION));
    json_object_set_new(o, "storage", json_string(PACK_STORAGE));
    json_object_set_new(o, "ranks", integer(m->ranks));
    json_object_set_new(o, "layout", json_string(m->layout));
    json_object_set_new(o, "group", integer(m->group));
    json_object_set_new(o, "expert_degree", integer(m->expert_degree));
    json_object_set_new(o, "width_degree", integer(m->width_degree));
    json_object_set_new(o, "weights", json_string(m->weights));
    json_object_set_new(o, "stored", json_string(m->stored));
    json_object_set_new(o, "source", json_string(m->source));
    json_object_set_new(o, "config_sha256", hex(m->config_hash));
    json_object_set_new(o, "checkpoint_sha256", hex(m->checkpoint_hash));
    for (uint32_t r = 0; r < m->ranks; r++) json_array_append_new(files, entry(m, r));
    if (m->tables.bytes) json_array_append_new(files, entry(m, PACK_SHARED_RANK));
    json_object_set_new(o, "files", files);
    return o;
}

static status sync_directory(const char *directory) {
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    status st = fd < 0 || fsync(fd) != 0 ? fail_errno(ST_IO, "%s", directory) : ST_OK;
    if (fd >= 0) close(fd);
    return st;
}

status pack_manifest_write(const pack_manifest *m, const char *directory) {
    json_t *o = describe(m);
    char *text = json_dumps(o, JSON_INDENT(2));
    char *path = file_join(directory, PACK_MANIFEST_NAME),
         *fresh = file_join(directory, PACK_MANIFEST_NAME ".new");
    status st = text ? file_write_all(fresh, text, strlen(text))
                     : fail(ST_FORMAT, "%s: the source's name is not UTF-8", path);
    if (st == ST_OK) st = sync_directory(directory);
    if (st == ST_OK && rename(fresh, path) != 0) st = fail_errno(ST_IO, "%s", path);
    if (st == ST_OK) st = sync_directory(directory);
    free(fresh);
    free(path);
    free(text);
    json_decref(o);
    return st;
}
