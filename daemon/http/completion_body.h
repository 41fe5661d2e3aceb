/* /v1/completions: the request as GenerateRequests, one for each prompt.
 * Threads, errors, memory: as body.h. */
#ifndef DAEMON_HTTP_COMPLETION_BODY_H
#define DAEMON_HTTP_COMPLETION_BODY_H

#include "daemon/http/sampling_body.h"

enum { COMPLETION_PROMPTS_MAX = 1024 }; /* samples of all prompts of a request are at most as many */

typedef struct completion_prompt {
    Gemmad__V1__GenerateRequest request;
    Gemmad__V1__TokenIds ids;
} completion_prompt;

typedef struct completion_body {
    completion_prompt *prompt; /* [count] */
    uint32_t count;
    sampling_body common;
    bool echo, logprobs;
    uint32_t top;   /* alternatives of each token */
    bool no_tokens; /* max_tokens 0: the prompt alone, of which one token more is computed and dropped */
    bool add_bos;
} completion_body;

STATUS_CHECKED status completion_body_read(body *b, completion_body *out);

#endif
