/* What gemmactl's commands share: the options that every command has, and how a command is described.
 *
 * Threads: main thread.
 * Errors:  a command returns a status and main() prints its sentence; the process ends 1, or 2 after ctl_usage. */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include "ctl/args.h"
#include "ctl/client.h"

typedef struct ctl {
    const char *server; /* --server, else GEMMACTL_SERVER, else the default socket */
    access_options access;
    bool json, verbose, help, version;
    bool default_server;
    bool server_given; /* by --server */
    bool usage;        /* the failure is one of the command line */
} ctl;

typedef struct command {
    const char *name, *words, *summary;
    const arg_option *option;
    size_t option_count, values_size;
    bool samples; /* its values begin with answer_options, and it has those options too */
    status (*run)(ctl *c, const void *values, const arg_words *words);
} command;

extern const command command_ask, command_generate, command_tokenize, command_detokenize, command_status,
    command_models, command_bench, command_eval, command_top, command_chat, command_drain, command_key,
    command_doctor, command_completion;

/* As fail(ST_INVALID, …); the process then ends 2. */
STATUS_CHECKED status ctl_usage(ctl *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* client_open; where nobody answers, the sentence says how to start a daemon. */
STATUS_CHECKED status ctl_connect(const ctl *c, client **out);
/* A whole file, or standard input for "-": at most LIMIT_PROMPT_BYTES, else ST_FORMAT. *out is the caller's to free(). */
STATUS_CHECKED status ctl_read_file(const char *path, char **out, size_t *n);
/* protobuf-c's strings are char * although it never writes to them. */
static inline char *ctl_model(const char *name) { return (char *)(uintptr_t)name; }

enum { CTL_CONNECT_MS = 5000, CTL_CALL_MS = 60000 };

#endif
