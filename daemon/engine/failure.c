#include "daemon/engine/failure.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "base/utf8.h"

enum { LOG_TAIL_BYTES = 64 << 10, ERRORS_MAX = 3 };

/* Bytes of the UTF-8 character at p, a NUL-terminated text; 0 when there is none. */
static size_t character_bytes(const uint8_t *p) {
    size_t n = utf8_length(p[0]);
    for (size_t i = 1; i < n; i++)
        if (!utf8_continues(p, (unsigned)i, p[i])) return 0; /* also the NUL at the end */
    return n;
}

void failure_clean_text(char *out, size_t size, const char *text) {
    static const char cut[] = "…";
    const uint8_t *p = (const uint8_t *)text;
    INVARIANT(size > sizeof cut);
    size_t at = 0, safe = 0; /* safe: the longest beginning that leaves room for the cut mark */
    while (*p) {
        size_t n = character_bytes(p);
        bool plain = n > 1 || (n == 1 && *p >= 0x20 && *p != 0x7F);
        size_t take = plain ? n : 1;
        if (at + take + 1 > size) {
            at = safe;
            memcpy(out + at, cut, sizeof cut - 1);
            at += sizeof cut - 1;
            break;
        }
        if (plain) memcpy(out + at, p, take);
        else out[at] = '?';
        at += take;
        p += n ? n : 1;
        if (at + sizeof cut <= size) safe = at;
    }
    out[at] = 0;
}

/* "2026-01-31T12:00:00.123Z error component message" */
static bool is_log_line(const char *line) {
    return strlen(line) >= 31 && line[10] == 'T' && line[23] == 'Z';
}

/* The message of a log line of level error; NULL for any other line. */
static char *error_message(char *line) {
    if (!is_log_line(line) || strncmp(line + 24, " error ", 7) != 0) return NULL;
    char *space = strchr(line + 31, ' ');
    return space ? space + 1 : NULL;
}

/* The lines of a text from the last to the first; cuts it up. */
static char *last_line(char *text, size_t *n) {
    while (*n > 0 && (text[*n - 1] == '\n' || text[*n - 1] == '\r')) text[--*n] = 0;
    if (*n == 0) return NULL;
    while (*n > 0 && text[*n - 1] != '\n') --*n;
    return text + *n;
}

void failure_last_errors(const char *text, size_t n, char *out, size_t size) {
    char *copy = memory_alloc(n + 1), *found[ERRORS_MAX], *last = NULL;
    size_t count = 0, left = n;
    for (size_t i = 0; i < n; i++) copy[i] = text[i] ? text[i] : '?';
    for (char *line; count < ERRORS_MAX && (line = last_line(copy, &left));) {
        char *message = error_message(line);
        /* Without an error of ours, a library's last words may tell; our own notices do not. */
        if (!last && !is_log_line(line)) last = line;
        bool known = !message;
        for (size_t i = 0; !known && i < count; i++) known = !strcmp(found[i], message);
        if (!known) found[count++] = message;
    }
    strbuf joined = {0};
    while (count > 0) {
        if (joined.size) strbuf_add_string(&joined, "; ");
        strbuf_add_string(&joined, found[--count]);
    }
    if (!joined.size && last) strbuf_add_string(&joined, last);
    failure_clean_text(out, size, strbuf_text(&joined));
    strbuf_close(&joined);
    free(copy);
}

void failure_from_log(const char *path, char *out, size_t size) {
    out[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0) return;
    if (fstat(fd, &info) == 0) {
        char *tail = memory_alloc(LOG_TAIL_BYTES);
        off_t from = info.st_size > LOG_TAIL_BYTES ? info.st_size - LOG_TAIL_BYTES : 0;
        ssize_t n = pread(fd, tail, LOG_TAIL_BYTES, from);
        if (n > 0) failure_last_errors(tail, (size_t)n, out, size);
        free(tail);
    }
    close(fd);
}

void failure_describe_exit(long long code, int signal_number, char *out, size_t size) {
    /* Keeper and mpirun both report a signal as 128 + its number. */
    if (signal_number == 0 && code > 128 && code < 128 + 65) signal_number = (int)code - 128;
    if (signal_number)
        snprintf(out, size, "killed by signal %d (%s)", signal_number, strsignal(signal_number));
    else if (code == 0) snprintf(out, size, "it ended by itself");
    else if (code == 3) snprintf(out, size, "exit status 3: model or layout refused");
    else if (code == 86) snprintf(out, size, "exit status 86: its watchdog ended it");
    else if (code == 127) snprintf(out, size, "exit status 127: the launcher could not be run");
    else snprintf(out, size, "exit status %lld", code);
}
