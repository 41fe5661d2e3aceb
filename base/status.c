#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[STATUS_TEXT_MAX];

static void keep(const char *sentence, int length) {
    static const char cut[] = "…";
    size_t n = length < 0 ? 0 : (size_t)length;
    if (n >= sizeof text) {
        n = sizeof text - sizeof cut;
        /* Never cut inside a UTF-8 character: the sentence may end in a protobuf string. */
        while (n > 0 && ((unsigned char)sentence[n] & 0xC0) == 0x80) n--;
        memmove(text, sentence, n);
        memcpy(text + n, cut, sizeof cut);
    } else {
        memmove(text, sentence, n);
        text[n] = 0;
    }
}

status fail(status st, const char *format, ...) {
    char line[STATUS_TEXT_MAX * 2];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    keep(line, n < (int)sizeof line ? n : (int)sizeof line - 1);
    return st;
}

status fail_within(status st, const char *format, ...) {
    char line[STATUS_TEXT_MAX * 2], before[STATUS_TEXT_MAX];
    memcpy(before, text, sizeof before);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, STATUS_TEXT_MAX, format, args);
    va_end(args);
    if (n < 0) n = 0;
    if (n >= STATUS_TEXT_MAX) n = STATUS_TEXT_MAX - 1;
    int m = snprintf(line + n, sizeof line - (size_t)n, ": %s", before);
    keep(line, n + (m < 0 ? 0 : m));
    return st;
}

status fail_errno(status st, const char *format, ...) {
    int code = errno;
    char line[STATUS_TEXT_MAX * 2];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, STATUS_TEXT_MAX, format, args);
    va_end(args);
    if (n < 0) n = 0;
    if (n >= STATUS_TEXT_MAX) n = STATUS_TEXT_MAX - 1;
    int m = snprintf(line + n, sizeof line - (size_t)n, ": %s", strerror(code));
    keep(line, n + (m < 0 ? 0 : m));
    return st;
}

const char *status_text(void) { return text; }

const char *status_name(status st) {
    static const char *const names[ST_COUNT] = {
        "OK",       "INVALID", "NOT_FOUND", "FORMAT", "UNSUPPORTED", "LAYOUT",    "MISMATCH", "NO_MEMORY", "KV_FULL",
        "IO",       "IN_USE",  "BUSY",      "UNAVAILABLE", "CANCELLED", "TIMEOUT", "PEER",    "AUTH",      "INTERNAL",
        "EXISTS",   "DENIED",
    };
    return (unsigned)st < ST_COUNT ? names[st] : "UNKNOWN";
}
