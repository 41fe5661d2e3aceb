/* What `gemmactl chat` consists of: the state of one session, its turns and its commands.
 *
 * Threads: main thread.
 * Errors:  chat_turn and chat_command: what went wrong with this one question or command; the session is as before it. */
#ifndef CTL_CHAT_H
#define CTL_CHAT_H

#include "ctl/answer.h"
#include "ctl/documents.h"
#include "ctl/line.h"
#include "ctl/talk.h"
#include "ctl/tools.h"

enum { CHAT_ROUNDS_MAX = 64 }; /* of tool calls in one turn */

typedef struct chat_options {
    answer_options answer; /* must be first */
    const char *think, *system, *tools, *tool_command;
    arg_texts file;
    bool no_history;
} chat_options;

typedef struct chat_usage {
    uint32_t answers;
    uint64_t prompt, cached, completion, reasoning;
    Gemmad__V1__Usage last; /* zero before the first */
} chat_usage;

typedef struct chat {
    ctl *ctl;
    client *server;
    const chat_options *options;
    char *model; /* NULL: the server's first */
    uint32_t context_tokens;
    bool think, quit;
    talk talk;
    tools tools;
    documents pending; /* go with the next question */
    line_input *input;
    chat_usage usage;
    char *saved; /* the file that /save wrote last */
    bool inside_thought;
    char last; /* byte printed */
} chat;

/* One question and its answer, tool calls included. An answer that was stopped (Ctrl-C) is kept as far as it came. */
STATUS_CHECKED status chat_turn(chat *h, const strbuf *question);
/* A line that begins with "/", which is no "//". */
STATUS_CHECKED status chat_command(chat *h, const char *line);
/* Looks for the model at the server, and how long its context is; NULL: the first one. */
STATUS_CHECKED status chat_choose_model(chat *h, const char *name);
/* A line about the session: on standard output of a terminal, else on standard error. */
void chat_say(const chat *h, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
