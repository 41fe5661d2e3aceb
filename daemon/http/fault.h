/* Errors as OpenAI's API has them.
 * Threads: any. */
#ifndef DAEMON_HTTP_FAULT_H
#define DAEMON_HTTP_FAULT_H

#include "base/status.h"
#include "base/strbuf.h"

int fault_code(status st);         /* the HTTP code */
const char *fault_word(status st); /* the error's "code"; NULL: none */
/* {"error": {"message", "type", "param", "code"}}; param and word may be NULL. text may hold any bytes. */
void fault_write(int code, const char *param, const char *word, const char *text, strbuf *out);

#endif
