#include "daemon/queue/token_queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

static void *grown(void *array, size_t *capacity, size_t want, size_t size) {
    if (want <= *capacity) return array;
    size_t n = *capacity ? *capacity * 2 : 8;
    if (n < want) n = want;
    *capacity = n;
    return memory_grow(array, n * size);
}

queued_token *token_queue_add(token_queue *q, uint32_t id, const engine_logprob *logprob) {
    uint32_t n = logprob ? logprob->top_count : 0;
    q->token = grown(q->token, &q->capacity, q->count + 1, sizeof *q->token);
    queued_token *t = &q->token[q->count++];
    *t = (queued_token){.id = id,
                        .has_logprob = logprob != NULL,
                        .logprob = logprob ? logprob->logprob : 0,
                        .top_count = n,
                        .top_first = q->top_dropped + q->top_count};
    if (n > 0) {
        q->top = grown(q->top, &q->top_capacity, q->top_count + n, sizeof *q->top);
        memcpy(q->top + q->top_count, logprob->top, n * sizeof *q->top);
        q->top_count += n;
    }
    return t;
}

void token_queue_drop(token_queue *q, size_t n) {
    INVARIANT(n <= q->count);
    if (n == 0) return;
    uint64_t tops = 0;
    for (size_t i = 0; i < n; i++) tops += q->token[i].top_count;
    q->count -= n;
    memmove(q->token, q->token + n, q->count * sizeof *q->token);
    if (tops == 0) return;
    q->top_count -= tops;
    q->top_dropped += tops;
    memmove(q->top, q->top + tops, q->top_count * sizeof *q->top);
}

void token_queue_close(token_queue *q) {
    free(q->token);
    free(q->top);
    *q = (token_queue){0};
}

size_t token_queue_fit(const token_queue *q, size_t n, uint64_t max_bytes) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += token_queue_wire_bytes(&q->token[i]);
        if (bytes > max_bytes && i > 0) return i;
    }
    return n;
}
