/* A ChatRequest as a prompt: its messages and tools are checked, rendered with the model's chat template and encoded.
 * docs/api.md tells the rules under "Chat prompts".
 *
 * Not looked at here: sampling, response_format, priority, resume_from, request_id, model.
 * tool_choice none: tools are declared all the same, so that the beginning of the prompt, and with it what the prefix cache
 * holds, stays the same; whoever generates forbids calls. tool_choice is checked (mode, and that a named tool exists).
 *
 * Memory:  chat_prompt_make allocates; chat_prompt_close releases; a zeroed one is empty.
 * Threads: any; long: a worker thread's, but for requests that chat_prompt_is_tiny.
 * Errors:  ST_INVALID naming the message or tool by its place, the field, its value and the bound; ST_UNSUPPORTED naming the
 *          kind of part (images, audio, video). *out is then zeroed. */
#ifndef DAEMON_QUEUE_CHAT_PROMPT_H
#define DAEMON_QUEUE_CHAT_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "daemon/text/chat_template.h"
#include "daemon/text/tokenizer.h"
#include "proto/gemmad.pb-c.h"

/* A request that outlives its handler: its bytes are copied on the loop and read again by a worker. */
typedef struct chat_request {
    uint8_t *bytes;
    size_t size;
    Gemmad__V1__ChatRequest *message; /* after chat_request_open */
} chat_request;

/* ST_INVALID for one that no prompt could hold: nothing that large is copied. */
STATUS_CHECKED status chat_request_keep(chat_request *out, const Gemmad__V1__ChatRequest *r);
STATUS_CHECKED status chat_request_open(chat_request *r);
void chat_request_close(chat_request *r); /* a zeroed one is fine */

typedef struct chat_prompt {
    char *text; /* NUL-terminated */
    size_t text_bytes;
    uint32_t *ids; /* [count], at least 1 */
    size_t count;
    bool starts_in_thought; /* the prompt ends in an open thought */
} chat_prompt;

STATUS_CHECKED status chat_prompt_make(chat_prompt *out, const chat_template *t, const tokenizer *tok,
                                       const Gemmad__V1__ChatRequest *r);
void chat_prompt_close(chat_prompt *p);
/* Well under 1 ms: may be made on the loop. */
bool chat_prompt_is_tiny(const Gemmad__V1__ChatRequest *r);

#endif
