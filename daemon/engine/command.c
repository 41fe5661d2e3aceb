#include "daemon/engine/command.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "daemon/engine/cpus.h"

void command_add(command *c, const char *word) {
    if (c->count + 2 > c->capacity) {
        c->capacity = c->capacity ? c->capacity * 2 : 32;
        c->word = memory_grow(c->word, c->capacity * sizeof *c->word);
    }
    c->word[c->count++] = memory_copy_string(word);
    c->word[c->count] = NULL;
}

void command_add_format(command *c, const char *format, ...) {
    char word[PATH_MAX + 64];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(word, sizeof word, format, args);
    va_end(args);
    INVARIANT(n >= 0 && (size_t)n < sizeof word);
    command_add(c, word);
}

status command_add_words(command *c, const char *text) {
    strbuf word = {0};
    bool in_word = false;
    char quote = 0;
    for (const char *p = text; *p; p++) {
        if (quote ? *p == quote : *p == '\'' || *p == '"') {
            quote = quote ? 0 : *p;
            in_word = true;
        } else if (!quote && (*p == ' ' || *p == '\t' || *p == '\n')) {
            if (in_word) command_add(c, strbuf_text(&word));
            strbuf_clear(&word);
            in_word = false;
        } else {
            strbuf_add(&word, p, 1);
            in_word = true;
        }
    }
    if (in_word && !quote) command_add(c, strbuf_text(&word));
    strbuf_close(&word);
    return quote ? fail(ST_INVALID, "--launcher-args: %s: a %c is not closed", text, quote) : ST_OK;
}

void command_close(command *c) {
    for (uint32_t i = 0; i < c->count; i++) free(c->word[i]);
    free(c->word);
    *c = (command){0};
}

static void add_option(command *c, const char *name, const char *value) {
    if (!value) return;
    command_add(c, name);
    command_add(c, value);
}

static void add_number(command *c, const char *name, uint64_t value) {
    if (value == 0) return;
    command_add(c, name);
    command_add_format(c, "%llu", (unsigned long long)value);
}

/* "localhost:2", "node7,node7": true when every name is this machine. */
static bool names_this_machine(const char *hosts) {
    char own[256] = "", copy[4096];
    gethostname(own, sizeof own - 1);
    if (strlen(hosts) >= sizeof copy) return false;
    strcpy(copy, hosts);
    char *rest = NULL;
    for (char *name = strtok_r(copy, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        char *slots = strchr(name, ':');
        if (slots) *slots = 0;
        if (strcmp(name, "localhost") != 0 && strcmp(name, "127.0.0.1") != 0 && strcmp(name, own) != 0)
            return false;
    }
    return true;
}

status command_check_options(const engine_options *o) {
    if (o->ranks > LIMIT_RANKS)
        return fail(ST_INVALID, "--ranks %u, allowed are 1 to %d", o->ranks, LIMIT_RANKS);
    if (o->launcher && strcmp(o->launcher, "local") != 0)
        return fail(ST_UNSUPPORTED, "--launcher %s: this build starts ranks with the launcher local only",
                    o->launcher);
    if (o->hosts && !names_this_machine(o->hosts))
        return fail(ST_UNSUPPORTED, "--hosts %s: this build starts ranks on its own machine only", o->hosts);
    return ST_OK;
}

static status shard_program(const engine_options *o, char path[PATH_MAX]) {
    if (o->shard_program) {
        if (strlen(o->shard_program) >= PATH_MAX)
            return fail(ST_INVALID, "the path of gemmad-shard is too long");
        /* A name without a slash is looked for in PATH; any other must outlast the keeper's change of
         * directory. */
        if (strchr(o->shard_program, '/') && !realpath(o->shard_program, path))
            return fail_errno(ST_NOT_FOUND, "%s", o->shard_program);
        if (!strchr(o->shard_program, '/')) strcpy(path, o->shard_program);
        return ST_OK;
    }
    static const char name[] = "gemmad-shard";
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (n <= 0) return fail_errno(ST_IO, "/proc/self/exe");
    path[n] = 0;
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash + 1 - path) + sizeof name > PATH_MAX)
        return fail(ST_IO, "%s has no folder", path);
    strcpy(slash + 1, name);
    if (access(path, X_OK) != 0) return fail_errno(ST_NOT_FOUND, "%s", path);
    return ST_OK;
}

static uint32_t rank_count(const engine_options *o) { return o->ranks ? o->ranks : 1; }

/* Of all replicas: they divide the machine. */
static uint32_t ranks_here(const engine_options *o) {
    return rank_count(o) * (o->replicas ? o->replicas : 1);
}

