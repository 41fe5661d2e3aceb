/* The option table of a program: one row an option with its name, kind, unit, default, bounds and help text. The command
 * line, the environment, the configuration file, --help and the man page all come from it, so they cannot disagree.
 *
 *     --ranks 4, --ranks=4          command line; "--" ends the options
 *     GEMMAD_RANKS=4                environment: PREFIX_ and the name in capitals, "-" as "_"
 *     ranks = 4                     file; "#" begins a comment line; [model NAME] begins the options of one model
 *
 * The command line wins, then the environment, then the file; in the file a model's own section wins over the lines
 * before the first section. A source that gives an option replaces what weaker sources say, also of one that repeats.
 *
 * Memory:  a set owns its values; options_close releases them. Texts handed out live as long as the set.
 * Threads: one.
 * Errors:  ST_INVALID with the option, its value and what is allowed (in a file also the line). A set that failed to
 *          read may only be closed. Asking for a name that is not in the table is an INVARIANT. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "base/strbuf.h"

typedef enum option_kind {
    OPTION_TEXT,
    OPTION_NUMBER, /* decimal, least to most */
    OPTION_BYTES,  /* decimal with an optional KiB, MiB, GiB or TiB (also K, M, G, T), least to most */
    OPTION_CHOICE, /* one of `choices` */
    OPTION_FLAG,   /* stands alone on the command line, or --name=yes|no; yes, no, true, false, 1, 0 elsewhere */
} option_kind;

/* Where an option may stand, and how often. */
enum {
    OPTION_REPEATS = 1,      /* several values; one from the environment */
    OPTION_PER_MODEL = 2,    /* also in a [model NAME] section */
    OPTION_COMMAND_LINE = 4, /* command line only: what makes sense for one run */
    OPTION_UNBUILT = 8,      /* in the contract, and refused by this version unless it is the default */
};

typedef struct option_row {
    const char *name;
    option_kind kind;
    unsigned where;
    const char *value;    /* how help calls it: "N", "PATH"; NULL for a flag */
    const char *unit;     /* "tokens", "s", "bytes"; NULL: none */
    const char *fallback; /* the default's own spelling; NULL: none */
    uint64_t least, most; /* of numbers and bytes */
    const char *choices;  /* "cpu|cuda" */
    const char *help;     /* a sentence without a full stop; says what the default means where `fallback` cannot */
} option_row;

typedef struct option_table {
    const char *program;
    const char *usage;      /* "--model [NAME=]PATH [OPTION...]" */
    const char *prefix;     /* of the environment: "GEMMAD"; NULL: none is read */
    const char *purpose;    /* one line */
    const option_row *row;  /* [count] */
    uint32_t count;
    uint32_t arguments_max; /* words on the command line that are no options */
} option_table;

typedef struct option_set option_set;

void options_open(option_set **out, const option_table *table);
void options_close(option_set *s); /* NULL is fine */

/* In any order; argv without the program's name. */
STATUS_CHECKED status options_read_arguments(option_set *s, int argc, char *const *argv);
STATUS_CHECKED status options_read_environment(option_set *s, char *const *environment);
STATUS_CHECKED status options_read_file(option_set *s, const char *path);
/* From bytes: what the fuzz target calls. */
STATUS_CHECKED status options_parse_file(option_set *s, const char *path, const char *text, size_t n);
/* ST_UNSUPPORTED with the names of what was given of OPTION_UNBUILT and is not the default. */
STATUS_CHECKED status options_check_built(const option_set *s);

/* model NULL: no section is looked at. The fallback counts as given for these four. */
const char *options_text(const option_set *s, const char *name, const char *model); /* NULL: neither given nor fallback */
uint64_t options_number(const option_set *s, const char *name, const char *model);  /* also bytes; 0 as above */
bool options_flag(const option_set *s, const char *name, const char *model);
bool options_given(const option_set *s, const char *name, const char *model);       /* the fallback does not count */

/* Values of one that repeats, from its strongest source. */
uint32_t options_count(const option_set *s, const char *name);
const char *options_value(const option_set *s, const char *name, uint32_t i);
/* The words that are no options. */
uint32_t options_argument_count(const option_set *s);
const char *options_argument(const option_set *s, uint32_t i);
/* The [model NAME] sections of the file in its order, and a value that stands in one; NULL: it does not. */
uint32_t options_section_count(const option_set *s);
const char *options_section_name(const option_set *s, uint32_t i);
const char *options_section_text(const option_set *s, const char *model, const char *name);

/* --help, and the OPTIONS section of the man page (roff), both from the table. */
void options_print_help(const option_table *table, strbuf *out);
void options_print_man(const option_table *table, strbuf *out);

#endif
