#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/gguf.h"
#include "base/invariant.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/sha256.h"
#include "shard/loader/checkpoint_parts.h"

enum {
    CONFIG_BYTES_MAX = 4 << 20,
    INDEX_BYTES_MAX = 64 << 20,
    FILES_MAX = 512, /* each stays open: well below the usual 1024 descriptors of a process */
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

const tensor *checkpoint_find(const checkpoint *c, const char *name) {
    tensor key = {.name = name};
    return bsearch(&key, c->tensors, c->tensor_count, sizeof key, by_name);
}

/* Numbers go in as 8 little-endian bytes, so that every machine of a cluster hashes alike. */
static void hash_number(sha256 *s, uint64_t n) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(n >> (8 * i));
    sha256_add(s, bytes, sizeof bytes);
}

typedef struct collect {
    checkpoint *c;
    uint32_t file;
} collect;

void checkpoint_add_tensor(checkpoint *c, const tensor *t) {
    if (c->tensor_count == c->tensor_capacity) {
        c->tensor_capacity = c->tensor_capacity ? c->tensor_capacity * 2 : 256;
        c->tensors = memory_grow(c->tensors, (size_t)c->tensor_capacity * sizeof *c->tensors);
    }
    tensor *mine = &c->tensors[c->tensor_count++];
    *mine = *t;
    mine->name = memory_copy_string(t->name);
}

static status collect_tensor(void *context, const tensor *t) {
    const collect *to = context;
    checkpoint_add_tensor(to->c, t);
    to->c->tensors[to->c->tensor_count - 1].file = to->file;
    return ST_OK;
}

status checkpoint_open_file(checkpoint_file *f) {
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", f->path);
    struct stat info;
    if (fstat(f->fd, &info) != 0) return fail_errno(ST_IO, "%s", f->path);
    if (!S_ISREG(info.st_mode)) return fail(ST_FORMAT, "%s is not a regular file", f->path);
    f->bytes = (uint64_t)info.st_size;
    return ST_OK;
}

static status open_file(checkpoint *c, uint32_t index, sha256 *hash) {
    checkpoint_file *f = &c->files[index];
    f->path = file_join(c->directory, f->name);
    TRY(checkpoint_open_file(f));
    uint8_t prefix[8];
    TRY(file_read_at(f->fd, f->path, 0, prefix, sizeof prefix));
    uint64_t n = 0;
    for (int i = 0; i < 8; i++) n |= (uint64_t)prefix[i] << (8 * i);
    if (n > SAFETENSORS_HEADER_MAX || n > f->bytes - sizeof prefix)
        return fail(ST_FORMAT,
                    "%s: the header has %llu bytes, allowed are at most %d and what the file has (%llu)",
                    f->path, (unsigned long long)n, SAFETENSORS_HEADER_MAX, (unsigned long long)f->bytes);
    char *header = memory_alloc(n);
    collect to = {c, index};
    status st = file_read_at(f->fd, f->path, sizeof prefix, header, n);
    if (st == ST_OK) st = safetensors_parse_header(header, n, f->bytes, f->path, collect_tensor, &to);
    hash_number(hash, f->bytes);
    hash_number(hash, n);
    sha256_add(hash, header, n);
    free(header);
    return st;
}

static void add_file(checkpoint *c, const char *name) {
    c->files = memory_grow(c->files, (c->file_count + 1) * sizeof *c->files);
    c->files[c->file_count++] = (checkpoint_file){.name = memory_copy_string(name), .fd = -1};
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the index's weight_map names, each once, in the order of their names. */
static status add_indexed_files(checkpoint *c, const char *index_path, json_t *map) {
    size_t n = json_object_size(map), i = 0;
    if (n == 0) return fail(ST_FORMAT, "%s: weight_map is missing, empty or not an object", index_path);
    const char **names = memory_alloc_array(n, sizeof *names);
    status st = ST_OK;
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value) {
        const char *name = json_string_value(value);
        /* Shards lie beside their index: a path could lead anywhere on the machine. */
        if (!name || name[0] == 0 || name[0] == '.' || strchr(name, '/')) {
            st = fail(ST_FORMAT, "%s: weight_map: %.200s is in \"%.200s\", which is not a file name",
                      index_path, key, name ? name : "");
            goto fail;
        }
        names[i++] = name;
    }
    qsort(names, n, sizeof *names, by_text);
    for (i = 0; i < n; i++) {
        if (i > 0 && !strcmp(names[i], names[i - 1])) continue;
        if (c->file_count == FILES_MAX) {
            st = fail(ST_FORMAT, "%s: weight_map names more than %d files", index_path, FILES_MAX);
            goto fail;
        }
        add_file(c, names[i]);
    }
fail:
    free(names);
    return st;
}

