/* What a user types: lines with editing and history on a terminal, lines of standard input elsewhere.
 *
 * Memory:  line_open allocates; line_close saves the history and releases. NULL is fine.
 * Threads: main thread.
 * Errors:  ST_IO when standard input fails, ST_INVALID for text over LIMIT_PROMPT_BYTES or no UTF-8. */
#ifndef CTL_LINE_H
#define CTL_LINE_H

#include "base/status.h"
#include "base/strbuf.h"
#include <stdbool.h>

typedef struct line_input line_input;

typedef enum line_end {
    LINE_TEXT,
    LINE_NO_MORE,     /* the end of the file, or Ctrl-D */
    LINE_INTERRUPTED, /* Ctrl-C: what was typed is dropped */
} line_end;

/* history: file that lines are remembered in, made with mode 0600; NULL: none. */
STATUS_CHECKED status line_open(line_input **out, const char *history);
void line_close(line_input *l);
bool line_is_edited(const line_input *l); /* on a terminal, with a prompt */

/* One text of one or more lines: one that begins with """ goes on to the next """, one that ends in \ goes on in the next
 * line (not after \\). No line end at the end. The prompt is shown on a terminal only. */
STATUS_CHECKED status line_read(line_input *l, const char *prompt, line_end *how, strbuf *out);

/* As above, of lines from elsewhere: takes one line, and says whether the text is complete. For tests. */
typedef struct line_joiner {
    bool quoted;
} line_joiner;
bool line_join(line_joiner *j, const char *line, size_t n, strbuf *out);

#endif
