/* The answer of one Generate or Chat call, gathered while it arrives.
 *
 * Memory:  reply_open allocates, reply_close releases; what stands in a reply lives until then.
 * Threads: main thread.
 * Errors:  the server's; ST_INTERNAL for a stream that does not follow the contract. What arrived before stays. */
#ifndef CTL_REPLY_H
#define CTL_REPLY_H

#include "base/strbuf.h"
#include "ctl/args.h"
#include "ctl/client.h"
#include "ctl/json_write.h"
#include "proto/gemmad.pb-c.h"

enum { REPLY_CALLS_MAX = 128 }; /* tool calls of one answer */

typedef enum reply_part { REPLY_REASONING, REPLY_CONTENT } reply_part;

typedef struct reply_tool_call {
    char *id, *name; /* NULL: none was sent */
    strbuf arguments;
} reply_tool_call;

typedef struct reply_sample {
    strbuf content, reasoning;
    reply_tool_call *call; /* [call_count] */
    uint32_t call_count;
    arg_ids ids;
    json_writer logprobs;                 /* a list without its brackets */
    ProtobufCMessage *event;              /* of `finished` */
    const Gemmad__V1__Finished *finished; /* in it; NULL: not yet */
} reply_sample;

typedef struct reply {
    reply_sample *sample; /* [count] */
    uint32_t count;
    bool chat;
    json_writer prompt_logprobs; /* a list without its brackets */
    ProtobufCMessage *started_event;
    const Gemmad__V1__Started *started; /* in it; NULL: not yet */
    const Gemmad__V1__Usage *usage;     /* NULL: none yet */
} reply;

/* Told in the order of the stream; any may be NULL. */
typedef struct reply_listener {
    status (*text)(void *context, uint32_t sample, reply_part part, const void *utf8, size_t n);
    void (*progress)(void *context, uint32_t read, uint32_t prompt);
    status (*finished)(void *context, uint32_t sample);
    void *context;
} reply_listener;

void reply_open(reply *r, uint32_t count);
void reply_close(reply *r);

/* request: a GenerateRequest or a ChatRequest. */
STATUS_CHECKED status reply_receive(reply *r, client *server, const ProtobufCMessage *request,
                                    uint32_t timeout_ms, const reply_listener *listener);

/* finish_reason, "" when absent. */
const char *reply_ended_by(const reply_sample *s);
/* reasoning, tool_calls, malformed and truncated_call of a Chat's sample, into an object that is begun. */
void reply_write_chat_json(json_writer *w, const reply_sample *s);
/* "prompt: 132 tokens in 0.020 s (…); answer: …", of the first sample; nothing without usage and timings. */
void reply_write_speed(strbuf *out, const reply *r);

#endif
