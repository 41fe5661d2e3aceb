/* The texts of tool calls that could not be read, for the end of an answer. A model that runs wild writes thousands of them,
 * or one of a megabyte: then a text ends with how long it was, and a last one tells how many more there were.
 *
 * Memory:  a zeroed list is empty; chat_malformed_close releases.
 * Threads: one at a time. */
#ifndef DAEMON_TEXT_CHAT_MALFORMED_H
#define DAEMON_TEXT_CHAT_MALFORMED_H

#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

enum {
    CHAT_MALFORMED_MAX = 256,             /* texts of one answer */
    CHAT_MALFORMED_BYTES_MAX = 64 << 10,  /* of one text */
    CHAT_MALFORMED_TOTAL_MAX = 512 << 10, /* of all of them */
};

typedef struct chat_malformed {
    strbuf *text; /* [count] */
    uint32_t count;
    uint64_t more; /* not kept: the last text says so */
    size_t bytes;
} chat_malformed;

/* text[n] is UTF-8. */
void chat_malformed_add(chat_malformed *m, const char *text, size_t n);
void chat_malformed_close(chat_malformed *m);
/* Appends text[n], or its beginning and how long it was. */
void chat_malformed_clip(strbuf *out, const char *text, size_t n);

#endif
