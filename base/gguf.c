#include "base/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/sha256.h"

/* Far above what any writer makes, and low enough that the tables of a header stay small. */
enum {
    VALUES_MAX = 1 << 16,
    TENSORS_MAX = 1 << 20,
    NAME_BYTES_MAX = 256, /* so that every message can name its key or tensor whole */
    DIMS_MAX = 4,
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MAX = 1 << 20,
    FIXED_BYTES = 24, /* magic, version, two counts */
    VALUE_BYTES_MIN = 8 + 1 + 4 + 1,
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8,
};

static const uint32_t type_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

static const gguf_format formats[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
};

static const gguf_format *format_of(uint32_t number) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].number == number) return &formats[i];
    return NULL;
}

/* ---- bytes ---- */

typedef struct cursor {
    const char *name;
    const uint8_t *bytes;
    uint64_t at, size;
} cursor;

static uint64_t load(const uint8_t *p, uint32_t n) {
    uint64_t x = 0;
    for (uint32_t i = 0; i < n; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static status ends(const cursor *c, const char *what) {
    return fail(ST_FORMAT, "%s ends at byte %llu, inside %s (truncated?)", c->name,
                (unsigned long long)c->size, what);
}

static status take(cursor *c, const char *what, uint32_t n, uint64_t *out) {
    if (c->size - c->at < n) return ends(c, what);
    *out = load(c->bytes + c->at, n);
    c->at += n;
    return ST_OK;
}

static status take_u32(cursor *c, const char *what, uint32_t *out) {
    uint64_t x = 0;
    TRY(take(c, what, 4, &x));
    *out = (uint32_t)x;
    return ST_OK;
}

/* A key or a tensor's name: *out is a copy with a NUL. */
static status take_name(cursor *c, const char *what, const char **out) {
    uint64_t n = 0;
    TRY(take(c, what, 8, &n));
    if (n == 0 || n > NAME_BYTES_MAX)
        return fail(ST_FORMAT, "%s: %s has %llu bytes, allowed are 1 to %d", c->name, what,
                    (unsigned long long)n, NAME_BYTES_MAX);
    if (n > c->size - c->at) return ends(c, what);
    const uint8_t *p = c->bytes + c->at;
    for (uint64_t i = 0; i < n; i++)
        if (p[i] < ' ' || p[i] > '~')
            return fail(ST_FORMAT, "%s: %s has byte %u, which is not printable ASCII", c->name, what, p[i]);
    char *copy = memory_alloc(n + 1);
    memcpy(copy, p, n);
    c->at += n;
    *out = copy;
    return ST_OK;
}

/* ---- metadata ---- */

static status take_texts(cursor *c, const char *key, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (c->size - c->at < 8) return ends(c, key);
        uint64_t n = load(c->bytes + c->at, 8);
        if (n > c->size - c->at - 8)
            return fail(ST_FORMAT, "%s: %s: text %llu has %llu bytes, %llu are left of the file", c->name,
                        key, (unsigned long long)i, (unsigned long long)n,
                        (unsigned long long)(c->size - c->at - 8));
        c->at += 8 + n;
    }
    return ST_OK;
}

static status take_items(cursor *c, gguf_value *v) {
    uint64_t left = c->size - c->at;
    if (v->type == GGUF_TEXT) {
        /* A text has 8 bytes at least: a count that cannot be is refused before it is walked. */
        if (v->count > left / 8) return ends(c, v->key);
        TRY(take_texts(c, v->key, v->count));
    } else {
        if (v->count > left / type_bytes[v->type]) return ends(c, v->key);
        c->at += v->count * type_bytes[v->type];
    }
    v->bytes = c->at - (uint64_t)(v->at - c->bytes);
    for (uint64_t i = 0; v->type == GGUF_BOOL && i < v->count; i++)
        if (v->at[i] > 1)
            return fail(ST_FORMAT, "%s: %s: a truth value is %u, allowed are 0 and 1", c->name, v->key,
                        v->at[i]);
    return ST_OK;
}

static status take_type(cursor *c, const char *key, uint32_t *type) {
    TRY(take_u32(c, key, type));
    if (*type < GGUF_TYPES) return ST_OK;
    return fail(ST_FORMAT, "%s: %s has type %u, known are 0 to %d", c->name, key, *type, GGUF_TYPES - 1);
}

static status take_value(cursor *c, gguf_value *v) {
    uint32_t type = 0;
    TRY(take_name(c, "a metadata key", &v->key));
    TRY(take_type(c, v->key, &type));
    v->count = 1;
    if (type == GGUF_ARRAY) {
        v->array = true;
        TRY(take_type(c, v->key, &type));
        if (type == GGUF_ARRAY)
            return fail(ST_UNSUPPORTED, "%s: %s is an array of arrays, which is not supported", c->name,
                        v->key);
        TRY(take(c, v->key, 8, &v->count));
    }
    v->type = (gguf_type)type;
    v->at = c->bytes + c->at;
    return take_items(c, v);
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const gguf_value *)a)->key, ((const gguf_value *)b)->key);
}

