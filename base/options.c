#include "base/options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/memory.h"

enum {
    FILE_BYTES_MAX = 1 << 20,
    SECTIONS_MAX = 64,
    WORD_SHOWN = 200, /* of a value in a message */
};

/* Strongest last. */
typedef enum source { FROM_FILE, FROM_SECTION, FROM_ENVIRONMENT, FROM_ARGUMENTS, SOURCES } source;

typedef struct given {
    uint32_t row;
    source from;
    uint32_t section; /* of FROM_SECTION */
    char *text;
    uint64_t number;
} given;

struct option_set {
    const option_table *table;
    given *value; /* [count] */
    uint32_t count, capacity;
    char *section[SECTIONS_MAX];
    uint32_t section_count;
    const char **argument;
    uint32_t argument_count;
};

void options_open(option_set **out, const option_table *table) {
    *out = memory_alloc(sizeof **out);
    (*out)->table = table;
    (*out)->argument = memory_alloc_array(table->arguments_max + 1, sizeof *(*out)->argument);
}

void options_close(option_set *s) {
    if (!s) return;
    for (uint32_t i = 0; i < s->count; i++) free(s->value[i].text);
    for (uint32_t i = 0; i < s->section_count; i++) free(s->section[i]);
    free(s->value);
    free(s->argument);
    free(s);
}

/* ---- one value ---- */

static bool read_decimal(const char **text, uint64_t *out) {
    const char *p = *text;
    if (!isdigit((unsigned char)*p)) return false;
    for (*out = 0; isdigit((unsigned char)*p); p++) {
        if (*out > (UINT64_MAX - (uint64_t)(*p - '0')) / 10) return false;
        *out = *out * 10 + (uint64_t)(*p - '0');
    }
    *text = p;
    return true;
}

static bool read_number(const option_row *r, const char *text, uint64_t *out) {
    if (!read_decimal(&text, out)) return false;
    if (r->kind == OPTION_BYTES && *text) {
        static const char letters[] = "KMGT";
        const char *letter = strchr(letters, toupper((unsigned char)*text));
        unsigned shift = letter ? (unsigned)(letter - letters + 1) * 10 : 0;
        if (!letter || *out > UINT64_MAX >> shift) return false;
        *out <<= shift;
        text++;
        if (!strcmp(text, "iB")) text += 2;
    }
    return *text == 0 && *out >= r->least && *out <= r->most;
}

static bool is_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (const char *p = choices; n > 0; p = strchr(p, '|') + 1) {
        if (!strncmp(p, text, n) && (p[n] == '|' || p[n] == 0)) return true;
        if (!strchr(p, '|')) break;
    }
    return false;
}

static bool read_flag(const char *text, uint64_t *out) {
    *out = is_choice("yes|true|on|1", text);
    return *out || is_choice("no|false|off|0", text);
}

static status check_value(const option_row *r, const char *spelled, const char *text, uint64_t *number) {
    *number = 0;
    switch (r->kind) {
    case OPTION_TEXT:
        if (!text[0]) return fail(ST_INVALID, "%s is empty", spelled);
        return ST_OK;
    case OPTION_NUMBER:
        if (read_number(r, text, number)) return ST_OK;
        return fail(ST_INVALID, "%s is \"%.*s\", allowed are whole numbers from %llu to %llu", spelled, WORD_SHOWN,
                    text, (unsigned long long)r->least, (unsigned long long)r->most);
    case OPTION_BYTES:
        if (read_number(r, text, number)) return ST_OK;
        return fail(ST_INVALID, "%s is \"%.*s\", allowed are sizes such as 40GiB, from %llu to %llu bytes", spelled,
                    WORD_SHOWN, text, (unsigned long long)r->least, (unsigned long long)r->most);
    case OPTION_CHOICE:
        if (is_choice(r->choices, text)) return ST_OK;
        return fail(ST_INVALID, "%s is \"%.*s\", allowed are %s", spelled, WORD_SHOWN, text, r->choices);
    case OPTION_FLAG:
        if (read_flag(text, number)) return ST_OK;
        return fail(ST_INVALID, "%s is \"%.*s\", allowed are yes and no", spelled, WORD_SHOWN, text);
    }
    return fail(ST_INTERNAL, "%s is of no kind", spelled);
}

