#include "ctl/terminal.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/utf8.h"

static status stdout_failed(void) { return fail_errno(ST_IO, "standard output"); }

void terminal_make_safe(strbuf *out, const void *utf8, size_t n) {
    const unsigned char *at = utf8;
    for (size_t i = 0; i < n;) {
        unsigned length = utf8_length(at[i]);
        bool whole = length > 0 && length <= n - i && utf8_check(at + i, length) == length;
        bool c1 = whole && length == 2 && at[i] == 0xC2 && at[i + 1] <= 0x9F;
        bool control = (at[i] < 0x20 && at[i] != '\n' && at[i] != '\t') || at[i] == 0x7F;
        if (whole && !c1 && !control) strbuf_add(out, at + i, length);
        else strbuf_add_string(out, "\xEF\xBF\xBD");
        i += whole ? length : 1;
    }
}

status terminal_write_text(const void *utf8, size_t n) {
    strbuf safe = {0};
    const void *bytes = utf8;
    if (isatty(STDOUT_FILENO)) {
        terminal_make_safe(&safe, utf8, n);
        bytes = safe.data;
        n = safe.size;
    }
    status st = n == 0 || fwrite(bytes, 1, n, stdout) == n ? ST_OK : stdout_failed();
    strbuf_close(&safe);
    return st;
}

bool terminal_has_styles(void) {
    const char *term = getenv("TERM"), *plain = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") != 0 && !(plain && *plain);
}

static status write_mark(const char *styled, const char *plain) {
    return fputs(terminal_has_styles() ? styled : plain, stdout) == EOF ? stdout_failed() : ST_OK;
}

status terminal_write_part(bool *within, bool thought, const void *utf8, size_t n) {
    if (!isatty(STDOUT_FILENO)) return thought ? ST_OK : terminal_write_text(utf8, n);
    if (thought && !*within) TRY(write_mark("\x1b[2m", "[thinking]\n"));
    if (!thought && *within) TRY(write_mark("\x1b[0m\n\n", "\n[answer]\n"));
    *within = thought;
    return terminal_write_text(utf8, n);
}

status terminal_write_line(const strbuf *line) {
    TRY(terminal_write_text(strbuf_text(line), line->size));
    return terminal_write_styled_line(&(strbuf){0});
}

status terminal_write_styled_line(const strbuf *line) {
    if (line->size && fwrite(line->data, 1, line->size, stdout) != line->size) return stdout_failed();
    if (putchar('\n') == EOF) return stdout_failed();
    return terminal_flush();
}

status terminal_flush(void) { return fflush(stdout) ? stdout_failed() : ST_OK; }

/* Where standard error is a terminal, safe to write there; *out is to be closed. */
static const char *safe_text(const char *text, strbuf *out) {
    if (!isatty(STDERR_FILENO)) return text;
    terminal_make_safe(out, text, strlen(text));
    return strbuf_text(out);
}

void terminal_say(const char *text) {
    strbuf safe = {0};
    fprintf(stderr, "%s\n", safe_text(text, &safe));
    strbuf_close(&safe);
}

void terminal_progress(const char *line) {
    static bool shown;
    strbuf safe = {0};
    if (!isatty(STDERR_FILENO)) return;
    if (line) fprintf(stderr, "\r\033[K%s", safe_text(line, &safe));
    else if (shown) fputs("\r\033[K", stderr);
    fflush(stderr);
    shown = line != NULL;
    strbuf_close(&safe);
}
