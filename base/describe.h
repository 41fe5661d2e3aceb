/* A program's command line as completion for a shell, or as entries of a manual page: written from the option tables, so
 * that neither can say something else than the program does.
 *
 * Memory:  lists own copies of their texts; describe_close releases them.
 * Threads: any. */
#ifndef BASE_DESCRIBE_H
#define BASE_DESCRIBE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/strbuf.h"

typedef struct describe_option {
    char *name; /* without dashes */
    char *
        value; /* "N"; "on|off": one of these words; with FILE, PATH, DIR or PROGRAM in it a path; NULL: a flag */
    char *help;
} describe_option;

typedef struct describe_options {
    describe_option *at; /* [count] */
    size_t count;
} describe_options;

typedef struct describe_command {
    const char *name, *summary;
    const char *
        words; /* behind the options: "add|list" to choose from, with FILE or DOCUMENT paths, "" or others: neither */
    describe_options options;
} describe_command;

typedef struct describe_program {
    const char *name;
    describe_options options;        /* of every command */
    const describe_command *command; /* [count]; none: a program without commands */
    size_t count;
} describe_program;

/* A name that is there already is left as it is. value may be NULL. */
void describe_add(describe_options *list, const char *name, const char *value, const char *help);
void describe_close(describe_options *list);

void describe_bash(strbuf *out, const describe_program *p);
void describe_zsh(strbuf *out, const describe_program *p);
void describe_fish(strbuf *out, const describe_program *p);
/* ".TP" entries in the order of the list. */
void describe_manual(strbuf *out, const describe_options *list);

/* What a value is, by the text above. */
bool describe_is_path(const char *value);
bool describe_is_choice(const char *value);

#endif
