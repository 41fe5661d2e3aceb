/* What chat, completion and response answers have in common.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_ANSWER_OUT_H
#define DAEMON_HTTP_ANSWER_OUT_H

#include "daemon/http/openai_internal.h"

/* More is not collected for an answer that is no stream. */
enum { ANSWER_COLLECTED_MAX = 256 << 20 };

typedef struct answer_usage {
    uint64_t prompt, cached, completion, reasoning;
} answer_usage;

void answer_usage_add(answer_usage *u, const Gemmad__V1__Usage *from);
/* {"prompt_tokens", "completion_tokens", "total_tokens", …_details} */
void answer_usage_write(const answer_usage *u, const char *key, strbuf *out);
/* "data: JSON\n\n" */
void answer_sse(http_exchange *x, const strbuf *json);
/* A stream that began and failed: {"error": …} as its last event. */
void answer_sse_fault(http_exchange *x, status st, const char *text);
/* A comment while a prompt is read, so that nobody on the way takes the silence for death. */
void answer_sse_progress(http_exchange *x, const Gemmad__V1__Progress *p);

#endif
