#include "ctl/args.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "proto/limits.h"

/* A whole number in decimal, sign only where the type has one: strtoull alone takes "-1", " 1" and "0x1". */
static status read_whole(const char *what, const char *text, int64_t least, uint64_t most, bool *negative,
                         uint64_t *magnitude) {
    const char *digits = text;
    *negative = least < 0 && *digits == '-';
    if (*negative) digits++;
    char *end = NULL;
    errno = 0;
    *magnitude = *digits >= '0' && *digits <= '9' ? strtoull(digits, &end, 10) : 0;
    if (!end || *end) return fail(ST_INVALID, "%s: \"%s\" is not a whole number", what, text);
    uint64_t bound = *negative ? (uint64_t) - (least + 1) + 1 : most;
    bool below = !*negative && least > 0 && *magnitude < (uint64_t)least;
    if (errno == ERANGE || *magnitude > bound || below)
        return fail(ST_INVALID, "%s is %s, allowed are %lld to %llu", what, text, (long long)least,
                    (unsigned long long)most);
    return ST_OK;
}

static status read_unsigned(const char *what, const char *text, uint64_t least, uint64_t most,
                            uint64_t *out) {
    bool negative;
    return read_whole(what, text, (int64_t)least, most, &negative, out);
}

static status read_float(const char *what, const char *text, double least, double most, float *out) {
    char *end = NULL;
    double value = *text ? strtod(text, &end) : 0;
    if (!end || *end || text[strspn(text, "+-.0123456789eE")])
        return fail(ST_INVALID, "%s: \"%s\" is not a number", what, text);
    if (!isfinite((float)value)) return fail(ST_INVALID, "%s is %s, which is no finite number", what, text);
    if ((least != 0 || most != 0) && (value < least || value > most))
        return fail(ST_INVALID, "%s is %s, allowed are %g to %g", what, text, least, most);
    *out = (float)value;
    return ST_OK;
}

status args_read_ids(const char *what, const char *text, arg_ids *out) {
    static const char between[] = ", \t\r\n";
    size_t capacity = 0;
    out->set = true;
    for (const char *at = text + strspn(text, between); *at; at += strspn(at, between)) {
        char number[24];
        size_t n = strcspn(at, between);
        if (n >= sizeof number) return fail(ST_INVALID, "%s: \"%.24s…\" is not a token id", what, at);
        memcpy(number, at, n);
        number[n] = 0;
        uint64_t id;
        TRY(read_unsigned(what, number, 0, UINT32_MAX, &id));
        if (out->count == LIMIT_CONTEXT_TOKENS)
            return fail(ST_INVALID, "%s: more than %d token ids", what, LIMIT_CONTEXT_TOKENS);
        if (out->count == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            out->at = memory_grow(out->at, capacity * sizeof *out->at);
        }
        out->at[out->count++] = (uint32_t)id;
        at += n;
    }
    return ST_OK;
}

static status read_bias(const char *what, const char *text, arg_bias *out) {
    const char *equals = strchr(text, '=');
    char number[24];
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof number)
        return fail(ST_INVALID, "%s: \"%s\" is not ID=BIAS", what, text);
    memcpy(number, text, (size_t)(equals - text));
    number[equals - text] = 0;
    uint64_t id;
    float bias;
    TRY(read_unsigned(what, number, 0, UINT32_MAX, &id));
    TRY(read_float(what, equals + 1, 0, 0, &bias));
    if (out->count == LIMIT_LOGIT_BIAS) return fail(ST_INVALID, "%s: more than %d", what, LIMIT_LOGIT_BIAS);
    out->at = memory_grow(out->at, (out->count + 1) * sizeof *out->at);
    out->at[out->count++] = (arg_bias_entry){(uint32_t)id, bias};
    return ST_OK;
}

static status refuse_twice(const char *what, bool set) {
    return set ? fail(ST_INVALID, "%s is given twice", what) : ST_OK;
}

static status check_word(const char *what, const char *text, const char *allowed) {
    size_t n = strlen(text);
    for (const char *at = allowed; *at; at += *at == '|') {
        size_t width = strcspn(at, "|");
        if (n == width && !memcmp(at, text, n)) return ST_OK;
        at += width;
    }
    return fail(ST_INVALID, "%s is \"%s\", allowed are %s", what, text, allowed);
}

