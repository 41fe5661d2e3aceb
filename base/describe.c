#include "base/describe.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void describe_add(describe_options *list, const char *name, const char *value, const char *help) {
    for (size_t i = 0; i < list->count; i++)
        if (!strcmp(list->at[i].name, name)) return;
    list->at = memory_grow(list->at, (list->count + 1) * sizeof *list->at);
    list->at[list->count++] = (describe_option){
        memory_copy_string(name), value ? memory_copy_string(value) : NULL, memory_copy_string(help)};
}

void describe_close(describe_options *list) {
    for (size_t i = 0; i < list->count; i++) {
        free(list->at[i].name);
        free(list->at[i].value);
        free(list->at[i].help);
    }
    free(list->at);
    *list = (describe_options){0};
}

bool describe_is_path(const char *value) {
    static const char *const marks[] = {"FILE", "PATH", "DIR", "PROGRAM", "DOCUMENT"};
    for (size_t i = 0; value && i < sizeof marks / sizeof *marks; i++)
        if (strstr(value, marks[i])) return true;
    return false;
}

bool describe_is_choice(const char *value) {
    if (!value || !strchr(value, '|')) return false;
    for (; *value && *value != ' '; value++)
        if (isupper((unsigned char)*value)) return false;
    return true;
}

/* "add|list [NAME]" as "add list". */
static void add_words(strbuf *out, const char *choice) {
    for (; *choice && *choice != ' '; choice++) strbuf_add(out, *choice == '|' ? " " : choice, 1);
}

static void add_escaped(strbuf *out, const char *text, const char *special, const char *before) {
    for (; *text; text++) {
        if (strchr(special, *text)) strbuf_add_string(out, before);
        strbuf_add(out, text, 1);
    }
}

static void add_names(strbuf *out, const describe_options *list) {
    for (size_t i = 0; i < list->count; i++) strbuf_add_format(out, "--%s ", list->at[i].name);
}

/* ---- bash ---- */

static void bash_values(strbuf *out, const char *command, const describe_options *list) {
    for (size_t i = 0; i < list->count; i++) {
        const describe_option *o = &list->at[i];
        if (!o->value) continue;
        strbuf_add_format(out, "        %s:--%s) ", command, o->name);
        if (describe_is_choice(o->value)) {
            strbuf_add_string(out, "mapfile -t COMPREPLY < <(compgen -W \"");
            add_words(out, o->value);
            strbuf_add_string(out, "\" -- \"$current\"); ");
        } else if (describe_is_path(o->value)) {
            strbuf_add_string(out,
                              "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$current\"); ");
        }
        strbuf_add_string(out, "return ;;\n");
    }
}

static void bash_commands(strbuf *out, const describe_program *p, const char *between) {
    for (size_t i = 0; i < p->count; i++)
        strbuf_add_format(out, "%s%s", i ? between : "", p->command[i].name);
}

static void bash_command(strbuf *out, const describe_command *c) {
    strbuf_add_format(out, "        %s)\n            options+=\"", c->name);
    add_names(out, &c->options);
    strbuf_add_string(out, "\"\n");
    if (describe_is_choice(c->words)) {
        strbuf_add_string(out, "            words=\"");
        add_words(out, c->words);
        strbuf_add_string(out, "\"\n");
    } else if (describe_is_path(c->words)) {
        strbuf_add_string(out, "            files=yes\n");
    }
    strbuf_add_string(out, "            ;;\n");
}

