/* The safetensors format: 8 bytes of little-endian length, a JSON object of that length, then the tensors'
 * bytes, which the object's data_offsets count from the end of the object and which leave no hole. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "shard/loader/checkpoint.h"
#include "shard/loader/checkpoint_parts.h"

enum {
    DIMS_MAX = 8,
    NAME_BYTES_MAX = 256, /* so that every message can name its tensor whole */
};

/* Every dtype of the format; those below a byte count bits. */
static const struct {
    const char *name;
    uint32_t bits;
    tensor_type type;
} dtypes[] = {
    {"BF16", 16, TENSOR_BF16},    {"F32", 32, TENSOR_F32},      {"F16", 16, TENSOR_F16},
    {"F64", 64, TENSOR_OTHER},    {"I64", 64, TENSOR_OTHER},    {"I32", 32, TENSOR_OTHER},
    {"I16", 16, TENSOR_OTHER},    {"I8", 8, TENSOR_OTHER},      {"U64", 64, TENSOR_OTHER},
    {"U32", 32, TENSOR_OTHER},    {"U16", 16, TENSOR_OTHER},    {"U8", 8, TENSOR_OTHER},
    {"BOOL", 8, TENSOR_OTHER},    {"F8_E4M3", 8, TENSOR_OTHER}, {"F8_E5M2", 8, TENSOR_OTHER},
    {"F8_E8M0", 8, TENSOR_OTHER}, {"C64", 64, TENSOR_OTHER},    {"F6_E2M3", 6, TENSOR_OTHER},
    {"F6_E3M2", 6, TENSOR_OTHER}, {"F4", 4, TENSOR_OTHER},
};

/* Where a message comes from. */
typedef struct place {
    const char *file, *tensor;
} place;

static status read_dtype(place at, json_t *entry, tensor *t, uint32_t *bits) {
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (!name) return fail(ST_FORMAT, "%s: tensor %s: dtype is missing or not a string", at.file, at.tensor);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(name, dtypes[i].name)) continue;
        t->dtype = dtypes[i].name;
        t->type = dtypes[i].type;
        *bits = dtypes[i].bits;
        return ST_OK;
    }
    return fail(ST_FORMAT, "%s: tensor %s: dtype %.32s is unknown", at.file, at.tensor, name);
}

static status read_shape(place at, json_t *entry, tensor *t, uint64_t *elements) {
    json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return fail(ST_FORMAT, "%s: tensor %s: shape is missing or not a list", at.file, at.tensor);
    size_t dims = json_array_size(shape);
    if (dims > DIMS_MAX)
        return fail(ST_FORMAT, "%s: tensor %s has %zu dimensions, at most %d are allowed", at.file, at.tensor,
                    dims, DIMS_MAX);
    t->dims = (uint32_t)dims;
    if (dims > 4) t->type = TENSOR_OTHER;
    *elements = 1;
    for (uint32_t i = 0; i < t->dims; i++) {
        json_t *value = json_array_get(shape, i);
        json_int_t n = json_integer_value(value);
        if (!json_is_integer(value) || n < 0)
            return fail(ST_FORMAT, "%s: tensor %s: shape[%u] is not a count", at.file, at.tensor, i);
        /* Below this the bits still fit 64, and no file holds more. */
        if (n > 0 && *elements > ((uint64_t)1 << 57) / (uint64_t)n)
            return fail(ST_FORMAT, "%s: tensor %s: the product of its shape is above 2^57", at.file,
                        at.tensor);
        *elements *= (uint64_t)n;
        if (i < 4) t->shape[i] = (uint64_t)n;
    }
    return ST_OK;
}

static status read_offsets(place at, json_t *entry, uint64_t data_bytes, tensor *t) {
    json_t *offsets = json_object_get(entry, "data_offsets");
    json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return fail(ST_FORMAT, "%s: tensor %s: data_offsets is not a list of two integers", at.file,
                    at.tensor);
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin)
        return fail(ST_FORMAT, "%s: tensor %s: data_offsets are %lld and %lld, which is no range", at.file,
                    at.tensor, (long long)begin, (long long)end);
    if ((uint64_t)end > data_bytes)
        return fail(ST_FORMAT, "%s: tensor %s ends at byte %lld of the data, the file has %llu (truncated?)",
                    at.file, at.tensor, (long long)end, (unsigned long long)data_bytes);
    t->offset = (uint64_t)begin;
    t->bytes = (uint64_t)(end - begin);
    return ST_OK;
}

