/* Why an engine ended, in words: from its log, its exit status, and what it said itself.
 * Threads: any. */
#ifndef DAEMON_ENGINE_FAILURE_H
#define DAEMON_ENGINE_FAILURE_H

#include <stddef.h>

/* Copies text for a place that takes UTF-8 only: control characters and bytes that are none become '?', and
 * what does not fit is cut between characters, with "…". */
void failure_clean_text(char *out, size_t size, const char *text);

/* The messages of the last error lines (base/log.h) of text[n], at most three different ones, oldest first,
 * joined with "; ". Without an error line the last line that is not empty; "" for no text. */
void failure_last_errors(const char *text, size_t n, char *out, size_t size);
/* The same of the end of a log file; "" when it cannot be read. */
void failure_from_log(const char *path, char *out, size_t size);

/* "ended by itself", "exit status 86: its watchdog ended it", "killed by signal 9 (Killed)", … */
void failure_describe_exit(long long code, int signal_number, char *out, size_t size);

#endif
