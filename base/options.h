/* Options of a program from one table: the command line, the environment, the config file and --help all read
 * the same rows, so that none of them can say something else than another.
 *
 * The command line wins over the environment (PREFIX_<NAME>, upper case, '_' for '-'), that over the config
 * file, that over the preset. Sources may be read in any order: each option remembers where its value came
 * from.
 *
 * Memory:  values point into what was read (argv, the environment, a config_file), which must outlive them.
 * Lists are freed by options_close. Threads: one. Errors:  ST_INVALID with a sentence that names the option
 * where it was given, the value and what is allowed, and for an unknown name the nearest one; ST_UNSUPPORTED
 * for what the contract has and this version has not. Values of the rows read before stay. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include "base/config_file.h"
#include "base/describe.h"
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What a value is, and the type of the field at `offset`. */
typedef enum option_kind {
    OPTION_FLAG,  /* bool; in a file or variable: true, false, yes, no, 1, 0 */
    OPTION_TEXT,  /* const char *, not empty */
    OPTION_WORD,  /* const char *: one of `words` */
    OPTION_TEXTS, /* option_texts: may repeat; commas separate several in a variable */
    OPTION_U32,   /* uint32_t */
    OPTION_BYTES, /* uint64_t: a number with KiB, MiB, GiB, TiB or nothing after it */
} option_kind;

enum {
    OPTIONS_MAX = 64,     /* rows of one table */
    OPTION_TEXTS_MAX = 64 /* values of one option */
};

typedef struct option_texts {
    const char **at;
    size_t count;
} option_texts;

typedef enum option_flags {
    OPTION_ARGUMENT_ONLY = 1, /* neither variable nor file: --help */
    OPTION_NOT_BUILT = 2,     /* in the contract, refused in this version */
    OPTION_OF_SECTION = 4,    /* may stand in a section of the config file */
    OPTION_NOT_IN_FILE = 8,   /* the file's own name */
} option_flags;

typedef struct option {
    const char *name; /* without dashes; also the key in the file */
    option_kind kind;
    unsigned flags;
    size_t offset;
    const char *value; /* how help writes the value: "N", "DIR"; NULL for flags */
    const char *unit;  /* "tokens", "seconds"; NULL: none */
    const char
        *preset; /* the default as it would be written; NULL: the field stays zero and help says more */
    uint64_t least, most;    /* OPTION_U32 and OPTION_BYTES, ends included; both 0: the type's own */
    const char *words;       /* "auto f32": allowed */
    const char *words_later; /* "q8 q4": in the contract, refused in this version; NULL: none */
    const char *help;
} option;

typedef enum option_source {
    OPTION_FROM_PRESET,
    OPTION_FROM_FILE,
    OPTION_FROM_VARIABLE,
    OPTION_FROM_ARGUMENT
} option_source;

typedef struct options {
    const option *row; /* [count] */
    size_t count;
    void *values;       /* the struct that offsets point into */
    const char *prefix; /* of environment variables: "GEMMAD" */
    option_source source[OPTIONS_MAX];
} options;

/* values must be zeroed; presets are written at once. */
void options_open(options *o, const option *row, size_t count, const char *prefix, void *values);
void options_close(options *o);

/* argv[1 … argc): "--name value", "--name=value", "--flag". Words that are no option are refused. */
STATUS_CHECKED status options_read_arguments(options *o, int argc, char **argv);
STATUS_CHECKED status options_read_environment(options *o);
/* The entries of one section; "" is the part above every section. In any other, only rows with
 * OPTION_OF_SECTION. */
STATUS_CHECKED status options_read_section(options *o, const config_file *file, const char *section);

/* The source of one option by its name, which must be in the table. */
option_source options_source(const options *o, const char *name);
/* "--name VALUE  help (unit; bounds; default)" of every row, wrapped. */
void options_print_help(FILE *out, const option *row, size_t count);
/* The same for completion and manual. */
void options_describe(describe_options *list, const option *row, size_t count);
/* A config file of every row that may stand in one: its help as comments, then "#name = default" (or what a value looks
 * like). */
void options_print_config(FILE *out, const option *row, size_t count);

#endif
