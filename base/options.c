#include "base/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/byte_size.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "base/strbuf.h"

enum { NAME_MAX_BYTES = 64, HELP_LEFT = 30, HELP_WIDTH = 110 };

static size_t index_of(const options *o, const char *name, size_t n) {
    for (size_t i = 0; i < o->count; i++)
        if (strlen(o->row[i].name) == n && !memcmp(o->row[i].name, name, n)) return i;
    return o->count;
}

option_source options_source(const options *o, const char *name) {
    size_t i = index_of(o, name, strlen(name));
    INVARIANT(i < o->count);
    return o->source[i];
}

/* ---- unknown names ---- */

/* Letters to insert, drop or replace to come from one word to the other (Levenshtein). */
static size_t distance(const char *a, size_t a_size, const char *b) {
    size_t row[NAME_MAX_BYTES + 1], b_size = strlen(b);
    INVARIANT(b_size <= NAME_MAX_BYTES);
    for (size_t j = 0; j <= b_size; j++) row[j] = j;
    for (size_t i = 1; i <= a_size; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[b_size];
}

static status fail_unknown(const options *o, const char *where, const char *dashes, const char *name,
                           size_t n) {
    const char *nearest = NULL;
    size_t least = n / 3 > 2 ? n / 3 + 1 : 3;
    for (size_t i = 0; n <= NAME_MAX_BYTES && i < o->count; i++) {
        size_t d = distance(name, n, o->row[i].name);
        if (d >= least) continue;
        least = d;
        nearest = o->row[i].name;
    }
    if (nearest)
        return fail(ST_INVALID, "%sunknown option %s%.*s; did you mean %s%s?", where, dashes, (int)n, name,
                    dashes, nearest);
    return fail(ST_INVALID, "%sunknown option %s%.*s; --help lists them", where, dashes,
                (int)(n < 64 ? n : 64), name);
}

/* ---- values ---- */

static status read_flag(const char *what, const char *text, bool *out) {
    static const char *const words[] = {"false", "true", "no", "yes", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(text, words[i])) {
            *out = i % 2;
            return ST_OK;
        }
    return fail(ST_INVALID, "%s is \"%.64s\", allowed are true and false", what, text);
}

static status check_bounds(const option *row, const char *what, const char *text, uint64_t n,
                           uint64_t type_most) {
    bool bounded = row->least || row->most;
    uint64_t least = bounded ? row->least : 0, most = bounded ? row->most : type_most;
    if (n >= least && n <= most) return ST_OK;
    return fail(ST_INVALID, "%s is %.64s, allowed are %llu to %llu%s%s", what, text,
                (unsigned long long)least, (unsigned long long)most, row->unit ? " " : "",
                row->unit ? row->unit : "");
}

static status read_u32(const option *row, const char *what, const char *text, uint32_t *out) {
    char *end = NULL;
    errno = 0;
    /* Digits only: strtoull alone takes "-1", " 1" and "+1". */
    uint64_t n = text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (!end || *end) return fail(ST_INVALID, "%s: \"%.64s\" is not a whole number", what, text);
    if (errno) return fail(ST_INVALID, "%s is %.64s, which is too large", what, text);
    TRY(check_bounds(row, what, text, n, UINT32_MAX));
    *out = (uint32_t)n;
    return ST_OK;
}

static status read_bytes(const option *row, const char *what, const char *text, uint64_t *out) {
    uint64_t n;
    switch (byte_size_read(text, &n)) {
    case BYTE_SIZE_TOO_LARGE: return fail(ST_INVALID, "%s is %.64s, which is too large", what, text);
    case BYTE_SIZE_NOT_ONE:
        return fail(ST_INVALID, "%s: \"%.64s\" is not a number of bytes, KiB, MiB, GiB or TiB", what, text);
    case BYTE_SIZE_READ: break;
    }
    TRY(check_bounds(row, what, text, n, UINT64_MAX));
    *out = n;
    return ST_OK;
}

/* Whether a list "a b c" has the word. */
static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; at && *at; at += strspn(at, " ")) {
        size_t m = strcspn(at, " ");
        if (m == n && !memcmp(at, word, n)) return true;
        at += m;
    }
    return false;
}

static status read_word(const option *row, const char *what, const char *text, const char **out) {
    if (has_word(row->words_later, text))
        return fail(ST_UNSUPPORTED, "%s %s is not available in this version; allowed: %s", what, text,
                    row->words);
    if (!has_word(row->words, text))
        return fail(ST_INVALID, "%s is \"%.64s\"; allowed: %s", what, text, row->words);
    *out = text;
    return ST_OK;
}

static status add_text(const char *what, const char *text, option_texts *list) {
    if (list->count == OPTION_TEXTS_MAX)
        return fail(ST_INVALID, "%s is given more than %d times", what, OPTION_TEXTS_MAX);
    list->at = memory_grow(list->at, (list->count + 1) * sizeof *list->at);
    list->at[list->count++] = text;
    return ST_OK;
}

