/* /v1/chat/completions: the request as a ChatRequest.
 * Threads, errors, memory: as body.h. */
#ifndef DAEMON_HTTP_CHAT_BODY_H
#define DAEMON_HTTP_CHAT_BODY_H

#include "daemon/http/sampling_body.h"

typedef struct chat_body {
    Gemmad__V1__ChatRequest request;
    sampling_body common;
    bool logprobs;
} chat_body;

STATUS_CHECKED status chat_body_read(body *b, chat_body *out);

/* Parts that Responses has as well. */
STATUS_CHECKED status chat_body_add_text(body *b, Gemmad__V1__Message *m, const json_value *text);
/* A list of parts ("text", "input_text", "output_text", "refusal"); param is the list's. */
STATUS_CHECKED status chat_body_read_parts(body *b, const json_value *list, const char *param,
                                           Gemmad__V1__Message *m);
/* {name, description, parameters, strict} */
STATUS_CHECKED status chat_body_read_function(body *b, const json_value *f, const char *param,
                                              Gemmad__V1__Tool *t);
/* "tools", each element by `read`, and "parallel_tool_calls". */
typedef status chat_body_tool(body *b, const json_value *v, const char *param, Gemmad__V1__Tool *t);
STATUS_CHECKED status chat_body_read_tools(body *b, chat_body_tool *read, Gemmad__V1__ChatRequest *r);
/* tool_choice; a function's name is in v.function or in v itself. */
STATUS_CHECKED status chat_body_read_choice(body *b, Gemmad__V1__ChatRequest *r);
/* "none" thinks not, "low", "medium", "high" and others do. */
STATUS_CHECKED status chat_body_read_effort(body *b, const json_value *v, const char *param,
                                            Gemmad__V1__ChatRequest *r);

#endif
