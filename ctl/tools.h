/* Tools that a chat's model may call: declared in a file, answered by the user or by a program.
 *
 * Memory:  tools_close releases; a zeroed one has none.
 * Threads: main thread.
 * Errors:  ST_FORMAT naming the file, the tool and what is wrong with it. */
#ifndef CTL_TOOLS_H
#define CTL_TOOLS_H

#include "base/status.h"
#include "base/strbuf.h"
#include "proto/gemmad.pb-c.h"

struct reply_tool_call;

enum { TOOLS_MAX = 128, TOOLS_FILE_BYTES_MAX = 1 << 20, TOOL_RESULT_BYTES_MAX = 1 << 20 };

typedef struct tools {
    Gemmad__V1__Tool **tool; /* [count] */
    size_t count;
} tools;

/* OpenAI's array of {"type": "function", "function": {name, description, parameters, strict}}; the function's fields may
 * also stand beside "type". The spelling of "parameters" is kept. */
STATUS_CHECKED status tools_read(tools *out, const char *path);
void tools_close(tools *t);

/* Runs the program with {"id", "name", "arguments"} on standard input. *result is what it wrote; when it failed, a sentence
 * for the model that says so, with what it wrote. */
STATUS_CHECKED status tools_run(const char *program, const struct reply_tool_call *call, strbuf *result);

#endif
