#include <string.h>

#include "ctl/line.h"

static const char quotes[] = "\"\"\"";
enum { QUOTES = 3 };

static bool ends_in_quotes(const char *line, size_t n) {
    return n >= QUOTES && !memcmp(line + n - QUOTES, quotes, QUOTES);
}

/* An odd number of backslashes at the end: an even one is text. */
static bool goes_on(const char *line, size_t n) {
    size_t count = 0;
    while (count < n && line[n - 1 - count] == '\\') count++;
    return count % 2 == 1;
}

bool line_join(line_joiner *j, const char *line, size_t n, strbuf *out) {
    if (!j->quoted && out->size == 0 && n >= QUOTES && !memcmp(line, quotes, QUOTES)) {
        line += QUOTES, n -= QUOTES;
        j->quoted = true;
        if (n == 0) return false; /* the text begins on the next line */
    }
    if (j->quoted) {
        bool last = ends_in_quotes(line, n);
        strbuf_add(out, line, last ? n - QUOTES : n);
        /* A closing line of its own is no line of the text. */
        if (last && n == QUOTES && out->size && out->data[out->size - 1] == '\n') out->data[--out->size] = 0;
        if (!last) strbuf_add_string(out, "\n");
        return last;
    }
    bool more = goes_on(line, n);
    strbuf_add(out, line, more ? n - 1 : n);
    if (more) strbuf_add_string(out, "\n");
    return !more;
}
