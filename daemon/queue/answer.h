/* One sample's answer between engine and client: tokens go in, text comes out with the ids that belong to it.
 * Text that may be the beginning of a stop string waits, as do bytes of an incomplete character; a token's id
 * waits with the last byte of its text.
 *
 * Memory:  owns copies of everything; answer_close releases. The tokenizer must outlive it.
 * Threads: loop thread. */
#ifndef DAEMON_QUEUE_ANSWER_H
#define DAEMON_QUEUE_ANSWER_H

#include "base/strbuf.h"
#include "daemon/queue/stop.h"
#include "daemon/queue/token_queue.h"
#include "daemon/text/tokenizer.h"
#include <stdbool.h>

typedef struct answer {
    token_queue tokens;
    size_t waiting;          /* of them, the last ones: text still in the detokenizer */
    strbuf text;             /* the answer's bytes from `taken` on */
    uint64_t taken, decided; /* counted from the answer's first byte: what has left, what may leave */
    detokenizer detokenizer;
    stop_matcher stop;
    bool has_text; /* there is a tokenizer */
    bool stopped;  /* a stop string was met; nothing more is taken in */
} answer;

/* What may be sent now; the pointers live until the next call. */
typedef struct answer_part {
    const char *text;
    size_t text_bytes;
    const token_queue *tokens; /* the first token_count of it */
    size_t token_count;
} answer_part;

/* tokenizer NULL: ids only. *stop moves into the answer. */
void answer_open(answer *a, const tokenizer *t, stop_matcher *stop);
void answer_close(answer *a);
/* ending: the token that ends the answer, which has no text in it. */
void answer_add(answer *a, uint32_t id, const engine_logprob *logprob, bool ending);
/* No more tokens: releases what waited; bytes of an incomplete character become U+FFFD. */
void answer_end(answer *a);
/* A part for an event of about max_bytes; false: nothing may be sent. It stays in the answer until
 * answer_drop. */
bool answer_take(const answer *a, uint64_t max_bytes, answer_part *part);
void answer_drop(answer *a, const answer_part *part);
static inline uint64_t answer_bytes(const answer *a) { return token_queue_bytes(&a->tokens) + a->text.size; }

#endif