/* The last of several from one source wins unless the option repeats: scripts append what they override. */
static status add_value(option_set *s, uint32_t row, source from, const char *spelled, const char *text) {
    const option_row *r = &s->table->row[row];
    uint64_t number;
    TRY(check_value(r, spelled, text, &number));
    uint32_t section = from == FROM_SECTION ? s->section_count - 1 : 0;
    for (uint32_t i = 0; i < s->count && !(r->where & OPTION_REPEATS); i++) {
        given *v = &s->value[i];
        if (v->row != row || v->from != from || v->section != section) continue;
        if (from != FROM_ARGUMENTS) return fail(ST_INVALID, "%s is given twice", spelled);
        free(v->text);
        v->text = memory_copy_string(text);
        v->number = number;
        return ST_OK;
    }
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 32;
        s->value = memory_grow(s->value, s->capacity * sizeof *s->value);
    }
    s->value[s->count++] = (given){
        .row = row, .from = from, .section = section, .text = memory_copy_string(text), .number = number};
    return ST_OK;
}

/* ---- names ---- */

static bool find_row(const option_table *t, const char *name, size_t n, uint32_t *row) {
    for (*row = 0; *row < t->count; ++*row)
        if (strlen(t->row[*row].name) == n && !memcmp(t->row[*row].name, name, n)) return true;
    return false;
}

static uint32_t least_of(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* Insertions, deletions and substitutions between two short words. */
static uint32_t edit_distance(const char *a, size_t n, const char *b) {
    uint32_t line[65];
    size_t m = strlen(b);
    if (n > 64 || m > 64) return UINT32_MAX;
    for (size_t j = 0; j <= m; j++) line[j] = (uint32_t)j;
    for (size_t i = 1; i <= n; i++) {
        uint32_t diagonal = line[0];
        line[0] = (uint32_t)i;
        for (size_t j = 1; j <= m; j++) {
            uint32_t above = line[j];
            line[j] = least_of(diagonal + (a[i - 1] != b[j - 1]), above + 1, line[j - 1] + 1);
            diagonal = above;
        }
    }
    return line[m];
}

static status unknown_name(const option_set *s, const char *where, const char *dashes, const char *name, size_t n) {
    const option_table *t = s->table;
    const char *best = NULL;
    uint32_t best_distance = 3;
    for (uint32_t i = 0; i < t->count; i++) {
        uint32_t d = edit_distance(name, n, t->row[i].name);
        if (d < best_distance) best_distance = d, best = t->row[i].name;
    }
    int shown = n > WORD_SHOWN ? WORD_SHOWN : (int)n;
    if (best)
        return fail(ST_INVALID, "%sunknown option %s%.*s: do you mean %s%s?", where, dashes, shown, name, dashes, best);
    return fail(ST_INVALID, "%sunknown option %s%.*s: %s --help lists them", where, dashes, shown, name, t->program);
}

/* ---- the three sources ---- */

static status read_option(option_set *s, const char *word, const char *next, bool *took_next) {
    const char *name = word + 2, *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    uint32_t row;
    if (!find_row(s->table, name, n, &row)) return unknown_name(s, "", "--", name, n);
    const option_row *r = &s->table->row[row];
    char spelled[80];
    snprintf(spelled, sizeof spelled, "--%s", r->name);
    *took_next = r->kind != OPTION_FLAG && !equals;
    if (*took_next && !next) return fail(ST_INVALID, "--%s needs a value: --%s %s", r->name, r->name, r->value);
    return add_value(s, row, FROM_ARGUMENTS, spelled, equals ? equals + 1 : *took_next ? next : "yes");
}

status options_read_arguments(option_set *s, int argc, char *const *argv) {
    bool options = true;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (options && !strcmp(word, "--")) {
            options = false;
        } else if (options && !strcmp(word, "-h")) {
            TRY(options_read_arguments(s, 1, (char *const[]){(char[]){"--help"}}));
        } else if (options && word[0] == '-' && word[1] == '-') {
            bool took_next = false;
            TRY(read_option(s, word, i + 1 < argc ? argv[i + 1] : NULL, &took_next));
            i += took_next;
        } else if (options && word[0] == '-' && word[1]) {
            return fail(ST_INVALID, "unknown option %.*s: %s --help lists them", WORD_SHOWN, word, s->table->program);
        } else if (s->argument_count == s->table->arguments_max) {
            return fail(ST_INVALID, "\"%.*s\" is no option: %s --help lists them", WORD_SHOWN, word, s->table->program);
        } else {
            s->argument[s->argument_count++] = word;
        }
    }
    return ST_OK;
}

