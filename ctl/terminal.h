/* What people see: text that is safe to show, and one line of progress.
 *
 * Threads: main thread.
 * Errors:  ST_IO when standard output cannot take more; what was written before stays written. */
#ifndef CTL_TERMINAL_H
#define CTL_TERMINAL_H

#include "base/status.h"
#include "base/strbuf.h"
#include <stdbool.h>
#include <stddef.h>

/* Writes text of a model or of a user. On a terminal, control characters other than tab and line end, and bytes that are
 * no UTF-8, become U+FFFD: a document must not be able to move the cursor, or write into the window's title. */
STATUS_CHECKED status terminal_write_text(const void *utf8, size_t n);
/* The same for one piece of an answer that has thoughts. These are dimmed on a terminal (between "[thinking]" and
 * "[answer]" where it has no styles: TERM=dumb, NO_COLOR) and left out elsewhere. *within: whether the piece before was
 * a thought; false at first. With no text it only ends a thought. */
STATUS_CHECKED status terminal_write_part(bool *within, bool thought, const void *utf8, size_t n);
/* As terminal_write_text: what a server says of itself is no safer than what its model says. Adds the line end. */
STATUS_CHECKED status terminal_write_line(const strbuf *line);
/* As it is, escape sequences included: whoever writes it has made the parts of others safe. */
STATUS_CHECKED status terminal_write_styled_line(const strbuf *line);
STATUS_CHECKED status terminal_flush(void);
/* The same text, made safe; what terminal_write_text does on a terminal. */
void terminal_make_safe(strbuf *out, const void *utf8, size_t n);
/* Whether standard output is a terminal that shows styles. */
bool terminal_has_styles(void);

/* A line on standard error, made safe on a terminal. */
void terminal_say(const char *text);
/* One line on standard error that the next call overwrites; nothing unless that is a terminal. NULL removes it. */
void terminal_progress(const char *line);

#endif