static status take_values(cursor *c, gguf *g, uint64_t count) {
    if (count > VALUES_MAX || count > (c->size - c->at) / VALUE_BYTES_MIN)
        return fail(ST_FORMAT,
                    "%s: %llu metadata keys, at most %d are allowed, and what the file's %llu bytes hold",
                    c->name, (unsigned long long)count, VALUES_MAX, (unsigned long long)c->size);
    g->values = memory_alloc_array(count, sizeof *g->values);
    for (g->value_count = 0; g->value_count < count;) TRY(take_value(c, &g->values[g->value_count++]));
    qsort(g->values, g->value_count, sizeof *g->values, by_key);
    for (uint32_t i = 1; i < g->value_count; i++)
        if (!strcmp(g->values[i].key, g->values[i - 1].key))
            return fail(ST_FORMAT, "%s: %s is there twice", c->name, g->values[i].key);
    return ST_OK;
}

/* ---- tensors ---- */

static status take_shape(cursor *c, gguf_tensor *t) {
    uint64_t elements = 1;
    TRY(take_u32(c, t->name, &t->dims));
    if (t->dims < 1 || t->dims > DIMS_MAX)
        return fail(ST_FORMAT, "%s: tensor %s has %u dimensions, allowed are 1 to %d", c->name, t->name,
                    t->dims, DIMS_MAX);
    for (uint32_t i = 0; i < t->dims; i++) {
        TRY(take(c, t->name, 8, &t->shape[i]));
        if (t->shape[i] == 0) return fail(ST_FORMAT, "%s: tensor %s: dimension %u is 0", c->name, t->name, i);
        /* Below this the bytes still fit 64 bits, and no file holds more. */
        if (elements > ((uint64_t)1 << 57) / t->shape[i])
            return fail(ST_FORMAT, "%s: tensor %s: the product of its dimensions is above 2^57", c->name,
                        t->name);
        elements *= t->shape[i];
    }
    uint32_t number = 0;
    TRY(take_u32(c, t->name, &number));
    t->format = format_of(number);
    if (!t->format)
        return fail(ST_UNSUPPORTED, "%s: tensor %s has type %u, which is not known", c->name, t->name,
                    number);
    if (t->shape[0] % t->format->block_elements != 0)
        return fail(ST_FORMAT,
                    "%s: tensor %s: rows of %llu elements are no whole blocks of %s, which have %u", c->name,
                    t->name, (unsigned long long)t->shape[0], t->format->name, t->format->block_elements);
    t->bytes = elements / t->format->block_elements * t->format->block_bytes;
    return ST_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const gguf_tensor *)a)->name, ((const gguf_tensor *)b)->name);
}

