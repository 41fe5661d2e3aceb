/* gemmactl: the command line of gemmad. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/paths.h"
#include "ctl/answer.h"
#include "ctl/beside.h"
#include "ctl/commands.h"
#include "ctl/ctl.h"
#include "ctl/terminal.h"

/* Named in the contract and not built yet. */
static const char *const planned[] = {"batch", "slurm"};

static void print_help(const command *about) {
    if (about) {
        printf("usage: gemmactl %s [options] %s\n\n%s\n\noptions:\n", about->name, about->words,
               about->summary);
        args_print_help(stdout, about->option, about->option_count);
        if (about->samples) args_print_help(stdout, answer_option_table, answer_option_count);
    } else {
        printf("usage: gemmactl [--server ADDR] [--json] COMMAND [options]\n\ncommands:\n");
        for (size_t i = 0; i < ctl_command_count; i++) {
            char left[64];
            snprintf(left, sizeof left, "%s %s", ctl_commands[i]->name, ctl_commands[i]->words);
            printf("  %-28s %s\n", left, ctl_commands[i]->summary);
        }
        printf("  %-28s %s\n", "pack", CTL_PACK_SUMMARY);
        printf("\n`gemmactl COMMAND --help` lists a command's options. Options of every command:\n");
    }
    args_print_help(stdout, ctl_common_option, ctl_common_count);
}

static status find_command(ctl *c, const char *name, const command **out) {
    for (size_t i = 0; i < ctl_command_count; i++)
        if (!strcmp(ctl_commands[i]->name, name)) {
            *out = ctl_commands[i];
            return ST_OK;
        }
    for (size_t i = 0; i < sizeof planned / sizeof *planned; i++)
        if (!strcmp(planned[i], name)) return ctl_usage(c, "%s is not available in this version", name);
    return ctl_usage(c, "unknown command \"%s\"; gemmactl --help lists them", name);
}

/* *made is the caller's to free() after the command has run. */
static status choose_server(ctl *c, char **made) {
    const char *from_environment = getenv("GEMMACTL_SERVER");
    c->server_given = c->server != NULL;
    if (!c->server && from_environment && *from_environment) c->server = from_environment;
    c->default_server = !c->server;
    if (c->default_server) {
        if (path_default_address(made, NULL) != ST_OK)
            return ctl_usage(c, "%s; say --server ADDR", status_text());
        c->server = *made;
    }
    if (client_check_address(c->server) != ST_OK) return ctl_usage(c, "%s", status_text());
    return ST_OK;
}

static status run_command(ctl *c, int argc, char **argv, int at, const arg_table *common, char **words) {
    const command *chosen = NULL;
    if (beside_is_measurement(argc, argv, at)) return beside_measure(argc, argv, at, c->json);
    TRY(find_command(c, argv[at], &chosen));
    void *values = memory_alloc(chosen->values_size ? chosen->values_size : 1);
    arg_table tables[] = {*common,
                          {chosen->option, chosen->option_count, values},
                          {answer_option_table, chosen->samples ? answer_option_count : 0, values}};
    arg_words rest = {words, 0};
    char *address = NULL;
    int end;
    status st = args_read(argc, argv, at + 1, tables, 3, false, &rest, &end);
    if (st != ST_OK) {
        c->usage = true;
    } else if (c->help) {
        print_help(chosen);
    } else if ((st = choose_server(c, &address)) == ST_OK) {
        client_access access;
        st = access_read(&access, &c->access);
        if (st == ST_OK) {
            client_use_access(&access);
            client_catch_interrupts();
            st = chosen->run(c, values, &rest);
            client_use_access(NULL);
            access_close(&access);
        }
    }
    free(address);
    args_close(&tables[1]);
    args_close(&tables[2]);
    free(values);
    return st;
}

static status run(ctl *c, int argc, char **argv, char **words) {
    arg_table common = {ctl_common_option, ctl_common_count, c};
    arg_words none = {words, 0};
    int at;
    if (args_read(argc, argv, 1, &common, 1, true, &none, &at) != ST_OK)
        return ctl_usage(c, "%s", status_text());
    if (c->version) {
        printf("gemmactl %s\n", GEMMAD_VERSION);
    } else if (at < argc) {
        return run_command(c, argc, argv, at, &common, words);
    } else if (c->help) {
        print_help(NULL);
    } else {
        return ctl_usage(c, "a command is missing; gemmactl --help lists them");
    }
    return ST_OK;
}

int main(int argc, char **argv) {
    ctl c = {0};
    char **words = memory_alloc_array((size_t)argc + 1, sizeof *words);
    status st = run(&c, argc, argv, words);
    free(words);
    if (st == ST_OK) st = terminal_flush();
    if (st == ST_OK) return 0;
    strbuf line = {0};
    strbuf_add_format(&line, "gemmactl: %s", status_text());
    terminal_say(strbuf_text(&line));
    strbuf_close(&line);
    if (client_interrupt()) {
        /* Ended by the signal, so that a shell's loop around us ends too. */
        signal(client_interrupt(), SIG_DFL);
        raise(client_interrupt());
    }
    return c.usage ? 2 : 1;
}
