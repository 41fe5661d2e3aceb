/* One status for the whole project, and the sentence that goes with a failure.
 *
 * A function that can fail returns `status`. Where it fails it calls `fail(ST_X, "what, value, bound")`, which keeps the
 * sentence for the thread; callers hand the status on unchanged, and whoever answers (a log line, a gRPC status, a
 * process exit) reads the sentence with status_text().
 *
 * Memory:  the sentence lives in thread-local storage, at most STATUS_TEXT_MAX bytes, longer ones are cut with "…".
 * Threads: any; a sentence is not seen by other threads, so work that crosses threads carries a copy. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

enum { STATUS_TEXT_MAX = 1024 };

typedef enum status {
    ST_OK = 0,
    ST_INVALID,     /* an argument or request field is wrong: the caller can mend it */
    ST_NOT_FOUND,   /* a file, model, tensor or id does not exist */
    ST_FORMAT,      /* bytes from outside do not follow their format */
    ST_UNSUPPORTED, /* well-formed, and this build does not do it */
    ST_LAYOUT,      /* this model cannot be split or held as asked */
    ST_MISMATCH,    /* two sides that must agree do not */
    ST_NO_MEMORY,   /* memory or a planned budget is used up */
    ST_KV_FULL,     /* no free KV page: retry after a release */
    ST_IO,          /* the operating system refused a file or socket operation */
    ST_IN_USE,      /* an address, lock or live socket is taken */
    ST_BUSY,        /* a queue is full: retry later */
    ST_UNAVAILABLE, /* starting, draining, or the engine is gone */
    ST_CANCELLED,   /* the client gave up */
    ST_TIMEOUT,     /* a deadline passed */
    ST_PEER,        /* another rank failed or left */
    ST_AUTH,        /* the other side did not prove who it is */
    ST_INTERNAL,    /* a bug or an impossible state, not the caller's doing */
    ST_EXISTS,      /* a name or id that must be new is taken by something alive */
    ST_DENIED,      /* the other side has proven who it is, and may not do this */
    ST_COUNT
} status;

#define STATUS_CHECKED __attribute__((warn_unused_result))

/* Keeps the sentence and returns st, so that `return fail(ST_INVALID, …)` is the whole error path. */
status fail(status st, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "prefix: " before the sentence already kept (context added on the way up) and returns st. */
status fail_within(status st, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* fail() with ": strerror(errno)" at the end; errno is read before anything else. */
status fail_errno(status st, const char *format, ...) __attribute__((format(printf, 2, 3)));

const char *status_text(void);      /* the last sentence of this thread; "" when there was none */
const char *status_name(status st); /* "INVALID", "KV_FULL", … */

#define TRY(expression)                                                                                      \
    do {                                                                                                     \
        status try_status_ = (expression);                                                                   \
        if (try_status_ != ST_OK) return try_status_;                                                        \
    } while (0)
/* As TRY, leaving through the function's one `fail:` label; needs a local `status st`. */
#define TRY_OR_FAIL(expression)                                                                              \
    do {                                                                                                     \
        st = (expression);                                                                                   \
        if (st != ST_OK) goto fail;                                                                          \
    } while (0)

#endif
