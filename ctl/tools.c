#include "ctl/tools.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "ctl/json_slice.h"

static char *copy(const char *at, size_t n) {
    char *text = memory_alloc(n + 1);
    memcpy(text, at, n);
    return text;
}

/* tree and text are the same object, once read and once as it is spelled. */
static status read_tool(Gemmad__V1__Tool **out, const char *where, json_t *tree, json_slice text) {
    json_t *inner = json_object_get(tree, "function");
    const char *type = json_string_value(json_object_get(tree, "type"));
    if (type && strcmp(type, "function") != 0)
        return fail(ST_FORMAT, "%s: type is \"%.64s\", and only \"function\" is known", where, type);
    if (json_is_object(inner)) {
        tree = inner;
        (void)json_slice_member(text, "function", &text);
    }
    const char *name = json_string_value(json_object_get(tree, "name"));
    json_t *description = json_object_get(tree, "description"), *strict = json_object_get(tree, "strict");
    json_slice parameters = {"{}", 2};
    if (!name || !*name) return fail(ST_FORMAT, "%s has no \"name\"", where);
    if (description && !json_is_string(description) && !json_is_null(description))
        return fail(ST_FORMAT, "%s: \"description\" of %.64s is no text", where, name);
    if (strict && !json_is_boolean(strict) && !json_is_null(strict))
        return fail(ST_FORMAT, "%s: \"strict\" of %.64s is neither true nor false", where, name);
    bool given = json_slice_member(text, "parameters", &parameters);
    if (given && !json_is_object(json_object_get(tree, "parameters")))
        return fail(ST_FORMAT, "%s: \"parameters\" of %.64s is no object", where, name);
    Gemmad__V1__Tool *t = memory_alloc(sizeof *t);
    gemmad__v1__tool__init(t);
    t->name = memory_copy_string(name);
    if (json_is_string(description)) t->description = memory_copy_string(json_string_value(description));
    if (given) t->parameters_json = copy(parameters.at, parameters.n);
    t->has_strict = json_is_boolean(strict);
    t->strict = json_is_true(strict);
    *out = t;
    return ST_OK;
}

static status read_all(tools *out, const char *path, json_t *root, json_slice text) {
    size_t n = json_array_size(root);
    if (!json_is_array(root)) return fail(ST_FORMAT, "%s is no JSON array of tools", path);
    if (n > TOOLS_MAX) return fail(ST_FORMAT, "%s has %zu tools, at most %d", path, n, TOOLS_MAX);
    out->tool = memory_alloc_array(n ? n : 1, sizeof *out->tool);
    for (size_t i = 0; i < n; i++) {
        char where[512];
        json_slice one;
        snprintf(where, sizeof where, "%.400s: tool %zu", path, i + 1);
        if (!json_slice_element(text, i, &one) || !json_is_object(json_array_get(root, i)))
            return fail(ST_FORMAT, "%s is no object", where);
        TRY(read_tool(&out->tool[i], where, json_array_get(root, i), one));
        out->count++;
    }
    return ST_OK;
}

status tools_read(tools *out, const char *path) {
    char *bytes;
    size_t n;
    json_error_t error;
    *out = (tools){0};
    TRY(file_read_all(path, TOOLS_FILE_BYTES_MAX, &bytes, &n));
    json_t *root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &error);
    status st = root ? read_all(out, path, root, (json_slice){bytes, n})
                     : fail(ST_FORMAT, "%s: line %d: %s", path, error.line, error.text);
    json_decref(root);
    free(bytes);
    if (st != ST_OK) tools_close(out);
    return st;
}

void tools_close(tools *t) {
    for (size_t i = 0; i < t->count; i++) gemmad__v1__tool__free_unpacked(t->tool[i], NULL);
    free(t->tool);
    *t = (tools){0};
}
