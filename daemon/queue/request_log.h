/* The one line that a finished request leaves in the log: who asked what of which model, how much, how long, and how it
 * ended. No text of the request, unless --log-prompts asked for it.
 *
 * Memory:  request_log_close releases; a zeroed log is valid.
 * Threads: loop thread. */
#ifndef DAEMON_QUEUE_REQUEST_LOG_H
#define DAEMON_QUEUE_REQUEST_LOG_H

#include "daemon/queue/core_internal.h"
#include "daemon/queue/session.h"

enum { REQUEST_LOG_PROMPT_BYTES = 8 << 10 };

typedef struct request_log {
    uint32_t samples, prompt_tokens, cached_tokens, completion_tokens;
    double queue_ms, prefill_ms, decode_ms,
        first_token_ms; /* the longest of any sample's; the first token's least */
    char reasons[32];   /* how samples ended, each once: "stop,length" */
    char *prompt;       /* its first REQUEST_LOG_PROMPT_BYTES; NULL: not to be logged */
    size_t prompt_bytes, prompt_kept;
} request_log;

/* Keeps text for the line, if the core was told to log prompts. */
void request_log_prompt(request_log *l, const core *c, const char *text, size_t n);
void request_log_sample(request_log *l, const session_end *end);
/* The call is about to finish with st; sentence is its reason when not ST_OK. model and request_id may be NULL. A call that
 * reached no engine is counted as refused as well. */
void request_log_write(const request_log *l, const core *c, const call *k, const char *model,
                       const char *request_id, uint64_t arrival_ns, status st, const char *sentence);
void request_log_close(request_log *l);

#endif
