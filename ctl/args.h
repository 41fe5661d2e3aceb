/* Reading gemmactl's command line from tables: each command has one table of its options, and its help comes from it.
 *
 * Memory:  texts point into argv; lists are allocated, and args_close releases those of a table.
 * Threads: main thread.
 * Errors:  ST_INVALID with a sentence that names the option, the value and what is allowed. */
#ifndef CTL_ARGS_H
#define CTL_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "base/status.h"

/* What an option's value is, and the type of the field it is written to. */
typedef enum arg_kind {
    ARG_FLAG,  /* bool */
    ARG_TEXT,  /* const char *, NULL when absent */
    ARG_TEXTS, /* arg_texts: may repeat */
    ARG_WORD,  /* const char *: one of those that `value` has, as "on|off" */
    ARG_U32,   /* arg_u32 */
    ARG_U64,   /* arg_u64 */
    ARG_I32,   /* arg_i32 */
    ARG_FLOAT, /* arg_float */
    ARG_IDS,   /* arg_ids: 1,2,3 */
    ARG_BIAS,  /* arg_bias: ID=BIAS, may repeat */
} arg_kind;

typedef struct arg_texts { const char **at; size_t count; } arg_texts;
typedef struct arg_u32 { bool set; uint32_t value; } arg_u32;
typedef struct arg_u64 { bool set; uint64_t value; } arg_u64;
typedef struct arg_i32 { bool set; int32_t value; } arg_i32;
typedef struct arg_float { bool set; float value; } arg_float;
typedef struct arg_ids { bool set; uint32_t *at; size_t count; } arg_ids;
typedef struct arg_bias_entry { uint32_t token_id; float bias; } arg_bias_entry;
typedef struct arg_bias { arg_bias_entry *at; size_t count; } arg_bias;

typedef struct arg_option {
    const char *name;  /* without the dashes */
    arg_kind kind;
    const char *value; /* how help writes it: "N", "SECONDS"; NULL for flags */
    size_t offset;     /* of the field in the command's struct */
    double least, most; /* ARG_FLOAT, ARG_I32, ARG_U32, ARG_U64, ends included; both 0: the type's own bounds */
    const char *help;
} arg_option;

typedef struct arg_table {
    const arg_option *option;
    size_t count;
    void *values; /* the struct that the offsets point into, zeroed by the caller */
} arg_table;

typedef struct arg_words { char **at; size_t count; } arg_words;

/* Reads argv[first … argc) with the tables; the first that knows a name wins. What is no option goes to *words (an
 * array of argc entries, the caller's) in order. With stop_at_word, reading ends at the first word, and *next is its
 * index. "--" makes the rest words. */
STATUS_CHECKED status args_read(int argc, char **argv, int first, const arg_table *tables, size_t table_count,
                                bool stop_at_word, arg_words *words, int *next);

void args_close(const arg_table *table);

/* "1,2 3": commas, spaces and line ends between numbers. `what` is for the message. */
STATUS_CHECKED status args_read_ids(const char *what, const char *text, arg_ids *out);

void args_print_help(FILE *out, const arg_option *option, size_t count);

#endif
