/* What a test logs, to look at. */
#ifndef TESTS_LOG_CAPTURE_H
#define TESTS_LOG_CAPTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int log_capture_stderr, log_capture_file;

/* Standard error goes into a file until … */
static inline void log_capture_begin(void) {
    char path[] = "/tmp/gemmad-test-log-XXXXXX";
    fflush(stderr);
    log_capture_file = mkstemp(path);
    unlink(path);
    log_capture_stderr = dup(STDERR_FILENO);
    dup2(log_capture_file, STDERR_FILENO);
}

/* … here, and what it has lands in said. */
static inline void log_capture_end(char *said, size_t size) {
    ssize_t n = pread(log_capture_file, said, size - 1, 0);
    said[n > 0 ? n : 0] = 0;
    dup2(log_capture_stderr, STDERR_FILENO);
    close(log_capture_stderr);
    close(log_capture_file);
}

#endif
