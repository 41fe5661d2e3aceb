/* Writing JSON into a strbuf; commas come by themselves. key NULL: an element of an array.
 * Threads: any. */
#ifndef DAEMON_HTTP_JSON_OUT_H
#define DAEMON_HTTP_JSON_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/strbuf.h"

void out_key(strbuf *out, const char *key);
void out_object(strbuf *out, const char *key);
void out_array(strbuf *out, const char *key);
void out_end_object(strbuf *out);
void out_end_array(strbuf *out);
void out_text(strbuf *out, const char *key, const void *text,
              size_t bytes);                                     /* bytes that are no UTF-8 become U+FFFD */
void out_string(strbuf *out, const char *key, const char *text); /* NULL: null */
void out_number(strbuf *out, const char *key, uint64_t value);
/* A log-probability: as many digits as tell two floats apart; minus infinity, which JSON has not, is -9999. */
void out_float(strbuf *out, const char *key, float value);
void out_bool(strbuf *out, const char *key, bool value);
void out_null(strbuf *out, const char *key);
void out_raw(strbuf *out, const char *key, const char *json, size_t bytes); /* JSON already */

#endif