/* The options that plan and serve share: what one predicts, the other must do. */
static status add_model_options(command *c, const engine_options *o) {
    char model[PATH_MAX];
    if (!o->model_path || !realpath(o->model_path, model))
        return fail_errno(ST_NOT_FOUND, "%s", o->model_path ? o->model_path : "--model");
    add_option(c, "--model", model);
    add_number(c, "--ranks", rank_count(o));
    add_option(c, "--weights", o->weights);
    add_option(c, "--kv", o->kv);
    add_number(c, "--threads", o->threads ? o->threads : cpus_threads_per_rank(cpus_usable(), ranks_here(o)));
    add_number(c, "--context", o->context);
    add_number(c, "--memory", o->memory_bytes);
    add_option(c, "--expert-layout", o->expert_layout);
    if (o->replicas > 1) {
        command_add(c, "--share");
        command_add_format(c, "%u/%u", o->replica, o->replicas);
    }
    add_option(c, "--device", o->device);
    if (o->batch_invariant) command_add(c, "--batch-invariant");
    return ST_OK;
}

status command_plan(command *c, const engine_options *o) {
    char shard[PATH_MAX];
    TRY(command_check_options(o));
    TRY(shard_program(o, shard));
    command_add(c, shard);
    command_add(c, "plan");
    return add_model_options(c, o);
}

static void add_mca(command *c, const char *name, const char *value) {
    command_add(c, "--mca");
    command_add(c, name);
    command_add(c, value);
}

/* mpirun for ranks on this machine. Its own ideas are turned off where they need something that a bare
 * machine lacks: a remote shell, a batch system, a network, the right to read other processes' memory. */
static status add_mpirun(command *c, const engine_options *o, const command_paths *p) {
    uint32_t ranks = rank_count(o);
    const char *interface = o->interface ? o->interface : "lo";
    command_add(c, "mpirun");
    if (geteuid() == 0) command_add(c, "--allow-run-as-root");
    command_add(c, "--quiet");
    /* Ranks pin themselves; mpirun would bind each to one core, and refuse more ranks than cores without
     * slots. */
    command_add(c, "--bind-to");
    command_add(c, "none");
    add_number(c, "-np", ranks);
    command_add(c, "--host");
    if (o->hosts) command_add(c, o->hosts);
    else command_add_format(c, "localhost:%u", ranks);
    add_mca(c, "plm", "isolated");
    add_mca(c, "ras", "^slurm,gridengine");
    add_mca(c, "oob_tcp_if_include", interface);
    add_mca(c, "pml", "ob1");
    add_mca(c, "btl", "self,vader,tcp");
    add_mca(c, "opal_if_do_not_resolve",
            "1"); /* a host whose own name does not resolve waits seconds for DNS */
    add_mca(c, "btl_tcp_if_include", interface);
    add_mca(c, "btl_vader_single_copy_mechanism", "none");
    /* Everything that MPI leaves behind when it is killed lies in one folder, which the keeper removes. */
    add_mca(c, "orte_tmpdir_base", p->scratch);
    add_mca(c, "btl_vader_backing_directory", p->scratch);
    add_mca(c, "osc_sm_backing_directory", p->scratch);
    /* Ranks have nothing to save: when one has died, the second that mpirun gives the others only delays the
     * news. */
    add_mca(c, "odls_base_sigkill_timeout", "0");
    if (ranks_here(o) > cpus_usable()) add_mca(c, "mpi_yield_when_idle", "1");
    return o->launcher_args ? command_add_words(c, o->launcher_args) : ST_OK;
}

/* The keeper changes its folder, so that the name must not depend on it. */
static status add_spill(command *c, const char *spill) {
    char here[PATH_MAX];
    if (!spill) return ST_OK;
    command_add(c, "--spill");
    if (spill[0] == '/') {
        command_add(c, spill);
        return ST_OK;
    }
    if (!getcwd(here, sizeof here)) return fail_errno(ST_IO, "the current folder");
    if (strlen(spill) >= PATH_MAX) return fail(ST_INVALID, "--spill: a path of %zu bytes", strlen(spill));
    char *path = file_join(here, spill);
    command_add(c, path);
    free(path);
    return ST_OK;
}

status command_serve(command *c, const engine_options *o, const command_paths *p) {
    char shard[PATH_MAX];
    TRY(command_check_options(o));
    TRY(shard_program(o, shard));
    /* One rank needs no launcher, and starts half a second sooner without; arguments for it show that one is
     * wanted. */
    bool alone = rank_count(o) == 1 && !o->launcher_args && !o->hosts;
    if (!alone) TRY(add_mpirun(c, o, p));
    command_add(c, shard);
    command_add(c, "serve");
    add_option(c, "--comm", alone ? "self" : "mpi");
    TRY(add_model_options(c, o));
    TRY(add_spill(c, o->spill));
    add_option(c, "--link", p->link_address);
    add_option(c, "--secret-file", p->secret_file);
    add_number(c, "--prefill-min-share", o->prefill_min_share);
    command_add(c, "--engine-grace");
    command_add_format(c, "%u", o->grace_seconds);
    return ST_OK;
}
