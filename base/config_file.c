#include "base/config_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"

static const char blanks[] = " \t\r";

/* The text without blanks at its ends; cuts it. */
static char *trim(char *text) {
    text += strspn(text, blanks);
    size_t n = strlen(text);
    while (n > 0 && strchr(blanks, text[n - 1])) n--;
    text[n] = 0;
    return text;
}

/* A path may hold a '#'; a comment has a blank before it. Quotes protect both. */
static void cut_comment(char *line) {
    int quoted = 0;
    for (char *p = line; *p; p++) {
        if (*p == '"') quoted = !quoted;
        if (*p != '#' || quoted || (p > line && !strchr(blanks, p[-1]))) continue;
        *p = 0;
        return;
    }
}

static status add(config_file *f, config_entry e) {
    if (f->count == CONFIG_FILE_ENTRIES_MAX)
        return fail(ST_FORMAT, "%s:%u: more than %d entries", f->name, e.line, CONFIG_FILE_ENTRIES_MAX);
    if (f->count % 64 == 0) f->entry = memory_grow(f->entry, (f->count + 64) * sizeof *f->entry);
    f->entry[f->count++] = e;
    return ST_OK;
}

static status read_value(const config_file *f, uint32_t line, char *text, const char **out) {
    size_t n = strlen(text);
    if (text[0] == '"') {
        if (n < 2 || text[n - 1] != '"' || memchr(text + 1, '"', n - 2))
            return fail(ST_FORMAT, "%s:%u: a quote is not closed, or stands inside a value", f->name, line);
        text[n - 1] = 0;
        text++;
    }
    if (!*text) return fail(ST_FORMAT, "%s:%u: a value is missing", f->name, line);
    *out = text;
    return ST_OK;
}

static status read_line(config_file *f, uint32_t number, char *line, const char **section) {
    cut_comment(line);
    line = trim(line);
    if (!*line) return ST_OK;
    size_t n = strlen(line);
    if (line[0] == '[') {
        if (n < 3 || line[n - 1] != ']')
            return fail(ST_FORMAT, "%s:%u: \"%.64s\" is not [section]", f->name, number, line);
        line[n - 1] = 0;
        *section = trim(line + 1);
        if (!**section) return fail(ST_FORMAT, "%s:%u: a section without a name", f->name, number);
        return add(f, (config_entry){*section, "", "", number});
    }
    char *equals = strchr(line, '=');
    if (!equals || equals == line)
        return fail(ST_FORMAT, "%s:%u: \"%.64s\" is neither key = value nor [section]", f->name, number,
                    line);
    *equals = 0;
    config_entry e = {.section = *section, .key = trim(line), .line = number};
    TRY(read_value(f, number, trim(equals + 1), &e.value));
    return add(f, e);
}

static status read_lines(config_file *f, size_t n) {
    if (memchr(f->text, 0, n)) return fail(ST_FORMAT, "%s holds a zero byte", f->name);
    if (utf8_check(f->text, n) != n) return fail(ST_FORMAT, "%s is not UTF-8", f->name);
    const char *section = "";
    uint32_t number = 0;
    for (char *line = f->text; line;) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        TRY(read_line(f, ++number, line, &section));
        line = end ? end + 1 : NULL;
    }
    return ST_OK;
}

status config_file_parse(config_file *f, const char *name, const char *bytes, size_t n) {
    *f = (config_file){.name = memory_copy_string(name), .text = memory_alloc(n + 1)};
    if (n) memcpy(f->text, bytes, n);
    status st = read_lines(f, n);
    if (st != ST_OK) config_file_close(f);
    return st;
}

status config_file_open(config_file *f, const char *path) {
    char *bytes = NULL;
    size_t n = 0;
    *f = (config_file){0};
    TRY(file_read_all(path, CONFIG_FILE_BYTES_MAX, &bytes, &n));
    status st = config_file_parse(f, path, bytes, n);
    free(bytes);
    return st;
}

void config_file_close(config_file *f) {
    free(f->name);
    free(f->text);
    free(f->entry);
    *f = (config_file){0};
}
