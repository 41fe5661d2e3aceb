/* Checkpoints made by a test: a folder of its own under /tmp, safetensors files from headers or from tensors,
 * and changed copies of golden ones.
 *
 * Memory:  names and data are the caller's.
 * Errors:  a folder that cannot be written ends the process. */
#ifndef TESTS_CHECKPOINT_WRITER_H
#define TESTS_CHECKPOINT_WRITER_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "shard/loader/checkpoint.h"

typedef struct writer_folder {
    char path[64];
} writer_folder;

static inline void writer_check_(int good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

static inline writer_folder writer_open(void) {
    writer_folder f = {"/tmp/gemmad-test-XXXXXX"};
    writer_check_(mkdtemp(f.path) != NULL, f.path);
    return f;
}

static inline void writer_file(const writer_folder *f, const char *name, const void *bytes, size_t n) {
    char *path = file_join(f->path, name);
    FILE *out = fopen(path, "wb");
    writer_check_(out != NULL && fwrite(bytes, 1, n, out) == n && fclose(out) == 0, path);
    free(path);
}

static inline void writer_text(const writer_folder *f, const char *name, const char *text) {
    writer_file(f, name, text, strlen(text));
}

/* The header as given, then data. */
static inline void writer_safetensors_raw(const writer_folder *f, const char *name, const char *header,
                                          const void *data, size_t n) {
    strbuf b = {0};
    uint64_t header_bytes = strlen(header);
    for (int i = 0; i < 8; i++) strbuf_add(&b, &(char){(char)(header_bytes >> (8 * i))}, 1);
    strbuf_add_string(&b, header);
    strbuf_add(&b, data, n);
    writer_file(f, name, b.data, b.size);
    strbuf_close(&b);
}

/* A tensor in memory: name, dtype, dims, shape and bytes count; offset does not. */
typedef struct written_tensor {
    tensor t;
    const void *data;
} written_tensor;

static inline void writer_safetensors(const writer_folder *f, const char *name, const written_tensor *tensors,
                                      size_t n) {
    strbuf header = {0}, data = {0};
    strbuf_add_string(&header, "{");
    for (size_t i = 0; i < n; i++) {
        const tensor *t = &tensors[i].t;
        strbuf_add_format(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, t->dtype);
        for (uint32_t d = 0; d < t->dims; d++)
            strbuf_add_format(&header, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
        strbuf_add_format(&header, "],\"data_offsets\":[%zu,%llu]}", data.size,
                          data.size + (unsigned long long)t->bytes);
        strbuf_add(&data, tensors[i].data, t->bytes);
    }
    strbuf_add_string(&header, "}");
    while (header.size % 8) strbuf_add_string(&header, " ");
    writer_safetensors_raw(f, name, header.data, data.data, data.size);
    strbuf_close(&header);
    strbuf_close(&data);
}

/* Removes the folder and the files in it. */
static inline void writer_close(const writer_folder *f) {
    DIR *d = opendir(f->path);
    writer_check_(d != NULL, f->path);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *path = file_join(f->path, e->d_name);
        writer_check_(unlink(path) == 0, path);
        free(path);
    }
    closedir(d);
    writer_check_(rmdir(f->path) == 0, f->path);
}

#endif
