#include "ctl/line.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "ctl/client.h"
#include "proto/limits.h"

enum { POLL_MS = 100, HISTORY_LINES = 1000 };

struct line_input {
    EditLine *editor; /* NULL: plain lines of standard input */
    HistoryW *history;
    char *file; /* NULL: nothing is kept */
    const char *prompt;
};

/* ---- on a terminal ---- */

static line_input *line_of(EditLine *e) {
    void *l = NULL;
    el_get(e, EL_CLIENTDATA, &l);
    return l;
}

static char *give_prompt(EditLine *e) { return (char *)(uintptr_t)line_of(e)->prompt; }

/* 1, 0 at the end, -1 after an interrupt: libedit's own reader would try again after the signal. */
static int read_byte(unsigned char *out) {
    for (;;) {
        struct pollfd input = {STDIN_FILENO, POLLIN, 0};
        if (client_interrupt()) return -1;
        if (poll(&input, 1, POLL_MS) <= 0) continue;
        ssize_t n = read(STDIN_FILENO, out, 1);
        if (n >= 0) return (int)n;
        if (errno != EINTR && errno != EAGAIN) return -1;
    }
}

/* Ctrl-D on an empty line is the end. */
static int read_character(EditLine *e, wchar_t *out) {
    enum { END = 4 };
    unsigned char bytes[4];
    uint32_t code = 0xFFFD;
    const LineInfoW *line = el_wline(e);
    int got = read_byte(bytes);
    if (got > 0 && bytes[0] == END && line->lastchar == line->buffer) got = 0;
    if (got <= 0) return got;
    unsigned length = utf8_length(bytes[0]);
    for (unsigned i = 1; i < length; i++)
        if ((got = read_byte(bytes + i)) <= 0) return got;
    if (length && utf8_check(bytes, length) == length) utf8_decode((const char *)bytes, &code);
    *out = (wchar_t)code;
    return 1;
}

static void open_history(line_input *l, const char *file) {
    HistEventW event;
    l->history = history_winit();
    history_w(l->history, &event, H_SETSIZE, HISTORY_LINES);
    history_w(l->history, &event, H_SETUNIQUE, 1);
    el_wset(l->editor, EL_HIST, history_w, l->history);
    if (!file) return;
    /* A file that is no history is somebody's: it is neither read nor written over. */
    if (access(file, F_OK) == 0 && history_w(l->history, &event, H_LOAD, file) < 0) {
        fprintf(stderr, "gemmactl: %s is no history of lines; what you type is not kept\n", file);
        return;
    }
    l->file = memory_copy_string(file);
}

static void save_history(const line_input *l) {
    HistEventW event;
    if (!l->file) return;
    int fd = open(l->file, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
    if (!out && fd >= 0) close(fd);
    bool good = out && fchmod(fd, 0600) == 0 && history_w(l->history, &event, H_SAVE_FP, out) >= 0;
    if (out && fclose(out) != 0) good = false;
    if (!good) fprintf(stderr, "gemmactl: %s: the history is not kept: %s\n", l->file, strerror(errno));
}

status line_open(line_input **out, const char *history) {
    line_input *l = memory_alloc(sizeof *l);
    *out = l;
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) return ST_OK;
    /* libedit counts columns by the locale; what we read and write is UTF-8 whatever it says. */
    if (!setlocale(LC_CTYPE, "C.UTF-8")) (void)setlocale(LC_CTYPE, "");
    l->editor = el_init("gemmactl", stdin, stdout, stderr);
    if (!l->editor) return ST_OK;
    el_set(l->editor, EL_CLIENTDATA, l);
    el_set(l->editor, EL_PROMPT, give_prompt);
    el_set(l->editor, EL_EDITOR, "emacs");
    el_set(l->editor, EL_SIGNAL, 0);
    el_set(l->editor, EL_GETCFN, read_character);
    /* Between two prompts the terminal itself reads lines, and would keep a NUL in place of a Ctrl-D that is typed then. Without a
     * character for the end it keeps what was typed. */
    el_set(l->editor, EL_SETTY, "-x", "eof=", NULL);
    open_history(l, history);
    el_source(l->editor, NULL);
    return ST_OK;
}

void line_close(line_input *l) {
    if (!l) return;
    if (l->editor) {
        save_history(l);
        history_wend(l->history);
        el_end(l->editor);
    }
    free(l->file);
    free(l);
}

bool line_is_edited(const line_input *l) { return l->editor != NULL; }

static void remember(line_input *l, const wchar_t *line) {
    HistEventW event;
    if (line[wcsspn(line, L" \t\n")]) history_w(l->history, &event, H_ENTER, line);
}

/* The line without its end. */
static status read_edited(line_input *l, line_end *how, strbuf *line) {
    int count = 0;
    el_resize(l->editor);
    const wchar_t *text = el_wgets(l->editor, &count);
    *how = LINE_TEXT;
    if (client_interrupt()) *how = LINE_INTERRUPTED;
    else if (!text || count <= 0) *how = LINE_NO_MORE;
    if (*how != LINE_TEXT) {
        (void)!putchar('\n');
        fflush(stdout);
        return ST_OK;
    }
    remember(l, text);
    for (; *text && *text != L'\n'; text++) {
        char bytes[4];
        strbuf_add(line, bytes, utf8_encode((uint32_t)*text, bytes));
    }
    return ST_OK;
}

/* ---- elsewhere ---- */

static status read_plain(line_end *how, strbuf *line) {
    char *text = NULL;
    size_t capacity = 0;
    errno = 0;
    ssize_t n = getline(&text, &capacity, stdin);
    int code = errno;
    *how = client_interrupt() ? LINE_INTERRUPTED : n < 0 ? LINE_NO_MORE : LINE_TEXT;
    if (n > 0 && text[n - 1] == '\n') n--;
    if (n > 0 && text[n - 1] == '\r') n--;
    if (*how == LINE_TEXT) strbuf_add(line, text, (size_t)n);
    free(text);
    if (*how != LINE_NO_MORE || !ferror(stdin)) return ST_OK;
    errno = code;
    return fail_errno(ST_IO, "standard input");
}

/* ---- */

status line_read(line_input *l, const char *prompt, line_end *how, strbuf *out) {
    line_joiner joiner = {false};
    strbuf line = {.max = LIMIT_PROMPT_BYTES};
    status st = ST_OK;
    l->prompt = prompt;
    out->max = LIMIT_PROMPT_BYTES;
    for (bool begun = false, complete = false; st == ST_OK && !complete; begun = true) {
        strbuf_clear(&line);
        st = l->editor ? read_edited(l, how, &line) : read_plain(how, &line);
        if (st != ST_OK || *how == LINE_INTERRUPTED) break;
        if (*how == LINE_NO_MORE) {
            /* A file may end inside a text; that is the text, and the end is seen next time. */
            if (begun && out->size) *how = LINE_TEXT;
            break;
        }
        complete = line_join(&joiner, strbuf_text(&line), line.size, out);
        l->prompt = "… ";
    }
    strbuf_close(&line);
    if (st != ST_OK || *how != LINE_TEXT) return st;
    if (line.full || out->full) return fail(ST_INVALID, "a text has more than %d bytes", LIMIT_PROMPT_BYTES);
    size_t valid = utf8_check(strbuf_text(out), out->size);
    return valid == out->size ? ST_OK : fail(ST_INVALID, "the text is not UTF-8 at byte %zu", valid);
}
