/* Writing JSON to a strbuf: what `--json` prints. jansson is not used for this because it holds int64 only, and seeds are
 * uint64.
 *
 *     json_writer w = {0};
 *     json_begin(&w, '{'); json_key(&w, "n"); json_u64(&w, 5); json_end(&w, '}');
 *
 * Memory:  w.out is the caller's to strbuf_close.
 * Threads: a writer belongs to one. */
#ifndef CTL_JSON_WRITE_H
#define CTL_JSON_WRITE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/strbuf.h"

typedef struct json_writer {
    strbuf out;
    bool comma; /* before the next value or key */
} json_writer;

void json_begin(json_writer *w, char bracket); /* '{' or '[' */
void json_end(json_writer *w, char bracket);
void json_key(json_writer *w, const char *key);
void json_text(json_writer *w, const void *utf8, size_t n); /* bytes that are not UTF-8 become U+FFFD */
void json_string(json_writer *w, const char *text);
void json_u64(json_writer *w, uint64_t value);
void json_i64(json_writer *w, int64_t value);
void json_float(json_writer *w, float value); /* shortest text that reads back the same; null for NaN and infinities */
void json_double(json_writer *w, double value);
void json_bool(json_writer *w, bool value);
void json_null(json_writer *w);
void json_u32_array(json_writer *w, const uint32_t *values, size_t n);

/* A message as an object with the field names of the proto file: absent fields are null, repeated ones lists, and of a
 * oneof only the one that is set is written. Fields of bytes are texts (proto/text_as_bytes.cmake). */
void json_message(json_writer *w, const ProtobufCMessage *message);

#endif