static int by_offset(const void *a, const void *b) {
    const gguf_tensor *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static status read_alignment(const gguf *g, uint32_t *out) {
    *out = ALIGNMENT_DEFAULT;
    TRY(gguf_read_u32_optional(g, "general.alignment", 1, ALIGNMENT_MAX, out));
    if ((*out & (*out - 1)) == 0) return ST_OK;
    return fail(ST_FORMAT, "%s: general.alignment is %u, which is no power of two", g->name, *out);
}

/* Offsets count from the end of the header, rounded up. Between tensors lies padding, and nothing over
 * another. */
static status place_tensors(const cursor *c, gguf *g) {
    uint32_t alignment = 0;
    TRY(read_alignment(g, &alignment));
    uint64_t begin = (c->at + alignment - 1) / alignment * alignment;
    for (uint32_t i = 0; i < g->tensor_count; i++) {
        gguf_tensor *t = &g->tensors[i];
        if (t->offset % alignment != 0)
            return fail(ST_FORMAT,
                        "%s: tensor %s begins at byte %llu of the data, which is no multiple of %u", c->name,
                        t->name, (unsigned long long)t->offset, alignment);
        uint64_t room = begin > c->size ? 0 : c->size - begin;
        if (t->bytes > room || t->offset > room - t->bytes)
            return fail(
                ST_FORMAT,
                "%s: tensor %s has %llu bytes from byte %llu of the data, the file has %llu (truncated?)",
                c->name, t->name, (unsigned long long)t->bytes, (unsigned long long)t->offset,
                (unsigned long long)room);
        t->offset += begin;
    }
    if (g->tensor_count > 0) qsort(g->tensors, g->tensor_count, sizeof *g->tensors, by_offset);
    for (uint32_t i = 1; i < g->tensor_count; i++) {
        const gguf_tensor *a = &g->tensors[i - 1], *b = &g->tensors[i];
        if (b->offset < a->offset + a->bytes)
            return fail(ST_FORMAT,
                        "%s: tensor %s begins at byte %llu and overlaps tensor %s, which ends at %llu",
                        c->name, b->name, (unsigned long long)b->offset, a->name,
                        (unsigned long long)(a->offset + a->bytes));
    }
    return ST_OK;
}

static status take_tensors(cursor *c, gguf *g, uint64_t count) {
    if (count > TENSORS_MAX || count > (c->size - c->at) / TENSOR_BYTES_MIN)
        return fail(ST_FORMAT,
                    "%s: %llu tensors, at most %d are allowed, and what the file's %llu bytes hold", c->name,
                    (unsigned long long)count, TENSORS_MAX, (unsigned long long)c->size);
    g->tensors = memory_alloc_array(count, sizeof *g->tensors);
    for (g->tensor_count = 0; g->tensor_count < count;) {
        gguf_tensor *t = &g->tensors[g->tensor_count++];
        TRY(take_name(c, "a tensor's name", &t->name));
        TRY(take_shape(c, t));
        TRY(take(c, t->name, 8, &t->offset));
    }
    TRY(place_tensors(c, g));
    if (g->tensor_count > 0) qsort(g->tensors, g->tensor_count, sizeof *g->tensors, by_name);
    for (uint32_t i = 1; i < g->tensor_count; i++)
        if (!strcmp(g->tensors[i].name, g->tensors[i - 1].name))
            return fail(ST_FORMAT, "%s: tensor %s is there twice", c->name, g->tensors[i].name);
    return ST_OK;
}

/* ---- the file ---- */

static status read_all(cursor *c, gguf *g) {
    uint64_t tensors = 0, values = 0;
    if (c->size < 4 || memcmp(c->bytes, "GGUF", 4) != 0)
        return fail(ST_FORMAT, "%s is not a GGUF file: it does not begin with \"GGUF\"", c->name);
    if (c->size < FIXED_BYTES) return ends(c, "its first 24 bytes");
    c->at = 4;
    TRY(take_u32(c, "version", &g->version));
    if (g->version != 2 && g->version != 3)
        return fail(ST_UNSUPPORTED, "%s has GGUF version %u%s; 2 and 3 are supported", c->name, g->version,
                    g->version && g->version % (1 << 24) == 0 ? " (a big-endian file)" : "");
    TRY(take(c, "the number of tensors", 8, &tensors));
    TRY(take(c, "the number of keys", 8, &values));
    TRY(take_values(c, g, values));
    TRY(take_tensors(c, g, tensors));
    g->header_bytes = c->at;
    return ST_OK;
}

status gguf_parse(gguf **out, const uint8_t *bytes, uint64_t n, const char *name) {
    gguf *g = memory_alloc(sizeof *g);
    g->name = memory_copy_string(name);
    g->bytes = bytes;
    g->file_bytes = n;
    cursor c = {.name = g->name, .bytes = bytes, .size = n};
    status st = read_all(&c, g);
    if (st == ST_OK) *out = g;
    else gguf_close(g);
    return st;
}

bool gguf_is_path(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

char *gguf_metadata_path(const char *directory) {
    char *path = file_join(directory, GGUF_METADATA_NAME);
    if (gguf_is_path(path)) return path;
    free(path);
    return NULL;
}

status gguf_open(gguf **out, const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", path);
    struct stat info;
    status st = ST_OK;
    void *map = MAP_FAILED;
    if (fstat(fd, &info) != 0) st = fail_errno(ST_IO, "%s", path);
    else if (!S_ISREG(info.st_mode)) st = fail(ST_FORMAT, "%s is not a regular file", path);
    else if (info.st_size == 0) st = fail(ST_FORMAT, "%s is not a GGUF file: it is empty", path);
    if (st == ST_OK) {
        map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED)
            st = fail_errno(ST_NO_MEMORY, "%s: cannot map %lld bytes", path, (long long)info.st_size);
    }
    close(fd);
    TRY(st);
    st = gguf_parse(out, map, (uint64_t)info.st_size, path);
    if (st == ST_OK) (*out)->mapped = true;
    else munmap(map, (size_t)info.st_size);
    return st;
}

void gguf_close(gguf *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->value_count; i++) free((char *)g->values[i].key);
    for (uint32_t i = 0; i < g->tensor_count; i++) free((char *)g->tensors[i].name);
    if (g->mapped) munmap((void *)g->bytes, g->file_bytes);
    free(g->values);
    free(g->tensors);
    free(g->name);
    free(g);
}

void gguf_hash(const gguf *g, uint8_t digest[32]) {
    uint8_t size[8];
    for (int i = 0; i < 8; i++) size[i] = (uint8_t)(g->file_bytes >> (8 * i));
    sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, size, sizeof size);
    sha256_add(&hash, g->bytes, g->header_bytes);
    sha256_end(&hash, digest);
}

const gguf_value *gguf_find(const gguf *g, const char *key) {
    gguf_value want = {.key = key};
    return g->value_count ? bsearch(&want, g->values, g->value_count, sizeof want, by_key) : NULL;
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name) {
    gguf_tensor want = {.name = name};
    return g->tensor_count ? bsearch(&want, g->tensors, g->tensor_count, sizeof want, by_name) : NULL;
}