static void variable_name(const option_table *t, const option_row *r, char *out, size_t size) {
    int n = snprintf(out, size, "%s_%s", t->prefix, r->name);
    INVARIANT(n > 0 && (size_t)n < size);
    for (char *p = out; *p; p++) *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

/* Variables that are no option are none of our business: a program's own switches have the same prefix. */
status options_read_environment(option_set *s, char *const *environment) {
    const option_table *t = s->table;
    char name[80];
    for (uint32_t i = 0; t->prefix && i < t->count; i++) {
        if (t->row[i].where & OPTION_COMMAND_LINE) continue;
        variable_name(t, &t->row[i], name, sizeof name);
        size_t n = strlen(name);
        for (char *const *p = environment; *p; p++)
            if (!strncmp(*p, name, n) && (*p)[n] == '=' && (*p)[n + 1])
                TRY(add_value(s, i, FROM_ENVIRONMENT, name, *p + n + 1));
    }
    return ST_OK;
}

static char *trim(char *text) {
    while (isspace((unsigned char)*text)) text++;
    size_t n = strlen(text);
    while (n > 0 && isspace((unsigned char)text[n - 1])) n--;
    text[n] = 0;
    return text;
}

static status read_section(option_set *s, const char *where, char *line) {
    size_t n = strlen(line);
    if (line[n - 1] != ']' || strncmp(line, "[model", 6) != 0 || !isspace((unsigned char)line[6]))
        return fail(ST_INVALID, "%s: \"%.*s\" is no section: [model NAME] is the only kind", where, WORD_SHOWN, line);
    line[n - 1] = 0;
    char *name = trim(line + 6);
    if (!name[0]) return fail(ST_INVALID, "%s: [model NAME] without a name", where);
    for (uint32_t i = 0; i < s->section_count; i++)
        if (!strcmp(s->section[i], name))
            return fail(ST_INVALID, "%s: a second section for model %.*s", where, WORD_SHOWN, name);
    if (s->section_count == SECTIONS_MAX) return fail(ST_INVALID, "%s: more than %d sections", where, SECTIONS_MAX);
    s->section[s->section_count++] = memory_copy_string(name);
    return ST_OK;
}

static status read_line(option_set *s, const char *where, char *line) {
    line = trim(line);
    if (!line[0] || line[0] == '#') return ST_OK;
    if (line[0] == '[') return read_section(s, where, line);
    char *equals = strchr(line, '='), spelled[160];
    if (!equals) return fail(ST_INVALID, "%s: \"%.*s\" is not \"option = value\"", where, WORD_SHOWN, line);
    *equals = 0;
    const char *name = trim(line), *text = trim(equals + 1);
    uint32_t row;
    if (!find_row(s->table, name, strlen(name), &row)) {
        char before[160];
        snprintf(before, sizeof before, "%s: ", where);
        return unknown_name(s, before, "", name, strlen(name));
    }
    const option_row *r = &s->table->row[row];
    if (r->where & OPTION_COMMAND_LINE)
        return fail(ST_INVALID, "%s: %s goes on the command line only", where, r->name);
    if (s->section_count > 0 && !(r->where & OPTION_PER_MODEL))
        return fail(ST_INVALID, "%s: %s is not an option of one model: it goes above the first section", where, r->name);
    snprintf(spelled, sizeof spelled, "%s: %s", where, r->name);
    return add_value(s, row, s->section_count > 0 ? FROM_SECTION : FROM_FILE, spelled, text);
}

status options_parse_file(option_set *s, const char *path, const char *text, size_t n) {
    const void *nul = n ? memchr(text, 0, n) : NULL;
    if (nul) return fail(ST_INVALID, "%s: a NUL byte at offset %zu", path, (size_t)((const char *)nul - text));
    char *copy = memory_alloc(n + 1), *rest = copy;
    if (n) memcpy(copy, text, n);
    status st = ST_OK;
    const char *base = strrchr(path, '/');
    for (unsigned number = 1; rest && st == ST_OK; number++) {
        char where[128], *line = strsep(&rest, "\n");
        snprintf(where, sizeof where, "%.90s, line %u", base ? base + 1 : path, number);
        st = read_line(s, where, line);
    }
    free(copy);
    return st;
}

status options_read_file(option_set *s, const char *path) {
    char *text;
    size_t n;
    TRY(file_read_all(path, FILE_BYTES_MAX, &text, &n));
    status st = options_parse_file(s, path, text, n);
    free(text);
    return st;
}

/* ---- answers ---- */

static uint32_t row_of(const option_set *s, const char *name) {
    uint32_t row;
    bool known = find_row(s->table, name, strlen(name), &row);
    INVARIANT(known);
    return row;
}

static bool counts_for(const option_set *s, const given *v, uint32_t row, const char *model) {
    if (v->row != row) return false;
    return v->from != FROM_SECTION || (model && !strcmp(s->section[v->section], model));
}

static const given *strongest(const option_set *s, uint32_t row, const char *model) {
    const given *best = NULL;
    for (uint32_t i = 0; i < s->count; i++)
        if (counts_for(s, &s->value[i], row, model) && (!best || s->value[i].from > best->from)) best = &s->value[i];
    return best;
}

const char *options_text(const option_set *s, const char *name, const char *model) {
    uint32_t row = row_of(s, name);
    const given *v = strongest(s, row, model);
    return v ? v->text : s->table->row[row].fallback;
}

static uint64_t fallback_number(const option_row *r) {
    uint64_t number = 0;
    bool good = !r->fallback || (r->kind == OPTION_FLAG ? read_flag(r->fallback, &number)
                                                        : read_number(r, r->fallback, &number));
    INVARIANT(good);
    return number;
}

uint64_t options_number(const option_set *s, const char *name, const char *model) {
    uint32_t row = row_of(s, name);
    const given *v = strongest(s, row, model);
    return v ? v->number : fallback_number(&s->table->row[row]);
}

bool options_flag(const option_set *s, const char *name, const char *model) {
    return options_number(s, name, model) != 0;
}

bool options_given(const option_set *s, const char *name, const char *model) {
    return strongest(s, row_of(s, name), model) != NULL;
}

static const given *nth(const option_set *s, const char *name, uint32_t n, uint32_t *count) {
    uint32_t row = row_of(s, name);
    const given *best = strongest(s, row, NULL), *found = NULL;
    *count = 0;
    for (uint32_t i = 0; best && i < s->count; i++) {
        if (s->value[i].row != row || s->value[i].from != best->from) continue;
        if ((*count)++ == n) found = &s->value[i];
    }
    return found;
}

uint32_t options_count(const option_set *s, const char *name) {
    uint32_t count;
    (void)nth(s, name, 0, &count);
    return count;
}

const char *options_value(const option_set *s, const char *name, uint32_t i) {
    uint32_t count;
    const given *v = nth(s, name, i, &count);
    INVARIANT(v);
    return v->text;
}

uint32_t options_argument_count(const option_set *s) { return s->argument_count; }

const char *options_argument(const option_set *s, uint32_t i) {
    INVARIANT(i < s->argument_count);
    return s->argument[i];
}

uint32_t options_section_count(const option_set *s) { return s->section_count; }

const char *options_section_name(const option_set *s, uint32_t i) {
    INVARIANT(i < s->section_count);
    return s->section[i];
}

const char *options_section_text(const option_set *s, const char *model, const char *name) {
    uint32_t row = row_of(s, name);
    for (uint32_t i = 0; i < s->count; i++)
        if (s->value[i].from == FROM_SECTION && counts_for(s, &s->value[i], row, model)) return s->value[i].text;
    return NULL;
}

status options_check_built(const option_set *s) {
    strbuf names = {.max = 512};
    for (uint32_t i = 0; i < s->count; i++) {
        const given *v = &s->value[i];
        const option_row *r = &s->table->row[v->row];
        if (!(r->where & OPTION_UNBUILT)) continue;
        bool number = r->kind == OPTION_NUMBER || r->kind == OPTION_BYTES || r->kind == OPTION_FLAG;
        if (r->fallback && (number ? v->number == fallback_number(r) : !strcmp(v->text, r->fallback))) continue;
        strbuf_add_format(&names, "%s--%s", names.size ? ", " : "", r->name);
    }
    status st = names.size ? fail(ST_UNSUPPORTED, "not available in this version: %s", strbuf_text(&names)) : ST_OK;
    strbuf_close(&names);
    return st;
}
