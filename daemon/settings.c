#include "daemon/settings.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/dir_size.h"
#include "base/memory.h"
#include "base/paths.h"
#include "base/strbuf.h"
#include "base/utf8.h"
#include "daemon/engine/command.h"

static const char section_prefix[] = "model ";

#define GGUF_SUFFIX ".gguf" /* of a file, not of the name that its model is served by */

/* ---- addresses ---- */

static bool is_loopback(const char *host) {
    struct in_addr four;
    struct in6_addr six;
    if (!strcmp(host, "localhost")) return true;
    if (inet_pton(AF_INET, host, &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

status settings_check_address(const char *option_name, const char *address, bool *loopback) {
    char host[256];
    *loopback = true;
    if (!strncmp(address, "unix:", 5))
        return address[5] == '/'
                   ? ST_OK
                   : fail(ST_INVALID, "%s %s: the path must begin with '/'", option_name, address);
    if (!strncmp(address, "systemd:", 8)) /* looked at when it is taken over */
        return address[8]
                   ? ST_OK
                   : fail(ST_INVALID, "%s %s: the name of the socket is missing", option_name, address);
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    char *end;
    unsigned long port = colon && isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &end, 10) : 0;
    if (n == 0 || n >= sizeof host || port == 0 || port > 65535 || *end)
        return fail(ST_INVALID, "%s \"%.300s\" is neither unix:/path nor host:port with a port of 1 to 65535",
                    option_name, address);
    bool brackets = n > 2 && address[0] == '[' && address[n - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(brackets ? n - 2 : n), address + (brackets ? 1 : 0));
    if (!brackets && strchr(host, ':'))
        return fail(ST_INVALID, "%s %s: an IPv6 address stands in brackets, as [::1]:8000", option_name,
                    address);
    *loopback = is_loopback(host);
    return ST_OK;
}

/* What other machines reach is for those who have a key, and nobody on the way may read it. */
static status check_reach(const gemmad_options *o, const char *name, const char *address, bool loopback) {
    if (loopback || o->insecure || (o->keys && o->tls_cert)) return ST_OK;
    const char *missing = o->keys ? "--tls-cert and --tls-key are missing" : "--keys is missing";
    if (!o->keys && !o->tls_cert) missing = "--keys and --tls-cert with --tls-key are missing";
    return fail(ST_INVALID,
                "%s %s is not a loopback address, and %s: whoever reaches it could use the models. "
                "--insecure listens "
                "there all the same",
                name, address, missing);
}

static status check_security(const gemmad_options *o) {
    if (!o->tls_cert != !o->tls_key)
        return fail(ST_INVALID, "--tls-cert and --tls-key go together; %s is missing",
                    o->tls_cert ? "--tls-key" : "--tls-cert");
    if (o->tls_client_ca && !o->tls_cert)
        return fail(ST_INVALID, "--tls-client-ca goes with --tls-cert and --tls-key");
    if (!o->keys && strcmp(o->socket_mode, "0600") != 0)
        return fail(
            ST_INVALID,
            "--socket-mode %s lets other users connect: it needs --keys, so that they show who they are",
            o->socket_mode);
    return ST_OK;
}

static status check_address(const settings *s, const char *option_name, const char *address) {
    bool loopback;
    TRY(settings_check_address(option_name, address, &loopback));
    return check_reach(&s->options, option_name, address, loopback);
}

static status check_listen(settings *s) {
    const option_texts *given = &s->options.listen;
    if (s->options.http) TRY(check_address(s, "--http", s->options.http));
    if (given->count == 0) {
        if (path_default_address(&s->default_address, s->state_dir) != ST_OK)
            return fail(ST_INVALID, "%s; say --listen ADDR", status_text());
        s->listen = memory_alloc(sizeof *s->listen);
        s->listen[s->listen_count++] = s->default_address;
        return ST_OK;
    }
    s->listen = memory_alloc_array(given->count, sizeof *s->listen);
    for (size_t i = 0; i < given->count; i++) {
        TRY(check_address(s, "--listen", given->at[i]));
        s->listen[s->listen_count++] = given->at[i];
    }
    return ST_OK;
}

/* ---- models ---- */

static status check_name(const char *name) {
    size_t n = strlen(name);
    if (n == 0 || n > LIMIT_MODEL_NAME_BYTES)
        return fail(ST_INVALID, "--model: the name \"%.64s\" has %zu bytes, allowed are 1 to %d", name, n,
                    LIMIT_MODEL_NAME_BYTES);
    bool plain = utf8_check(name, n) == n;
    for (const char *p = name; *p; p++) plain = plain && !iscntrl((unsigned char)*p) && *p != ']';
    return plain ? ST_OK : fail(ST_INVALID, "--model: a name has bytes that are no text, or a ']'");
}

/* NAME=PATH, or a PATH that may itself hold a '=' after a '/'. */
static status split_model(const char *text, model_settings *m) {
    char name[PATH_MAX], resolved[PATH_MAX];
    const size_t suffix = sizeof GGUF_SUFFIX - 1;
    const char *equals = strchr(text, '='), *slash = strchr(text, '/');
    if (equals && (!slash || equals < slash)) {
        snprintf(name, sizeof name, "%.*s", (int)(equals - text < 512 ? equals - text : 512), text);
        m->path = equals + 1;
    } else {
        m->path = text;
        snprintf(name, sizeof name, "%s", text);
        /* "." and ".." have no name of their own; a path that is not there is refused later, with its model.
         */
        const char *last = strrchr(text, '/') ? strrchr(text, '/') + 1 : text;
        if ((!strcmp(last, ".") || !strcmp(last, "..")) && realpath(text, resolved))
            snprintf(name, sizeof name, "%s", resolved);
        size_t n = strlen(name);
        while (n > 1 && name[n - 1] == '/') name[--n] = 0;
        char *part = strrchr(name, '/');
        if (part) memmove(name, part + 1, strlen(part + 1) + 1);
        n = strlen(name);
        if (n > suffix && !strcmp(name + n - suffix, GGUF_SUFFIX)) name[n - suffix] = 0;
    }
    if (!*m->path) return fail(ST_INVALID, "--model %.128s: the path is missing", text);
    TRY(check_name(name));
    memcpy(m->name, name, strlen(name) + 1); /* check_name has seen that it fits */
    return ST_OK;
}

static status add_model(settings *s, const model_settings *m) {
    for (uint32_t i = 0; i < s->model_count; i++)
        if (!strcmp(s->model[i].name, m->name))
            return fail(ST_INVALID,
                        "two models have the name %s (%s and %s); --model NAME=PATH gives another", m->name,
                        s->model[i].path, m->path);
    if (s->model_count == LIMIT_MODELS) return fail(ST_INVALID, "more than %d --model", LIMIT_MODELS);
    s->model = memory_grow(s->model, (s->model_count + 1) * sizeof *s->model);
    s->model[s->model_count++] = *m;
    return ST_OK;
}

/* The model's name of a section, NULL for any other section. */
static const char *section_model(const char *section) {
    if (strncmp(section, section_prefix, sizeof section_prefix - 1) != 0) return NULL;
    const char *name = section + sizeof section_prefix - 1;
    return name + strspn(name, " \t");
}

/* A section with a path of its own is a model, as if --model had named it. */
static status add_models_of_sections(settings *s) {
    for (size_t i = 0; i < s->file.count; i++) {
        const config_entry *e = &s->file.entry[i];
        const char *name = section_model(e->section);
        if (!name || strcmp(e->key, "model") != 0) continue;
        model_settings m = {.path = e->value};
        TRY(check_name(name));
        memcpy(m.name, name, strlen(name) + 1);
        TRY(add_model(s, &m));
    }
    return ST_OK;
}

/* The line that opens a model's section, among the first `before` entries. */
static const config_entry *find_section(const settings *s, const char *model, size_t before) {
    for (size_t i = 0; i < before; i++) {
        const config_entry *e = &s->file.entry[i];
        const char *name = section_model(e->section);
        if (!*e->key && name && !strcmp(name, model)) return e;
    }
    return NULL;
}

static status check_sections(const settings *s) {
    /* Models named on the command line take the place of the file's, whose sections are then without one. */
    bool replaced = options_source(&s->reader, "model") > OPTION_FROM_FILE || s->options.shape;
    for (size_t i = 0; i < s->file.count; i++) {
        const config_entry *e = &s->file.entry[i];
        const char *name = section_model(e->section);
        if (*e->key) continue;
        bool known = false;
        for (uint32_t k = 0; name && k < s->model_count; k++)
            known = known || !strcmp(s->model[k].name, name);
        if (!name || !*name)
            return fail(ST_INVALID, "%s:%u: unknown section [%.64s]; there is [model NAME]", s->file.name,
                        e->line, e->section);
        const config_entry *first = find_section(s, name, i);
        if (first)
            return fail(ST_INVALID, "%s:%u: [%.64s] is already in line %u", s->file.name, e->line, e->section,
                        first->line);
        if (!known && !replaced)
            return fail(ST_INVALID, "%s:%u: [%.64s]: no model has this name", s->file.name, e->line,
                        e->section);
    }
    return ST_OK;
}

static status read_model_options(settings *s, model_settings *m) {
    options reader = s->reader;
    m->options = s->options;
    /* The path is the model's identity, settled by now; a list read here would also be nobody's to free. */
    m->options.model = (option_texts){0};
    reader.values = &m->options;
    for (size_t i = 0; i < reader.count; i++)
        if (reader.source[i] <= OPTION_FROM_FILE) reader.source[i] = OPTION_FROM_PRESET;
    const config_entry *section = find_section(s, m->name, s->file.count);
    status st = section ? options_read_section(&reader, &s->file, section->section) : ST_OK;
    free(m->options.model.at);
    m->options.model = (option_texts){0};
    return st;
}

static status check_layout(const char *text) {
    unsigned experts, width;
    char rest;
    if (!text) return ST_OK;
    if (sscanf(text, "%ux%u%c", &experts, &width, &rest) == 2 && experts && width && experts <= LIMIT_RANKS &&
        width <= LIMIT_RANKS)
        return ST_OK;
    return fail(ST_INVALID, "--expert-layout is \"%.64s\", it is written as 2x1", text);
}

static status check_spill(const char *text) {
    char *dir = NULL;
    uint64_t bytes;
    status st = text ? dir_size_read("--spill", text, &dir, &bytes) : ST_OK;
    free(dir);
    return st;
}

static status check_model(const model_settings *m) {
    TRY(check_layout(m->options.expert_layout));
    return check_spill(m->options.spill);
}

static status read_models(settings *s) {
    for (size_t i = 0; i < s->options.model.count; i++) {
        model_settings m = {0};
        TRY(split_model(s->options.model.at[i], &m));
        TRY(add_model(s, &m));
    }
    if (options_source(&s->reader, "model") <= OPTION_FROM_FILE) TRY(add_models_of_sections(s));
    TRY(check_sections(s));
    for (uint32_t i = 0; i < s->model_count; i++) {
        TRY(read_model_options(s, &s->model[i]));
        TRY(check_model(&s->model[i]));
    }
    return ST_OK;
}

/* ---- all of it ---- */

static status check_modes(settings *s) {
    const gemmad_options *o = &s->options;
    if (o->shape && !o->dry_run) return fail(ST_INVALID, "--shape %s goes with --dry-run only", o->shape);
    if (o->json && !o->dry_run) return fail(ST_INVALID, "--json goes with --dry-run only");
    if (o->shape && o->model.count)
        return fail(ST_INVALID, "--shape %s and --model %s: one of them", o->shape, o->model.at[0]);
    if (!o->shape && s->model_count == 0)
        return fail(ST_INVALID, "no model to serve; --model PATH names one, --help lists the options");
    TRY(check_layout(o->expert_layout));
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(o->log_level, levels[i])) s->log_level = (log_level)i;
    if (o->verbose) s->log_level = LOG_DEBUG;
    s->log_format = strcmp(o->log_format, "json") ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
    return ST_OK;
}

engine_options settings_engine_options(const gemmad_options *o, const char *path) {
    return (engine_options){.model_path = path,
                            .ranks = o->ranks,
                            .replicas = o->replicas,
                            .threads = o->threads,
                            .context = o->context,
                            .memory_bytes = o->memory,
                            .prefill_min_share = o->prefill_min_share,
                            .weights = o->weights,
                            .kv = o->kv,
                            .spill = o->spill,
                            .device = o->device,
                            .batch_invariant = o->batch_invariant,
                            .expert_layout = o->expert_layout,
                            .launcher = o->launcher,
                            .launcher_args = o->launcher_args,
                            .hosts = o->hosts,
                            .interface = o->interface};
}

/* What no engine can do is a mistake on the command line, not a refusal of the model. */
static status check_engines(const settings *s) {
    for (uint32_t i = 0; i < s->model_count; i++) {
        engine_options o = settings_engine_options(&s->model[i].options, s->model[i].path);
        TRY(command_check_options(&o));
    }
    return ST_OK;
}

status settings_read(settings *s, int argc, char **argv) {
    *s = (settings){0};
    options_open(&s->reader, gemmad_option_table, gemmad_option_count, "GEMMAD", &s->options);
    TRY(options_read_arguments(&s->reader, argc, argv));
    if (s->options.help || s->options.version || s->options.example_config || s->options.completion) return ST_OK;
    TRY(options_read_environment(&s->reader));
    if (s->options.config) {
        if (config_file_open(&s->file, s->options.config) != ST_OK)
            return fail_within(ST_INVALID, "--config");
        TRY(options_read_section(&s->reader, &s->file, ""));
    }
    if (s->options.shape && options_source(&s->reader, "model") <= OPTION_FROM_FILE)
        s->options.model.count = 0;
    if (!s->options.shape) TRY(read_models(s));
    TRY(check_modes(s));
    TRY(check_engines(s));
    if (s->options.state) s->state_dir = memory_copy_string(s->options.state);
    else if (!s->options.dry_run && path_default_state(&s->state_dir) != ST_OK)
        return fail(ST_INVALID, "%s; say --state DIR", status_text());
    if (s->options.dry_run) return ST_OK;
    TRY(check_security(&s->options));
    return check_listen(s);
}

void settings_close(settings *s) {
    options_close(&s->reader);
    config_file_close(&s->file);
    free(s->model);
    free(s->listen);
    free(s->state_dir);
    free(s->default_address);
    *s = (settings){0};
}

void settings_print_help(FILE *out) {
    fputs("usage: gemmad --model [NAME=]PATH [options]\n\nServes Gemma 4 models over gRPC and "
          "HTTP.\n\noptions:\n",
          out);
    options_print_help(out, gemmad_option_table, gemmad_option_count);
    fputs("\nAn option may also stand in the environment as GEMMAD_<OPTION> (GEMMAD_ENGINE_GRACE=60; several "
          "models or\n"
          "addresses with commas between) or in --config FILE. The command line wins, then the environment, "
          "then the file.\n"
          "GEMMAD_ISA=scalar|avx2|avxvnni|avx512|amx caps the instruction set.\n"
          "\nexit codes: 0 stopped as asked, 1 failure, 2 usage, 3 model or layout refused, 4 address, lock "
          "or live socket "
          "taken\n",
          out);
}

void settings_print_example(FILE *out) {
    fputs("# gemmad's configuration, for --config FILE. Each option has the name it has on the command line, "
          "which wins over\n"
          "# the environment (GEMMAD_<OPTION>), which wins over this file. '#' begins a comment.\n\n",
          out);
    options_print_config(out, gemmad_option_table, gemmad_option_count);
    fputs("# Options of one model stand under its name:\n#[model NAME]\n#ranks = 4\n", out);
}

status settings_print_completion(const settings *s, FILE *out) {
    describe_program p = {.name = "gemmad"};
    strbuf text = {0};
    const char *kind = s->options.completion;
    options_describe(&p.options, gemmad_option_table, gemmad_option_count);
    if (!strcmp(kind, "bash")) describe_bash(&text, &p);
    else if (!strcmp(kind, "zsh")) describe_zsh(&text, &p);
    else if (!strcmp(kind, "fish")) describe_fish(&text, &p);
    else describe_manual(&text, &p.options);
    describe_close(&p.options);
    bool good = fwrite(text.data, 1, text.size, out) == text.size && fflush(out) == 0;
    strbuf_close(&text);
    return good ? ST_OK : fail_errno(ST_IO, "standard output");
}
