/* A conversation: the messages that a chat sends again with every question.
 *
 * Memory:  owns its messages; talk_close releases them. A zeroed one is empty.
 * Threads: main thread. */
#ifndef CTL_TALK_H
#define CTL_TALK_H

#include "base/strbuf.h"
#include "ctl/json_write.h"
#include "ctl/reply.h"
#include "proto/gemmad.pb-c.h"

typedef struct talk {
    Gemmad__V1__Message **message; /* [count]; the first is the system's where there is one */
    size_t count, capacity;
} talk;

void talk_close(talk *t);
/* text "": none any more. */
void talk_set_system(talk *t, const char *text, size_t n);
const Gemmad__V1__Message *talk_system(const talk *t); /* NULL: none */
/* role: "user" or another that the template knows. */
void talk_add(talk *t, const char *role, const char *text, size_t n);
/* An answer with text and calls becomes two messages: the template writes the text of a message behind the results of its
 * calls, and the model wrote it before them. */
void talk_add_answer(talk *t, const reply_sample *s);
void talk_add_result(talk *t, const reply_tool_call *call, const strbuf *text);
/* Drops the messages from number `count` on. */
void talk_cut(talk *t, size_t count);

/* The messages as OpenAI's array. */
void talk_write_json(json_writer *w, const talk *t);

#endif
