/* Reading JSON objects with errors that name the key, the value and the bound. Built on jansson, which holds int64 and
 * double only: what must keep its spelling does not go through here.
 *
 * `where` in every call is the file or object for the message ("config.json: text_config").
 * Errors: ST_FORMAT; the out parameter is then unchanged. A key that is absent or null leaves *out as it was and returns
 *         ST_OK for the _optional calls, ST_FORMAT for the others. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

/* The root must be an object; duplicate keys are refused. Release with json_decref. */
STATUS_CHECKED status json_read_bytes(const char *bytes, size_t n, const char *where, json_t **out);
STATUS_CHECKED status json_read_file(const char *path, size_t max_bytes, json_t **out);

STATUS_CHECKED status json_read_u32(json_t *object, const char *where, const char *key, uint32_t least, uint32_t most,
                                    uint32_t *out);
STATUS_CHECKED status json_read_u32_optional(json_t *object, const char *where, const char *key, uint32_t least,
                                             uint32_t most, uint32_t *out);
STATUS_CHECKED status json_read_double_optional(json_t *object, const char *where, const char *key, double least,
                                                double most, double *out);
STATUS_CHECKED status json_read_bool_optional(json_t *object, const char *where, const char *key, bool *out);
/* *out points into the object. */
STATUS_CHECKED status json_read_string_optional(json_t *object, const char *where, const char *key, const char **out);

#endif
