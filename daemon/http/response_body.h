/* /v1/responses: the request as a ChatRequest. Nothing is stored, so that every request brings its whole conversation.
 * Threads, errors, memory: as body.h. */
#ifndef DAEMON_HTTP_RESPONSE_BODY_H
#define DAEMON_HTTP_RESPONSE_BODY_H

#include "daemon/http/chat_body.h"

typedef struct response_body {
    Gemmad__V1__ChatRequest request;
    sampling_body common;
    strbuf echo; /* members of the answer that repeat the request, as JSON without braces; strbuf_close */
} response_body;

STATUS_CHECKED status response_body_read(body *b, response_body *out);

#endif