static status store(const arg_option *o, const char *what, const char *text, void *field) {
    bool bounded = o->least != 0 || o->most != 0;
    uint64_t number;
    bool negative;
    switch (o->kind) {
    case ARG_FLAG: *(bool *)field = true; return ST_OK;
    case ARG_WORD: TRY(check_word(what, text, o->value)); /* fall through */
    case ARG_TEXT:
        TRY(refuse_twice(what, *(const char **)field));
        *(const char **)field = text;
        return ST_OK;
    case ARG_TEXTS: {
        arg_texts *texts = field;
        texts->at = memory_grow(texts->at, (texts->count + 1) * sizeof *texts->at);
        texts->at[texts->count++] = text;
        return ST_OK;
    }
    case ARG_U32: {
        arg_u32 *out = field;
        TRY(refuse_twice(what, out->set));
        TRY(read_unsigned(what, text, (uint64_t)o->least, bounded ? (uint64_t)o->most : UINT32_MAX, &number));
        *out = (arg_u32){true, (uint32_t)number};
        return ST_OK;
    }
    case ARG_U64: {
        arg_u64 *out = field;
        TRY(refuse_twice(what, out->set));
        TRY(read_unsigned(what, text, (uint64_t)o->least, bounded ? (uint64_t)o->most : UINT64_MAX, &number));
        *out = (arg_u64){true, number};
        return ST_OK;
    }
    case ARG_I32: {
        arg_i32 *out = field;
        TRY(refuse_twice(what, out->set));
        TRY(read_whole(what, text, bounded ? (int64_t)o->least : INT32_MIN,
                       bounded ? (uint64_t)o->most : INT32_MAX, &negative, &number));
        *out = (arg_i32){true, (int32_t)(negative ? -(int64_t)number : (int64_t)number)};
        return ST_OK;
    }
    case ARG_FLOAT: {
        arg_float *out = field;
        TRY(refuse_twice(what, out->set));
        TRY(read_float(what, text, o->least, o->most, &out->value));
        out->set = true;
        return ST_OK;
    }
    case ARG_IDS: TRY(refuse_twice(what, ((arg_ids *)field)->set)); return args_read_ids(what, text, field);
    case ARG_BIAS: return read_bias(what, text, field);
    }
    return fail(ST_INTERNAL, "%s is of an unknown kind", what);
}

static const arg_option *find(const arg_table *tables, size_t table_count, const char *name, size_t n,
                              void **field) {
    for (size_t t = 0; t < table_count; t++)
        for (size_t i = 0; i < tables[t].count; i++) {
            const arg_option *o = &tables[t].option[i];
            if (strlen(o->name) != n || memcmp(o->name, name, n)) continue;
            *field = (char *)tables[t].values + o->offset;
            return o;
        }
    return NULL;
}

/* argv[*at] begins with "--"; its value may be the next word, which is then passed over. */
static status read_option(int argc, char **argv, int *at, const arg_table *tables, size_t table_count) {
    const char *word = argv[*at], *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    void *field;
    const arg_option *o = find(tables, table_count, word + 2, length - 2, &field);
    if (!o) return fail(ST_INVALID, "unknown option %.*s", (int)length, word);
    const char *value = NULL;
    char what[64];
    snprintf(what, sizeof what, "--%s", o->name);
    if (o->kind == ARG_FLAG) {
        if (equals) return fail(ST_INVALID, "%s takes no value", what);
    } else if (equals) {
        value = equals + 1;
    } else {
        if (*at + 1 == argc) return fail(ST_INVALID, "%s needs a value: %s %s", what, what, o->value);
        value = argv[++*at];
    }
    return store(o, what, value, field);
}

status args_read(int argc, char **argv, int first, const arg_table *tables, size_t table_count,
                 bool stop_at_word, arg_words *words, int *next) {
    int at = first;
    bool only_words = false;
    for (; at < argc; at++) {
        const char *word = argv[at];
        bool option = !only_words && word[0] == '-' && word[1];
        if (!option) {
            if (stop_at_word) break;
            words->at[words->count++] = argv[at];
        } else if (!strcmp(word, "--")) {
            only_words = true;
        } else if (word[1] != '-') {
            /* The one short option that everyone tries. */
            if (strcmp(word, "-h")) return fail(ST_INVALID, "unknown option %s", word);
            char help[] = "--help", *one[] = {help};
            int zero = 0;
            TRY(read_option(1, one, &zero, tables, table_count));
        } else {
            TRY(read_option(argc, argv, &at, tables, table_count));
        }
    }
    *next = at;
    return ST_OK;
}

void args_close(const arg_table *table) {
    for (size_t i = 0; i < table->count; i++) {
        void *field = (char *)table->values + table->option[i].offset;
        if (table->option[i].kind == ARG_TEXTS) free(((arg_texts *)field)->at);
        if (table->option[i].kind == ARG_IDS) free(((arg_ids *)field)->at);
        if (table->option[i].kind == ARG_BIAS) free(((arg_bias *)field)->at);
    }
}

void args_print_help(FILE *out, const arg_option *option, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", option[i].name, option[i].value ? " " : "",
                 option[i].value ? option[i].value : "");
        fprintf(out, "  %-28s %s\n", left, option[i].help);
    }
}
