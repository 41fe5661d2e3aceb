#include "daemon/api/descriptors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { NESTING_MAX = 32 };

typedef struct symbol {
    char *name;
    size_t file;
    bool is_service;
} symbol;

struct descriptors {
    descriptor_file *file; /* [file_count], names owned */
    size_t file_count;
    symbol *symbol; /* [symbol_count] */
    size_t symbol_count, symbol_capacity;
    symbol **service; /* [service_count] */
    size_t service_count;
};

/* ---- the wire ---- */

typedef struct reader {
    const uint8_t *at, *end;
    bool bad;
} reader;

typedef struct field {
    uint64_t number;
    const uint8_t *bytes; /* [size] of a length-delimited field, NULL of others */
    size_t size;
} field;

static uint64_t read_varint(reader *r) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        uint8_t byte = *r->at++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) return value;
    }
    r->bad = true;
    return 0;
}

/* false: the end, or bad bytes. */
static bool next_field(reader *r, field *f) {
    if (r->bad || r->at == r->end) return false;
    uint64_t tag = read_varint(r), n = 0;
    *f = (field){.number = tag >> 3};
    switch (tag & 7) {
    case 0: (void)read_varint(r); break;
    case 1: n = 8; break;
    case 2: n = read_varint(r); break;
    case 5: n = 4; break;
    default: r->bad = true;
    }
    if (r->bad || n > (size_t)(r->end - r->at)) {
        r->bad = true;
        return false;
    }
    if ((tag & 7) == 2) {
        f->bytes = r->at;
        f->size = (size_t)n;
    }
    r->at += n;
    return true;
}

/* The text of a field that stands once; "" when it does not stand. The caller's to free(). */
static char *read_text(const uint8_t *bytes, size_t n, uint64_t number) {
    reader r = {.at = bytes, .end = bytes + n};
    field f;
    while (next_field(&r, &f)) {
        if (f.number != number || !f.bytes) continue;
        char *text = memory_alloc(f.size + 1);
        memcpy(text, f.bytes, f.size);
        return text;
    }
    return memory_copy_string("");
}

/* ---- symbols ---- */

/* What descriptor.proto says of a message that has a name: where its named parts are. */
typedef struct shape {
    struct part { uint64_t number; const struct shape *shape; } part[6];
    bool is_service;
    bool names_beside; /* an enum's values are its siblings: the scoping rule of C++ */
} shape;

static const shape leaf = {.part = {{0}}};
static const shape enumeration = {.part = {{2, &leaf}}, .names_beside = true};
static const shape service = {.part = {{2, &leaf}}, .is_service = true};
static const shape message = {.part = {{2, &leaf}, {3, &message}, {4, &enumeration}, {6, &leaf}, {8, &leaf}}};
static const shape whole_file = {.part = {{4, &message}, {5, &enumeration}, {6, &service}, {7, &leaf}}};

static void add_symbol(descriptors *d, const char *name, size_t file, bool is_service) {
    if (d->symbol_count == d->symbol_capacity) {
        d->symbol_capacity = d->symbol_capacity ? d->symbol_capacity * 2 : 256;
        d->symbol = memory_grow(d->symbol, d->symbol_capacity * sizeof *d->symbol);
    }
    d->symbol[d->symbol_count++] = (symbol){memory_copy_string(name), file, is_service};
    d->service_count += is_service;
}

static char *join(const char *scope, const char *name) {
    size_t n = strlen(scope) + strlen(name) + 2;
    char *full = memory_alloc(n);
    snprintf(full, n, "%s%s%s", scope, scope[0] ? "." : "", name);
    return full;
}

static status add_parts(descriptors *d, const uint8_t *bytes, size_t n, const shape *of, const char *scope, size_t file,
                        int depth) {
    reader r = {.at = bytes, .end = bytes + n};
    field f;
    if (depth > NESTING_MAX) return fail(ST_FORMAT, "descriptors: nested more than %d deep", NESTING_MAX);
    while (next_field(&r, &f)) {
        const shape *part = NULL;
        for (size_t i = 0; i < sizeof of->part / sizeof *of->part; i++)
            if (of->part[i].shape && of->part[i].number == f.number) part = of->part[i].shape;
        if (!part || !f.bytes) continue;
        char *name = read_text(f.bytes, f.size, 1), *full = join(scope, name);
        add_symbol(d, full, file, part->is_service);
        status st = add_parts(d, f.bytes, f.size, part, part->names_beside ? scope : full, file, depth + 1);
        free(name);
        free(full);
        TRY(st);
    }
    return r.bad ? fail(ST_FORMAT, "descriptors: \"%s\" cannot be read", scope) : ST_OK;
}

static status add_file(descriptors *d, const uint8_t *bytes, size_t n) {
    size_t i = d->file_count++;
    d->file = memory_grow(d->file, d->file_count * sizeof *d->file);
    d->file[i] = (descriptor_file){.bytes = bytes, .size = n, .name = read_text(bytes, n, 1)};
    char *package = read_text(bytes, n, 2);
    status st = add_parts(d, bytes, n, &whole_file, package, i, 0);
    free(package);
    return st;
}

static void index_services(descriptors *d) {
    size_t n = 0;
    d->service = memory_alloc_array(d->service_count + 1, sizeof(symbol *));
    for (size_t i = 0; i < d->symbol_count; i++)
        if (d->symbol[i].is_service) d->service[n++] = &d->symbol[i];
}

status descriptors_open(descriptors **out, const uint8_t *bytes, size_t n) {
    descriptors *d = memory_alloc(sizeof *d);
    status st = ST_OK;
    reader r = {.at = bytes, .end = bytes + n};
    field f;
    while (st == ST_OK && next_field(&r, &f))
        if (f.number == 1 && f.bytes) st = add_file(d, f.bytes, f.size);
    if (st == ST_OK && r.bad) st = fail(ST_FORMAT, "descriptors: the set cannot be read");
    if (st != ST_OK) {
        descriptors_close(d);
        return st;
    }
    index_services(d);
    *out = d;
    return ST_OK;
}

void descriptors_close(descriptors *d) {
    if (!d) return;
    for (size_t i = 0; i < d->file_count; i++) free((char *)(uintptr_t)d->file[i].name);
    for (size_t i = 0; i < d->symbol_count; i++) free(d->symbol[i].name);
    free(d->file);
    free(d->symbol);
    free(d->service);
    free(d);
}

const descriptor_file *descriptors_find_file(const descriptors *d, const char *name) {
    for (size_t i = 0; i < d->file_count; i++)
        if (!strcmp(d->file[i].name, name)) return &d->file[i];
    return NULL;
}

const descriptor_file *descriptors_find_symbol(const descriptors *d, const char *name) {
    for (size_t i = 0; i < d->symbol_count; i++)
        if (!strcmp(d->symbol[i].name, name)) return &d->file[d->symbol[i].file];
    return NULL;
}

size_t descriptors_service_count(const descriptors *d) { return d->service_count; }
const char *descriptors_service(const descriptors *d, size_t i) { return d->service[i]->name; }
