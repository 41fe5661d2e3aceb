/* gemmactl completion bash|zsh|fish, and `completion man [COMMAND]` for the manual page. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/describe.h"
#include "base/memory.h"
#include "ctl/answer.h"
#include "ctl/beside.h"
#include "ctl/child.h"
#include "ctl/commands.h"
#include "ctl/terminal.h"

enum { HELP_MAX = 64 << 10, HELP_MS = 20000, NAME_MAX_BYTES = 64 };

static void add_table(describe_options *list, const arg_option *option, size_t count) {
    for (size_t i = 0; i < count; i++) describe_add(list, option[i].name, option[i].value, option[i].help);
}

/* ---- options of gemmad-shard, as its help lists them ---- */

/* "  --name VALUE   help", and the help's other lines below it. */
static bool read_help_line(const char *line, char *name, char *value, const char **help) {
    int used = 0;
    *value = 0;
    if (strncmp(line, "  --", 4) != 0 || sscanf(line + 4, "%63[a-z0-9-]%n", name, &used) != 1) return false;
    const char *at = line + 4 + used;
    if (at[0] == ' ' && at[1] != ' ' && at[1] && sscanf(at, " %63[^ ]%n", value, &used) == 1) at += used;
    *help = at + strspn(at, " ");
    return true;
}

static void read_help(describe_options *list, char *text) {
    char name[NAME_MAX_BYTES] = "", value[NAME_MAX_BYTES] = "", *rest = NULL;
    strbuf help = {0};
    for (char *line = strtok_r(text, "\n", &rest);; line = strtok_r(NULL, "\n", &rest)) {
        bool more = line && !strncmp(line, "        ", 8) && *name;
        if (more) {
            strbuf_add_format(&help, "%s%s", help.size ? " " : "", line + strspn(line, " "));
            continue;
        }
        if (*name) describe_add(list, name, *value ? value : NULL, strbuf_text(&help));
        *name = 0;
        strbuf_clear(&help);
        const char *first;
        if (line && read_help_line(line, name, value, &first)) strbuf_add_string(&help, first);
        if (!line) break;
    }
    strbuf_close(&help);
}

static status add_shard(describe_options *list, const char *what) {
    char *program = NULL;
    strbuf text = {.max = HELP_MAX};
    int code = 0;
    TRY(beside_path(&program, "gemmad-shard"));
    const char *argv[] = {program, what, "--help", NULL};
    status st = child_run(&(child_options){.argv = argv, .timeout_ms = HELP_MS}, &text, &code);
    if (st == ST_OK && code != 0) st = fail(ST_INTERNAL, "%s %s --help ended with %d", program, what, code);
    if (st == ST_OK && text.size) read_help(list, text.data);
    strbuf_close(&text);
    free(program);
    return st;
}

/* ---- the whole ---- */

static status add_options(describe_options *list, const command *c) {
    add_table(list, c->option, c->option_count);
    if (c->samples) add_table(list, answer_option_table, answer_option_count);
    return strcmp(c->name, "bench") ? ST_OK : add_shard(list, "bench");
}

static status describe_all(describe_program *p, describe_command *commands) {
    add_table(&p->options, ctl_common_option, ctl_common_count);
    p->command = commands;
    for (size_t i = 0; i < ctl_command_count; i++) {
        const command *c = ctl_commands[i];
        commands[p->count++] = (describe_command){.name = c->name, .summary = c->summary, .words = c->words};
        TRY(add_options(&commands[i].options, c));
    }
    commands[p->count] =
        (describe_command){.name = "pack", .summary = CTL_PACK_SUMMARY, .words = CTL_PACK_WORDS};
    return add_shard(&commands[p->count++].options, "pack");
}

static status write_completion(const char *shell, strbuf *out) {
    describe_program p = {.name = "gemmactl"};
    describe_command *commands = memory_alloc_array(ctl_command_count + 1, sizeof *commands);
    status st = describe_all(&p, commands);
    if (st == ST_OK && !strcmp(shell, "bash")) describe_bash(out, &p);
    else if (st == ST_OK && !strcmp(shell, "zsh")) describe_zsh(out, &p);
    else if (st == ST_OK) describe_fish(out, &p);
    for (size_t i = 0; i < p.count; i++) describe_close(&commands[i].options);
    describe_close(&p.options);
    free(commands);
    return st;
}

/* Of one command its own options; "common" and "answer" are what several have; "engine" those of bench prefill and decode. */
static status write_manual(ctl *c, const char *name, strbuf *out) {
    describe_options list = {0};
    status st = ST_NOT_FOUND;
    if (!strcmp(name, "common")) add_table(&list, ctl_common_option, ctl_common_count), st = ST_OK;
    else if (!strcmp(name, "answer")) add_table(&list, answer_option_table, answer_option_count), st = ST_OK;
    else if (!strcmp(name, "engine")) st = add_shard(&list, "bench");
    else if (!strcmp(name, "pack")) st = add_shard(&list, "pack");
    for (size_t i = 0; i < ctl_command_count && st == ST_NOT_FOUND; i++)
        if (!strcmp(ctl_commands[i]->name, name))
            add_table(&list, ctl_commands[i]->option, ctl_commands[i]->option_count), st = ST_OK;
    if (st == ST_OK) describe_manual(out, &list);
    describe_close(&list);
    return st == ST_NOT_FOUND ? ctl_usage(c, "there is no command %s", name) : st;
}

static status run(ctl *c, const void *values, const arg_words *words) {
    static const char *const shells[] = {"bash", "zsh", "fish"};
    const char *kind = words->count ? words->at[0] : "";
    strbuf out = {0};
    status st = ST_NOT_FOUND;
    (void)values;
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (words->count == 1 && !strcmp(kind, shells[i])) st = write_completion(kind, &out);
    if (!strcmp(kind, "man") && words->count == 2) st = write_manual(c, words->at[1], &out);
    if (st == ST_NOT_FOUND)
        st = ctl_usage(c, "completion is for one of bash, zsh and fish: gemmactl completion bash");
    if (st == ST_OK && fwrite(out.data, 1, out.size, stdout) != out.size)
        st = fail_errno(ST_IO, "standard output");
    strbuf_close(&out);
    return st;
}

const command command_completion = {
    "completion",
    "bash|zsh|fish",
    "print completion for a shell; gemmad --completion does it for gemmad",
    NULL,
    0,
    0,
    false,
    run,
};
