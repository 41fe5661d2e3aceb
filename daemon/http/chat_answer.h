/* /v1/chat/completions: the answer, as it grows and as JSON.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_CHAT_ANSWER_H
#define DAEMON_HTTP_CHAT_ANSWER_H

#include "daemon/http/answer_out.h"

typedef struct chat_call {
    strbuf id, name, arguments;
} chat_call;

/* One of the n. */
typedef struct chat_choice {
    strbuf content, reasoning, logprobs;
    chat_call *call; /* [calls] */
    size_t calls;
    char finish_reason[16];
    strbuf malformed; /* JSON strings: calls that could not be read */
    strbuf truncated; /* a JSON string: a call cut by the limit */
} chat_choice;

typedef struct chat_answer {
    char id[OPENAI_ID_BYTES];
    const char *model;
    uint64_t created;
    const tokenizer *tokenizer; /* for logprobs; NULL without */
    bool logprobs;
    uint32_t top;
    answer_usage usage;
    chat_choice *choice; /* [count] */
    uint32_t count;
    size_t collected; /* bytes */
} chat_answer;

void chat_answer_close(chat_answer *a);
/* Keeps what came, for chat_answer_write. */
void chat_answer_delta(chat_answer *a, const Gemmad__V1__ChatDelta *d);
void chat_answer_finished(chat_answer *a, const Gemmad__V1__Finished *f);
/* The whole "chat.completion". */
void chat_answer_write(const chat_answer *a, strbuf *out);

/* "chat.completion.chunk"s of a stream. With want_usage there is "usage": null in all but the last. */
void chat_chunk_role(const chat_answer *a, uint32_t index, bool want_usage, strbuf *out);
/* false: nothing in it is for clients. */
bool chat_chunk_delta(const chat_answer *a, const Gemmad__V1__ChatDelta *d, bool want_usage, strbuf *out);
void chat_chunk_finished(const chat_answer *a, const Gemmad__V1__Finished *f, bool want_usage, strbuf *out);
void chat_chunk_usage(const chat_answer *a, strbuf *out);

#endif