/* A stronger source replaces what a weaker one said; within one source, lists grow and all else is said once.
 */
static status set(options *o, size_t i, option_source from, const char *what, const char *text) {
    const option *row = &o->row[i];
    void *field = (char *)o->values + row->offset;
    if (row->flags & OPTION_NOT_BUILT)
        return fail(ST_UNSUPPORTED, "%s is not available in this version", what);
    if (o->source[i] > from) return ST_OK;
    bool again = o->source[i] == from && from != OPTION_FROM_PRESET;
    if (again && row->kind != OPTION_TEXTS && row->kind != OPTION_FLAG)
        return fail(ST_INVALID, "%s is given twice", what);
    if (row->kind != OPTION_FLAG && !*text) return fail(ST_INVALID, "%s is empty", what);
    switch (row->kind) {
    case OPTION_FLAG: TRY(read_flag(what, text, field)); break;
    case OPTION_TEXT: *(const char **)field = text; break;
    case OPTION_WORD: TRY(read_word(row, what, text, field)); break;
    case OPTION_U32: TRY(read_u32(row, what, text, field)); break;
    case OPTION_BYTES: TRY(read_bytes(row, what, text, field)); break;
    case OPTION_TEXTS:
        if (!again) ((option_texts *)field)->count = 0;
        TRY(add_text(what, text, field));
        break;
    }
    o->source[i] = from;
    return ST_OK;
}

void options_open(options *o, const option *row, size_t count, const char *prefix, void *values) {
    INVARIANT(count <= OPTIONS_MAX);
    *o = (options){.row = row, .count = count, .values = values, .prefix = prefix};
    for (size_t i = 0; i < count; i++) {
        INVARIANT(strlen(row[i].name) <= NAME_MAX_BYTES);
        status st = row[i].preset ? set(o, i, OPTION_FROM_PRESET, row[i].name, row[i].preset) : ST_OK;
        INVARIANT(st == ST_OK);
    }
}

void options_close(options *o) {
    for (size_t i = 0; i < o->count; i++) {
        if (o->row[i].kind != OPTION_TEXTS) continue;
        option_texts *list = (option_texts *)(void *)((char *)o->values + o->row[i].offset);
        free(list->at);
        *list = (option_texts){0};
    }
}

/* ---- sources ---- */

static status read_argument(options *o, int argc, char **argv, int *at) {
    const char *word = argv[*at], *equals = strchr(word, '='), *value;
    if (word[0] != '-' || word[1] != '-' || !word[2])
        return fail(ST_INVALID, "unexpected argument \"%.64s\"; --help lists the options", word);
    const char *name = word + 2;
    size_t n = equals ? (size_t)(equals - name) : strlen(name), i = index_of(o, name, n);
    if (i == o->count) return fail_unknown(o, "", "--", name, n);
    char what[NAME_MAX_BYTES + 3];
    snprintf(what, sizeof what, "--%s", o->row[i].name);
    if (equals) {
        value = equals + 1;
    } else if (o->row[i].kind == OPTION_FLAG) {
        value = "true";
    } else {
        if (*at + 1 == argc) return fail(ST_INVALID, "%s needs a value: %s %s", what, what, o->row[i].value);
        value = argv[++*at];
    }
    return set(o, i, OPTION_FROM_ARGUMENT, what, value);
}

status options_read_arguments(options *o, int argc, char **argv) {
    for (int at = 1; at < argc; at++) TRY(read_argument(o, argc, argv, &at));
    return ST_OK;
}

/* Separated by commas; the pieces live as long as the process, as the environment's own strings do. */
static status set_list(options *o, size_t i, const char *what, const char *text) {
    static char *kept[OPTIONS_MAX]; /* reachable for leak checkers */
    free(kept[i]);
    char *rest = NULL;
    kept[i] = memory_copy_string(text);
    for (char *piece = strtok_r(kept[i], ",", &rest); piece; piece = strtok_r(NULL, ",", &rest))
        TRY(set(o, i, OPTION_FROM_VARIABLE, what, piece));
    return ST_OK;
}

status options_read_environment(options *o) {
    for (size_t i = 0; i < o->count; i++) {
        char name[2 * NAME_MAX_BYTES];
        if (o->row[i].flags & OPTION_ARGUMENT_ONLY) continue;
        int n = snprintf(name, sizeof name, "%s_%s", o->prefix, o->row[i].name);
        INVARIANT(n > 0 && (size_t)n < sizeof name);
        for (char *p = name; *p; p++) *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
        const char *value = getenv(name);
        /* An empty variable is how scripts unset one. */
        if (!value || !*value) continue;
        TRY(o->row[i].kind == OPTION_TEXTS ? set_list(o, i, name, value)
                                           : set(o, i, OPTION_FROM_VARIABLE, name, value));
    }
    return ST_OK;
}

