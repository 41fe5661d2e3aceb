/* What gemmad was asked to do: its option table, read from the command line, the environment and the config
 * file, and checked as far as that is possible without touching anything.
 *
 * Memory:  settings_close releases; strings point into argv, the environment or the config file, which it
 * owns. Threads: main thread. Errors:  ST_INVALID and ST_UNSUPPORTED with a sentence that names the option:
 * usage, exit 2. ST_NOT_FOUND, ST_IO and ST_FORMAT for the config file: usage as well. */
#ifndef DAEMON_SETTINGS_H
#define DAEMON_SETTINGS_H

#include "base/log.h"
#include "base/options.h"
#include "daemon/engine/engine.h"
#include "proto/limits.h"

/* The fields of the option table. */
typedef struct gemmad_options {
    option_texts model, listen;
    const char *hosts, *interface, *launcher, *launcher_args, *device, *weights, *kv, *expert_layout;
    const char *http, *keys, *socket_mode, *tls_cert, *tls_key, *tls_client_ca, *chat_template, *media_root, *spill;
    const char *completion, *state, *config, *shape, *log_level, *log_format;
    uint32_t ranks, replicas, threads, context, prefill_min_share, engine_grace, queue, queue_per_client;
    uint64_t memory;
    bool insecure, dry_run, json, verbose, log_prompts, batch_invariant, example_config, help, version;
} gemmad_options;

extern const option gemmad_option_table[];
extern const size_t gemmad_option_count;

/* One --model with its own options: the daemon's, and over those of the file its [model NAME] section. */
typedef struct model_settings {
    char name[LIMIT_MODEL_NAME_BYTES + 1];
    const char *path;
    gemmad_options options; /* lists in it are the daemon's, not its own */
} model_settings;

typedef struct settings {
    options reader;
    gemmad_options options;
    config_file file;
    model_settings *model; /* [model_count] */
    uint32_t model_count;
    const char **listen; /* [listen_count] */
    uint32_t listen_count;
    char *state_dir, *default_address;
    log_level log_level;
    log_format log_format;
} settings;

/* With --help or --version nothing but the command line is read. */
STATUS_CHECKED status settings_read(settings *s, int argc, char **argv);
void settings_close(settings *s);
void settings_print_help(FILE *out);
/* For --completion. */
STATUS_CHECKED status settings_print_completion(const settings *s, FILE *out);
/* A file for --config: every option with its meaning and its default, commented out. */
void settings_print_example(FILE *out);

/* What the options of one model mean to an engine; id, state_dir and grace are the caller's to set. */
engine_options settings_engine_options(const gemmad_options *o, const char *path);

/* "host:port" that only this machine reaches: localhost, 127.x.y.z, [::1]. ST_INVALID for what cannot be
 * read, with option_name ("--listen") in the sentence. */
STATUS_CHECKED status settings_check_address(const char *option_name, const char *address, bool *loopback);

#endif
