/* What people read of an option table: --help and the man page. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"

enum { HELP_COLUMN = 28, HELP_WIDTH = 100 };

static void add_bounds(const option_row *r, strbuf *out) {
    const char *unit = r->unit ? r->unit : "";
    const char *space = r->unit ? " " : "";
    if (r->kind == OPTION_CHOICE) strbuf_add_format(out, "; one of %s", r->choices);
    if (r->kind == OPTION_NUMBER)
        strbuf_add_format(out, "; %llu to %llu%s%s", (unsigned long long)r->least, (unsigned long long)r->most, space,
                          unit);
    if (r->kind == OPTION_BYTES) strbuf_add_string(out, "; a size such as 40GiB");
    if (r->fallback && r->kind != OPTION_FLAG) strbuf_add_format(out, "; default %s%s%s", r->fallback, space, unit);
    if (r->where & OPTION_REPEATS) strbuf_add_string(out, "; may repeat");
    if (r->where & OPTION_UNBUILT) strbuf_add_string(out, "; not available in this version");
}

static void add_description(const option_row *r, strbuf *out) {
    strbuf_add_string(out, r->help);
    add_bounds(r, out);
}

/* Breaks at spaces; the first line begins at `column`. */
static void add_wrapped(const char *text, size_t column, strbuf *out) {
    while (*text) {
        size_t n = strlen(text), room = HELP_WIDTH - HELP_COLUMN;
        if (n > room) {
            for (n = room; n > 0 && text[n] != ' ';) n--;
            if (n == 0) n = strcspn(text, " ");
        }
        while (column < HELP_COLUMN) strbuf_add_string(out, " "), column++;
        strbuf_add(out, text, n);
        strbuf_add_string(out, "\n");
        text += n;
        while (*text == ' ') text++;
        column = 0;
    }
}

void options_print_help(const option_table *t, strbuf *out) {
    strbuf_add_format(out, "%s: %s\n\nUsage: %s %s\n\n", t->program, t->purpose, t->program, t->usage);
    for (uint32_t i = 0; i < t->count; i++) {
        const option_row *r = &t->row[i];
        size_t before = out->size;
        strbuf_add_format(out, "  --%s%s%s", r->name, r->value ? " " : "", r->value ? r->value : "");
        size_t column = out->size - before;
        if (column + 2 > HELP_COLUMN) {
            strbuf_add_string(out, "\n");
            column = 0;
        }
        strbuf description = {0};
        add_description(r, &description);
        add_wrapped(strbuf_text(&description), column, out);
        strbuf_close(&description);
    }
    if (t->prefix)
        strbuf_add_format(out,
                          "\nEvery option is also an environment variable, %s_ and its name in capitals with _ for -,"
                          "\nand a line \"name = value\" of the file of --config. The command line wins, then the"
                          "\nenvironment, then the file.\n",
                          t->prefix);
}

/* roff takes "-" for a hyphen, "\" for an escape, and a line that begins with "." or "'" for a request. */
static void add_roff(const char *text, strbuf *out) {
    for (; *text; text++) {
        if (*text == '-') strbuf_add_string(out, "\\-");
        else if (*text == '\\') strbuf_add_string(out, "\\e");
        else strbuf_add(out, text, 1);
    }
}

void options_print_man(const option_table *t, strbuf *out) {
    strbuf_add_string(out, ".SH OPTIONS\n");
    for (uint32_t i = 0; i < t->count; i++) {
        const option_row *r = &t->row[i];
        strbuf_add_string(out, ".TP\n.B \\-\\-");
        add_roff(r->name, out);
        if (r->value) {
            strbuf_add_string(out, " \\fI");
            add_roff(r->value, out);
            strbuf_add_string(out, "\\fR");
        }
        strbuf_add_string(out, "\n");
        strbuf description = {0};
        add_description(r, &description);
        strbuf_add_string(out, "\\&");
        add_roff(strbuf_text(&description), out);
        strbuf_add_string(out, ".\n");
        strbuf_close(&description);
    }
}