/* Index and headers must tell the same story, tensor by tensor. */
static status check_index(const checkpoint *c, const char *index_path, json_t *map) {
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value) {
        const tensor *t = checkpoint_find(c, key);
        const char *file = json_string_value(value);
        if (!t) return fail(ST_FORMAT, "%s: tensor %s is not in %.200s", index_path, key, file);
        if (strcmp(file, c->files[t->file].name))
            return fail(ST_FORMAT, "%s: tensor %s is not in %.200s but in %s", index_path, key, file,
                        c->files[t->file].name);
    }
    for (uint32_t i = 0; i < c->tensor_count; i++)
        if (!json_object_get(map, c->tensors[i].name))
            return fail(ST_FORMAT, "%s does not list tensor %s of %s", index_path, c->tensors[i].name,
                        c->files[c->tensors[i].file].name);
    return ST_OK;
}

static status sort_tensors(checkpoint *c) {
    qsort(c->tensors, c->tensor_count, sizeof *c->tensors, by_name);
    for (uint32_t i = 1; i < c->tensor_count; i++) {
        const tensor *a = &c->tensors[i - 1], *b = &c->tensors[i];
        if (!strcmp(a->name, b->name))
            return fail(ST_FORMAT, "%s: tensor %s is both in %s and in %s", c->directory, a->name,
                        c->files[a->file].name, c->files[b->file].name);
    }
    return ST_OK;
}

static status hash_config(const checkpoint *c, sha256 *hash) {
    char *path = file_join(c->directory, "config.json"), *bytes = NULL;
    size_t n;
    status st = file_read_all(path, CONFIG_BYTES_MAX, &bytes, &n);
    if (st == ST_OK) {
        hash_number(hash, n);
        sha256_add(hash, bytes, n);
    }
    free(bytes);
    free(path);
    return st;
}

static status open_all(checkpoint *c, const char *index_path, json_t *map) {
    sha256 hash;
    sha256_begin(&hash);
    TRY(hash_config(c, &hash));
    if (map) TRY(add_indexed_files(c, index_path, map));
    else add_file(c, "model.safetensors");
    for (uint32_t i = 0; i < c->file_count; i++) TRY(open_file(c, i, &hash));
    TRY(sort_tensors(c));
    if (map) TRY(check_index(c, index_path, map));
    sha256_end(&hash, c->hash);
    return ST_OK;
}

static status open_directory(checkpoint *c, const char *directory) {
    status st = ST_OK;
    json_t *index = NULL;
    char *single = file_join(directory, "model.safetensors");
    char *index_path = file_join(directory, "model.safetensors.index.json");
    bool has_single = access(single, F_OK) == 0, has_index = access(index_path, F_OK) == 0;
    if (!has_single && !has_index) {
        st = fail(ST_NOT_FOUND, "%s has neither model.safetensors nor model.safetensors.index.json",
                  directory);
        goto fail;
    }
    /* The published code prefers the single file where both lie. */
    if (has_single && has_index)
        log_warn("%s: model.safetensors is read, the index beside it is not", directory);
    if (!has_single) TRY_OR_FAIL(json_read_file(index_path, INDEX_BYTES_MAX, &index));
    json_t *map = json_object_get(index, "weight_map");
    if (index && !json_is_object(map)) {
        st = fail(ST_FORMAT, "%s: weight_map is missing or not an object", index_path);
        goto fail;
    }
    TRY_OR_FAIL(open_all(c, index_path, map));
fail:
    json_decref(index);
    free(index_path);
    free(single);
    return st;
}

status checkpoint_open(checkpoint **out, const char *path) {
    *out = NULL;
    checkpoint *c = memory_alloc(sizeof *c);
    INVARIANT(pthread_mutex_init(&c->map_lock, NULL) == 0);
    c->directory = memory_copy_string(path);
    bool single = gguf_is_path(path);
    status st = single ? checkpoint_open_gguf(c, path) : open_directory(c, path);
    if (st == ST_OK && single) st = sort_tensors(c);
    if (st == ST_OK) *out = c;
    else checkpoint_close(c);
    return st;
}

void checkpoint_close(checkpoint *c) {
    if (!c) return;
    for (uint32_t i = 0; i < c->tensor_count; i++) free((char *)c->tensors[i].name);
    for (uint32_t i = 0; i < c->file_count; i++) {
        checkpoint_file *f = &c->files[i];
        if (f->mapping) munmap(f->mapping, f->bytes);
        if (f->fd >= 0) close(f->fd);
        free(f->path);
        free(f->name);
    }
    pthread_mutex_destroy(&c->map_lock);
    free(c->tensors);
    free(c->files);
    free(c->directory);
    free(c);
}

uint32_t checkpoint_tensor_count(const checkpoint *c) { return c->tensor_count; }

const tensor *checkpoint_tensor(const checkpoint *c, uint32_t index) {
    INVARIANT(index < c->tensor_count);
    return &c->tensors[index];
}

const char *checkpoint_file_name(const checkpoint *c, uint32_t file) {
    INVARIANT(file < c->file_count);
    return c->files[file].name;
}

void checkpoint_hash(const checkpoint *c, uint8_t digest[32]) { memcpy(digest, c->hash, sizeof c->hash); }
