/* /v1/responses: the answer as a list of items, with the events of a stream as they grow.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_RESPONSE_ANSWER_H
#define DAEMON_HTTP_RESPONSE_ANSWER_H

#include "daemon/http/answer_out.h"

typedef enum response_kind { RESPONSE_REASONING, RESPONSE_MESSAGE, RESPONSE_CALL } response_kind;

typedef struct response_item {
    response_kind kind;
    char id[OPENAI_ID_BYTES];
    uint32_t call_index;
    strbuf call_id, name;
    strbuf text;        /* or a call's arguments */
    const char *status; /* "in_progress", "completed", "incomplete" */
} response_item;

typedef struct response_answer {
    char id[OPENAI_ID_BYTES];
    const char *model;
    uint64_t created;
    const strbuf *echo;
    answer_usage usage;
    response_item *item; /* [count]; the last may be open */
    size_t count, collected;
    bool open, incomplete;
    strbuf malformed; /* JSON strings */
    strbuf truncated; /* a JSON string */
    uint64_t sequence;
    http_exchange *stream; /* NULL: no events are sent */
} response_answer;

void response_answer_close(response_answer *a);
void response_answer_begin(response_answer *a); /* "response.created" and "response.in_progress" */
void response_answer_delta(response_answer *a, const Gemmad__V1__ChatDelta *d);
void response_answer_finished(response_answer *a, const Gemmad__V1__Finished *f);
void response_answer_end(response_answer *a); /* "response.completed" or "response.incomplete" */
void response_answer_fail(response_answer *a, status st, const char *text);
/* The whole "response". */
void response_answer_write(const response_answer *a, const char *key, const char *status_word, strbuf *out);

#endif
