/* A growing byte string with a maximum, always NUL-terminated.
 *
 * Memory:  owns its bytes; strbuf_close releases them. A zeroed strbuf is empty and valid.
 * Errors:  growing past `max` (0: no bound but memory) marks the buffer `full` and drops the addition whole; check once
 *          at the end instead of at every addition. */
#ifndef BASE_STRBUF_H
#define BASE_STRBUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct strbuf {
    char *data; /* NULL while empty */
    size_t size, capacity, max;
    bool full;
} strbuf;

void strbuf_add(strbuf *b, const void *bytes, size_t n);
void strbuf_add_string(strbuf *b, const char *text);
void strbuf_add_format(strbuf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void strbuf_clear(strbuf *b); /* keeps the capacity */
void strbuf_close(strbuf *b);
const char *strbuf_text(const strbuf *b); /* "" while empty */
/* Drops n bytes from the front, or from the end. */
void strbuf_drop_front(strbuf *b, size_t n);
void strbuf_drop_back(strbuf *b, size_t n);

#endif
