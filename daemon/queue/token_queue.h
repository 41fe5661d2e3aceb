/* Tokens with their log-probabilities on their way to a client.
 *
 * Memory:  owns copies of what was added; token_queue_close releases. A zeroed queue is empty and valid.
 * Threads: one. */
#ifndef DAEMON_QUEUE_TOKEN_QUEUE_H
#define DAEMON_QUEUE_TOKEN_QUEUE_H

#include "daemon/engine/engine.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct queued_token {
    uint32_t id;
    float logprob;
    bool has_logprob;
    uint32_t top_count;
    uint64_t top_first; /* counted from the first entry ever added */
    uint64_t text_end;  /* where its text ends in the answer; the answer's to keep */
} queued_token;

typedef struct token_queue {
    queued_token *token; /* [count], oldest first */
    size_t count, capacity;
    engine_top *top;
    size_t top_count, top_capacity;
    uint64_t top_dropped;
} token_queue;

/* logprob may be NULL. */
queued_token *token_queue_add(token_queue *q, uint32_t id, const engine_logprob *logprob);
/* Forgets the n oldest. */
void token_queue_drop(token_queue *q, size_t n);
void token_queue_close(token_queue *q);
static inline const engine_top *token_queue_top(const token_queue *q, const queued_token *t) {
    return q->top + (t->top_first - q->top_dropped);
}
/* What waits, in memory. */
static inline uint64_t token_queue_bytes(const token_queue *q) {
    return q->count * sizeof *q->token + q->top_count * sizeof *q->top;
}
/* The most that a token can take in an event: its id, and twelve bytes for each log-probability with its
 * frame. */
static inline uint64_t token_queue_wire_bytes(const queued_token *t) {
    return 5 + (t->has_logprob ? 16 + (uint64_t)t->top_count * 13 : 0);
}
/* How many of the n oldest make an event of at most max_bytes; at least 1 when n is. */
size_t token_queue_fit(const token_queue *q, size_t n, uint64_t max_bytes);

#endif
