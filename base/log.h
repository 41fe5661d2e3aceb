/* Log lines on standard error: "2026-01-31T12:00:00.123Z info  shard[1] message". One write(2) a line, so lines of
 * several processes that share a file never interleave.
 *
 * Threads: any. log_open once, before other threads exist. Lines before it carry no component. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

typedef enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR } log_level;

/* component, e.g. "gemmad" or "shard[1]", is copied. */
void log_open(const char *component, log_level least);
void log_line(log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

#endif
