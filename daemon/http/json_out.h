/* Writing JSON into a strbuf; commas come by themselves. key NULL: an element of an array.
 * Threads: any. */
#ifndef DAEMON_HTTP_JSON_OUT_H
#define DAEMON_HTTP_JSON_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/strbuf.h"

/* jansson, which lies in the same program, has functions of these names: gemmad --dry-run would call ours. */
#define json_object json_out_object
#define json_array json_out_array
#define json_string json_out_string
#define json_null json_out_null

void json_key(strbuf *out, const char *key);
void json_object(strbuf *out, const char *key);
void json_array(strbuf *out, const char *key);
void json_end_object(strbuf *out);
void json_end_array(strbuf *out);
void json_text(strbuf *out, const char *key, const void *text,
               size_t bytes);                                     /* bytes that are no UTF-8 become U+FFFD */
void json_string(strbuf *out, const char *key, const char *text); /* NULL: null */
void json_number(strbuf *out, const char *key, uint64_t value);
/* A log-probability: as many digits as tell two floats apart; minus infinity, which JSON has not, is -9999. */
void json_float(strbuf *out, const char *key, float value);
void json_bool(strbuf *out, const char *key, bool value);
void json_null(strbuf *out, const char *key);
void json_raw(strbuf *out, const char *key, const char *json, size_t bytes); /* JSON already */

#endif