static status read_tensor(place at, json_t *entry, uint64_t data_bytes, tensor *t) {
    size_t n = strlen(at.tensor);
    if (n > NAME_BYTES_MAX)
        return fail(ST_FORMAT, "%s: the name of a tensor has %zu bytes, at most %d are allowed", at.file, n,
                    NAME_BYTES_MAX);
    if (!json_is_object(entry)) return fail(ST_FORMAT, "%s: tensor %s is not an object", at.file, at.tensor);
    uint32_t bits = 0;
    uint64_t elements = 0;
    t->name = at.tensor;
    TRY(read_dtype(at, entry, t, &bits));
    TRY(read_shape(at, entry, t, &elements));
    TRY(read_offsets(at, entry, data_bytes, t));
    /* Shape times size, in bits so that the dtypes below a byte count too. */
    if (t->bytes > UINT64_MAX / 8 || elements * bits != t->bytes * 8)
        return fail(ST_FORMAT, "%s: tensor %s has %llu bytes, but %llu elements of %s", at.file, at.tensor,
                    (unsigned long long)t->bytes, (unsigned long long)elements, t->dtype);
    return ST_OK;
}

static status check_metadata(const char *file, json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return fail(ST_FORMAT, "%s: __metadata__ is not an object", file);
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return fail(ST_FORMAT, "%s: __metadata__: %.64s is not a string", file, key);
    }
    return ST_OK;
}

/* Empty tensors come before the one that begins where they lie. */
static int by_offset(const void *a, const void *b) {
    const tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The format allows neither overlaps nor holes: bytes that belong to nothing could be anything. */
static status check_cover(const char *file, const tensor *tensors, size_t n, uint64_t data_bytes) {
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        if (tensors[i].offset < end)
            return fail(ST_FORMAT,
                        "%s: tensor %s begins at byte %llu of the data and overlaps tensor %s, which "
                        "ends at %llu",
                        file, tensors[i].name, (unsigned long long)tensors[i].offset, tensors[i - 1].name,
                        (unsigned long long)end);
        if (tensors[i].offset > end)
            return fail(ST_FORMAT, "%s: no tensor holds bytes %llu to %llu of the data, before tensor %s",
                        file, (unsigned long long)end, (unsigned long long)tensors[i].offset,
                        tensors[i].name);
        end += tensors[i].bytes;
    }
    if (end != data_bytes)
        return fail(ST_FORMAT, "%s: the tensors end at byte %llu of the data, the file has %llu", file,
                    (unsigned long long)end, (unsigned long long)data_bytes);
    return ST_OK;
}

static status read_tensors(json_t *root, const char *file, uint64_t data_bytes, tensor *tensors,
                           size_t *count) {
    const char *name;
    json_t *entry;
    size_t n = 0;
    json_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            TRY(check_metadata(file, entry));
            continue;
        }
        TRY(read_tensor((place){file, name}, entry, data_bytes, &tensors[n]));
        n++;
    }
    qsort(tensors, n, sizeof *tensors, by_offset);
    *count = n;
    return check_cover(file, tensors, n, data_bytes);
}

status safetensors_parse_header(const char *header, uint64_t header_bytes, uint64_t file_bytes,
                                const char *file_name, status (*add)(void *context, const tensor *t),
                                void *context) {
    if (header_bytes > SAFETENSORS_HEADER_MAX || file_bytes < 8 || header_bytes > file_bytes - 8)
        return fail(ST_FORMAT, "%s: the header has %llu bytes, allowed are at most %d and the file's %llu",
                    file_name, (unsigned long long)header_bytes, SAFETENSORS_HEADER_MAX,
                    (unsigned long long)file_bytes);
    if (header_bytes == 0 || header[0] != '{')
        return fail(ST_FORMAT, "%s: the header does not begin with {", file_name);
    json_t *root = NULL;
    TRY(json_read_bytes(header, header_bytes, file_name, &root));
    status st = ST_OK;
    size_t count = 0;
    uint64_t data_begin = 8 + header_bytes;
    tensor *tensors = memory_alloc_array(json_object_size(root), sizeof *tensors);
    TRY_OR_FAIL(read_tensors(root, file_name, file_bytes - data_begin, tensors, &count));
    for (size_t i = 0; i < count; i++) {
        tensors[i].offset += data_begin;
        TRY_OR_FAIL(add(context, &tensors[i]));
    }
fail:
    free(tensors);
    json_decref(root);
    return st;
}
