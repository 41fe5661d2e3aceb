/* One sample's answer between engine and client: tokens go in, text comes out with the ids that belong to it.
 * Text that may be the beginning of a stop string waits, as do bytes of an incomplete character; a token's id
 * waits with the last byte of its text.
 *
 * Of a chat it is reasoning, content and the arguments of calls, in the order in which they were written. A token without
 * text of its own (markup, a part of a call) waits for what it belongs to or comes before: the next text, the call, or the
 * end of the answer; only when LIMIT_EVENT_BYTES of such tokens wait do they go ahead. Stop strings are looked for in the
 * content, each stretch of it by itself.
 *
 * Memory:  owns copies of everything; answer_close releases. The tokenizer must outlive it.
 * Threads: loop thread. */
#ifndef DAEMON_QUEUE_ANSWER_H
#define DAEMON_QUEUE_ANSWER_H

#include "base/strbuf.h"
#include "daemon/queue/call_id.h"
#include "daemon/queue/stop.h"
#include "daemon/queue/token_queue.h"
#include "daemon/text/chat_parser.h"
#include "daemon/text/tokenizer.h"
#include <stdbool.h>

/* How tokens are read. */
typedef struct answer_form {
    bool is_chat;                                    /* false: their text as it is */
    bool starts_in_thought, thinking, refuses_calls; /* as chat_parser_options */
    uint32_t calls_max;                              /* the answer ends after so many; 0: any number */
} answer_form;

typedef struct answer_call {
    uint32_t index; /* among the calls of the answer */
    char id[CALL_ID_BYTES], *name;
} answer_call;

/* A stretch of one kind. */
typedef struct answer_run {
    chat_kind kind;
    uint64_t begin, end; /* counted from the answer's first byte */
    answer_call *call;   /* of CHAT_CALL: the text is its arguments */
} answer_run;

typedef struct answer {
    token_queue tokens;
    size_t waiting;          /* of them, the last ones: text still in the detokenizer */
    strbuf text;             /* the answer's bytes from `taken` on */
    uint64_t taken, decided; /* counted from the answer's first byte: what has left, what may leave */
    detokenizer detokenizer;
    stop_matcher stop;
    bool has_text; /* there is a tokenizer */
    bool stopped;  /* a stop string was met, or the last call that is wanted; nothing more is taken in */
    chat_parser *parser; /* NULL: no chat, and nothing of what follows */
    answer_run *run;     /* [run_count], those before run_first have left */
    size_t run_first, run_count, run_capacity;
    uint32_t calls, calls_max;
    bool grew; /* while a token is read: it brought text or a call */
} answer;

/* What may be sent now; the pointers live until the next call. */
typedef struct answer_part {
    chat_kind kind; /* CHAT_CONTENT unless it is a chat */
    const char *text;
    size_t text_bytes;
    const answer_call *call;   /* of CHAT_CALL */
    bool call_begins;          /* text is the first of its arguments */
    const token_queue *tokens; /* the first token_count of it */
    size_t token_count;
} answer_part;

/* tokenizer NULL: ids only, and no chat. *stop moves into the answer, which stays where it is. */
void answer_open(answer *a, const tokenizer *t, stop_matcher *stop, answer_form form);
void answer_close(answer *a);
/* ending: the token that ends the answer, which has no text in it. */
void answer_add(answer *a, uint32_t id, const engine_logprob *logprob, bool ending);
/* No more tokens: releases what waited; bytes of an incomplete character become U+FFFD. whole: as chat_parser_end. */
void answer_end(answer *a, bool whole);
/* A part for an event of about max_bytes; false: nothing may be sent. It stays in the answer until
 * answer_drop. */
bool answer_take(const answer *a, uint64_t max_bytes, answer_part *part);
void answer_drop(answer *a, const answer_part *part);
/* Whether a chat's answer holds calls that can be made. */
static inline bool answer_has_calls(const answer *a) { return a->parser && chat_parser_calls(a->parser) > 0; }
static inline uint64_t answer_bytes(const answer *a) { return token_queue_bytes(&a->tokens) + a->text.size; }

#endif
