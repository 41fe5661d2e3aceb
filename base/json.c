#include "base/json.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"

status json_read_bytes(const char *bytes, size_t n, const char *where, json_t **out) {
    json_error_t error;
    json_t *root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &error);
    if (!root) return fail(ST_FORMAT, "%s: line %d: %s", where, error.line, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return fail(ST_FORMAT, "%s: the root is not an object", where);
    }
    *out = root;
    return ST_OK;
}

status json_read_file(const char *path, size_t max_bytes, json_t **out) {
    char *bytes;
    size_t n;
    TRY(file_read_all(path, max_bytes, &bytes, &n));
    status st = json_read_bytes(bytes, n, path, out);
    free(bytes);
    return st;
}

static bool absent(json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return !value || json_is_null(value);
}

status json_read_u32_optional(json_t *object, const char *where, const char *key, uint32_t least, uint32_t most,
                              uint32_t *out) {
    if (absent(object, key)) return ST_OK;
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) return fail(ST_FORMAT, "%s: %s is not an integer", where, key);
    json_int_t n = json_integer_value(value);
    if (n < (json_int_t)least || n > (json_int_t)most)
        return fail(ST_FORMAT, "%s: %s is %lld, allowed are %u to %u", where, key, (long long)n, least, most);
    *out = (uint32_t)n;
    return ST_OK;
}

status json_read_u32(json_t *object, const char *where, const char *key, uint32_t least, uint32_t most, uint32_t *out) {
    if (absent(object, key)) return fail(ST_FORMAT, "%s: %s is missing", where, key);
    return json_read_u32_optional(object, where, key, least, most, out);
}

status json_read_double_optional(json_t *object, const char *where, const char *key, double least, double most,
                                 double *out) {
    if (absent(object, key)) return ST_OK;
    json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) return fail(ST_FORMAT, "%s: %s is not a number", where, key);
    double x = json_number_value(value);
    if (!(x >= least && x <= most))
        return fail(ST_FORMAT, "%s: %s is %g, allowed are %g to %g", where, key, x, least, most);
    *out = x;
    return ST_OK;
}

status json_read_bool_optional(json_t *object, const char *where, const char *key, bool *out) {
    if (absent(object, key)) return ST_OK;
    json_t *value = json_object_get(object, key);
    if (!json_is_boolean(value)) return fail(ST_FORMAT, "%s: %s is neither true nor false", where, key);
    *out = json_is_true(value);
    return ST_OK;
}

status json_read_string_optional(json_t *object, const char *where, const char *key, const char **out) {
    if (absent(object, key)) return ST_OK;
    json_t *value = json_object_get(object, key);
    if (!json_is_string(value)) return fail(ST_FORMAT, "%s: %s is not a string", where, key);
    *out = json_string_value(value);
    return ST_OK;
}
