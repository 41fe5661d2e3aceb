/* Log lines on standard error, as text, "2026-01-31T12:00:00.123Z info  shard[1] message", or as one JSON object each with
 * "time", "level", "component" and "message". One write(2) a line, so lines of several processes that share a file never
 * interleave.
 *
 * Threads: any. log_open and log_set_format once, before other threads exist. Lines before log_open carry no component. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stddef.h>
#include <stdint.h>

typedef enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR } log_level;
typedef enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON } log_format;

/* component, e.g. "gemmad" or "shard[1]", is copied. */
void log_open(const char *component, log_level least);
void log_set_format(log_format format); /* text unless set */
void log_line(log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What strangers can cause as often as they like: at most LOG_STRANGER_LINES a second are written, of all kinds together,
 * and then how many were not. */
enum { LOG_STRANGER_LINES = 5 };
void log_stranger(log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

/* A line with figures of its own: members of the JSON object, name=value in text. */
typedef struct log_field {
    const char *name;
    enum { LOG_FIELD_TEXT, LOG_FIELD_COUNT, LOG_FIELD_MS } kind;
    const char *text; /* NULL: the field is left out */
    size_t text_bytes;
    uint64_t count;
    double ms;
} log_field;

log_field log_field_text(const char *name, const char *text); /* to its NUL; NULL is fine */
static inline log_field log_field_bytes(const char *name, const char *text, size_t n) {
    return (log_field){.name = name, .kind = LOG_FIELD_TEXT, .text = text, .text_bytes = n};
}
static inline log_field log_field_count(const char *name, uint64_t count) {
    return (log_field){.name = name, .kind = LOG_FIELD_COUNT, .count = count};
}
static inline log_field log_field_ms(const char *name, double ms) {
    return (log_field){.name = name, .kind = LOG_FIELD_MS, .ms = ms};
}

/* Text that is no UTF-8 is shown with U+FFFD. A line that would pass LOG_LINE_BYTES loses fields from the end on, and
 * tells how many as "fields_dropped". */
enum { LOG_LINE_BYTES = 32 << 10 };
void log_event(log_level level, const char *message, const log_field *fields, size_t count);

#endif