void describe_bash(strbuf *out, const describe_program *p) {
    strbuf_add_format(out, "# bash completion for %s, written from its option tables\n_%s() {\n", p->name,
                      p->name);
    strbuf_add_string(out,
                      "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
                      "    local command= words= files= options=\"");
    add_names(out, &p->options);
    strbuf_add_string(out, "\" i\n    COMPREPLY=()\n");
    if (p->count) {
        strbuf_add_string(
            out,
            "    for ((i = 1; i < COMP_CWORD; i++)); do\n        case ${COMP_WORDS[i]} in\n            ");
        bash_commands(out, p, "|");
        strbuf_add_string(out, ") command=${COMP_WORDS[i]}; break ;;\n        esac\n    done\n");
    }
    strbuf_add_string(out, "    case $command:$previous in\n");
    for (size_t i = 0; i < p->count; i++) bash_values(out, p->command[i].name, &p->command[i].options);
    bash_values(out, "*", &p->options);
    strbuf_add_string(out, "    esac\n");
    if (p->count) {
        strbuf_add_string(out, "    case $command in\n        \"\") words=\"");
        bash_commands(out, p, " ");
        strbuf_add_string(out, "\" ;;\n");
        for (size_t i = 0; i < p->count; i++) bash_command(out, &p->command[i]);
        strbuf_add_string(out, "    esac\n");
    }
    strbuf_add_format(out,
                      "    if [[ $current == -* ]]; then\n"
                      "        mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$current\")\n"
                      "    elif [[ $files ]]; then\n"
                      "        compopt -o filenames\n"
                      "        mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
                      "    else\n"
                      "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
                      "    fi\n"
                      "}\n"
                      "complete -F _%s %s\n",
                      p->name, p->name);
}

/* ---- zsh ---- */

/* Inside single quotes, in a description that ends at the bracket. */
static void zsh_text(strbuf *out, const char *text) {
    for (; *text; text++) {
        if (*text == '\'') strbuf_add_string(out, "'\\''");
        else if (strchr("[]:\\", *text)) strbuf_add_format(out, "\\%c", *text);
        else strbuf_add(out, text, 1);
    }
}

static void zsh_action(strbuf *out, const char *value) {
    strbuf_add_string(out, ":");
    zsh_text(out, value);
    strbuf_add_string(out, ":");
    if (describe_is_choice(value)) {
        strbuf_add_string(out, "(");
        add_words(out, value);
        strbuf_add_string(out, ")");
    } else if (describe_is_path(value)) {
        strbuf_add_string(out, "_files");
    } else {
        strbuf_add_string(out, " ");
    }
}

static void zsh_options(strbuf *out, const describe_options *list, const char *before) {
    for (size_t i = 0; i < list->count; i++) {
        const describe_option *o = &list->at[i];
        strbuf_add_format(out, "%s'--%s[", before, o->name);
        zsh_text(out, o->help);
        strbuf_add_string(out, "]");
        if (o->value) zsh_action(out, o->value);
        strbuf_add_string(out, "'");
    }
}

static void zsh_command(strbuf *out, const describe_command *c) {
    strbuf_add_format(out, "        %s) _arguments $common", c->name);
    zsh_options(out, &c->options, " \\\n            ");
    if (describe_is_path(c->words) || describe_is_choice(c->words)) {
        strbuf_add_string(out, " \\\n            '*");
        zsh_action(out, c->words);
        strbuf_add_string(out, "'");
    }
    strbuf_add_string(out, " ;;\n");
}

void describe_zsh(strbuf *out, const describe_program *p) {
    strbuf_add_format(out, "#compdef %s\n# zsh completion, written from the program's option tables\n",
                      p->name);
    strbuf_add_string(
        out, "local -a common commands\nlocal context state state_descr line\ntypeset -A opt_args\ncommon=(");
    zsh_options(out, &p->options, "\n    ");
    strbuf_add_string(out, "\n)\n");
    if (p->count == 0) {
        strbuf_add_string(out, "_arguments $common\n");
        return;
    }
    strbuf_add_string(out, "commands=(");
    for (size_t i = 0; i < p->count; i++) {
        strbuf_add_format(out, "\n    '%s:", p->command[i].name);
        zsh_text(out, p->command[i].summary);
        strbuf_add_string(out, "'");
    }
    strbuf_add_string(out,
                      "\n)\n_arguments -C $common '1: :->command' '*:: :->rest'\n"
                      "case $state in\n    command) _describe -t commands command commands ;;\n    rest)\n"
                      "        case $words[1] in\n");
    for (size_t i = 0; i < p->count; i++) zsh_command(out, &p->command[i]);
    strbuf_add_string(out, "        esac ;;\nesac\n");
}