status options_read_section(options *o, const config_file *file, const char *section) {
    for (size_t k = 0; k < file->count; k++) {
        const config_entry *e = &file->entry[k];
        if (strcmp(e->section, section) != 0 || !*e->key) continue;
        char where[512], what[640];
        snprintf(where, sizeof where, "%.480s:%u: ", file->name, e->line);
        size_t i = index_of(o, e->key, strlen(e->key));
        if (i == o->count) return fail_unknown(o, where, "", e->key, strlen(e->key));
        snprintf(what, sizeof what, "%s%s", where, e->key);
        if (o->row[i].flags & (OPTION_ARGUMENT_ONLY | OPTION_NOT_IN_FILE))
            return fail(ST_INVALID, "%s is no option of a file", what);
        if (*section && !(o->row[i].flags & OPTION_OF_SECTION))
            return fail(ST_INVALID, "%s is an option of the whole daemon and stands in [%.64s]", what,
                        section);
        TRY(set(o, i, OPTION_FROM_FILE, what, e->value));
    }
    return ST_OK;
}

/* ---- help ---- */

/* Bytes in the largest unit that leaves them whole. */
static void add_number(strbuf *b, const option *row, uint64_t n) {
    static const char *const units[] = {"", " KiB", " MiB", " GiB", " TiB"};
    unsigned u = 0;
    for (; row->kind == OPTION_BYTES && n && n % 1024 == 0 && u < 4; u++) n /= 1024;
    strbuf_add_format(b, "%llu%s", (unsigned long long)n, units[u]);
}

static void add_facts(strbuf *b, const option *row) {
    const char *between = " (";
    if (row->flags & OPTION_NOT_BUILT)
        strbuf_add_format(b, "%snot available in this version", between), between = "; ";
    if (row->unit) strbuf_add_format(b, "%s%s", between, row->unit), between = "; ";
    if (row->least || row->most) {
        strbuf_add_string(b, between);
        add_number(b, row, row->least);
        strbuf_add_string(b, " to ");
        add_number(b, row, row->most);
        between = "; ";
    }
    if (row->words_later)
        strbuf_add_format(b, "%snot available in this version: %s", between, row->words_later),
            between = "; ";
    if (row->preset) strbuf_add_format(b, "%sdefault %s", between, row->preset), between = "; ";
    if (*between == ';') strbuf_add_string(b, ")");
}

/* Words from *text until the line is full; moves *text on. */
static void print_line(FILE *out, const char **text, size_t room) {
    size_t n = strlen(*text);
    if (n > room) {
        n = room;
        while (n > 0 && (*text)[n] != ' ') n--;
        if (n == 0) n = strcspn(*text, " ");
    }
    fprintf(out, "%.*s\n", (int)n, *text);
    *text += n;
    *text += strspn(*text, " ");
}

/* How help writes a value: its name, or the words to choose from; NULL for flags. */
static const char *value_of(const option *row, char *alternatives, size_t size) {
    if (row->value || !row->words) return row->value;
    snprintf(alternatives, size, "%s", row->words);
    for (char *p = alternatives; *p; p++) *p = *p == ' ' ? '|' : *p;
    return alternatives;
}

void options_describe(describe_options *list, const option *row, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char alternatives[64];
        strbuf help = {0};
        strbuf_add_string(&help, row[i].help);
        add_facts(&help, &row[i]);
        describe_add(list, row[i].name, value_of(&row[i], alternatives, sizeof alternatives),
                     strbuf_text(&help));
        strbuf_close(&help);
    }
}

void options_print_help(FILE *out, const option *row, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char left[128], alternatives[64];
        const char *value = value_of(&row[i], alternatives, sizeof alternatives);
        snprintf(left, sizeof left, "  --%s%s%s", row[i].name, value ? " " : "", value ? value : "");
        strbuf help = {0};
        strbuf_add_string(&help, row[i].help);
        add_facts(&help, &row[i]);
        const char *text = strbuf_text(&help);
        fprintf(out, "%-*s", HELP_LEFT, left);
        if (strlen(left) >= HELP_LEFT) fprintf(out, "\n%*s", HELP_LEFT, "");
        print_line(out, &text, HELP_WIDTH - HELP_LEFT);
        while (*text) {
            fprintf(out, "%*s", HELP_LEFT, "");
            print_line(out, &text, HELP_WIDTH - HELP_LEFT);
        }
        strbuf_close(&help);
    }
}

void options_print_config(FILE *out, const option *row, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (row[i].flags & (OPTION_ARGUMENT_ONLY | OPTION_NOT_IN_FILE | OPTION_NOT_BUILT)) continue;
        strbuf help = {0};
        strbuf_add_string(&help, row[i].help);
        add_facts(&help, &row[i]);
        for (const char *text = strbuf_text(&help); *text;) {
            fputs("# ", out);
            print_line(out, &text, HELP_WIDTH - 2);
        }
        strbuf_close(&help);
        const char *value = row[i].preset  ? row[i].preset
                            : row[i].value ? row[i].value
                            : row[i].words ? row[i].words
                                           : "";
        fprintf(out, "#%s = %s\n\n", row[i].name, row[i].kind == OPTION_FLAG ? "true" : value);
    }
}