/* ---- fish ---- */

static void fish_quoted(strbuf *out, const char *text) {
    strbuf_add_string(out, "'");
    add_escaped(out, text, "'\\", "\\");
    strbuf_add_string(out, "'");
}

static void fish_options(strbuf *out, const char *program, const char *condition,
                         const describe_options *list) {
    for (size_t i = 0; i < list->count; i++) {
        const describe_option *o = &list->at[i];
        strbuf_add_format(out, "complete -c %s%s -l %s -d ", program, condition, o->name);
        fish_quoted(out, o->help);
        if (describe_is_choice(o->value)) {
            strbuf_add_string(out, " -x -a '");
            add_words(out, o->value);
            strbuf_add_string(out, "'");
        } else if (o->value) {
            strbuf_add_string(out, describe_is_path(o->value) ? " -r -F" : " -x");
        }
        strbuf_add_string(out, "\n");
    }
}

void describe_fish(strbuf *out, const describe_program *p) {
    strbuf_add_format(out, "# fish completion for %s, written from its option tables\ncomplete -c %s -f\n",
                      p->name, p->name);
    fish_options(out, p->name, "", &p->options);
    for (size_t i = 0; i < p->count; i++) {
        const describe_command *c = &p->command[i];
        strbuf condition = {0};
        strbuf_add_format(&condition, " -n '__fish_seen_subcommand_from %s'", c->name);
        strbuf_add_format(out, "complete -c %s -n __fish_use_subcommand -a %s -d ", p->name, c->name);
        fish_quoted(out, c->summary);
        strbuf_add_string(out, "\n");
        fish_options(out, p->name, strbuf_text(&condition), &c->options);
        if (describe_is_choice(c->words)) {
            strbuf_add_format(out, "complete -c %s%s -a '", p->name, strbuf_text(&condition));
            add_words(out, c->words);
            strbuf_add_string(out, "'\n");
        } else if (describe_is_path(c->words)) {
            strbuf_add_format(out, "complete -c %s%s -F\n", p->name, strbuf_text(&condition));
        }
        strbuf_close(&condition);
    }
}

/* ---- roff ---- */

static void roff_text(strbuf *out, const char *text) {
    for (; *text; text++) {
        if (*text == '-') strbuf_add_string(out, "\\-");
        else if (*text == '\\') strbuf_add_string(out, "\\e");
        else if (*text == '"') strbuf_add_string(out, "\\(dq");
        else if (*text == '\'') strbuf_add_string(out, "\\(aq");
        else strbuf_add(out, text, 1);
    }
}

/* A help text begins small and has no full stop: as a sentence. A word that is a name keeps its first letter. */
static void roff_sentence(strbuf *out, const char *help) {
    size_t word = strcspn(help, " ,;:");
    bool name = memchr(help, '-', word) || memchr(help, ':', word) || memchr(help, '/', word) ||
                (help[0] && isupper((unsigned char)help[1]));
    char first[2] = {name ? help[0] : (char)toupper((unsigned char)help[0]), 0};
    if (*first == '.' || *first == '\'') strbuf_add_string(out, "\\&");
    roff_text(out, first);
    roff_text(out, *help ? help + 1 : "");
    strbuf_add_string(out, ".\n");
}

void describe_manual(strbuf *out, const describe_options *list) {
    for (size_t i = 0; i < list->count; i++) {
        const describe_option *o = &list->at[i];
        strbuf_add_format(out, ".TP\n.%s \\-\\-", o->value ? "BI" : "B");
        roff_text(out, o->name);
        if (o->value) {
            strbuf_add_string(out, " \" ");
            roff_text(out, o->value);
            strbuf_add_string(out, "\"");
        }
        strbuf_add_string(out, "\n");
        roff_sentence(out, o->help);
    }
}
