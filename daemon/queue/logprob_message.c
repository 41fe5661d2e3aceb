#include "daemon/queue/logprob_message.h"

#include <stdlib.h>

#include "base/memory.h"

Gemmad__V1__TokenLogprob **logprob_messages(const token_queue *q, size_t n) {
    size_t tops = 0;
    for (size_t i = 0; i < n; i++) tops += q->token[i].top_count;
    /* Pointers first: they need the strictest alignment, as the structs after them do. */
    Gemmad__V1__TokenLogprob **list =
        memory_alloc((n + tops) * sizeof(void *) + n * sizeof(Gemmad__V1__TokenLogprob) +
                     tops * sizeof(Gemmad__V1__TopLogprob));
    Gemmad__V1__TopLogprob **top_list = (Gemmad__V1__TopLogprob **)(list + n);
    Gemmad__V1__TokenLogprob *token = (Gemmad__V1__TokenLogprob *)(top_list + tops);
    Gemmad__V1__TopLogprob *top = (Gemmad__V1__TopLogprob *)(token + n);
    for (size_t i = 0; i < n; i++, token++) {
        const queued_token *from = &q->token[i];
        const engine_top *from_top = token_queue_top(q, from);
        gemmad__v1__token_logprob__init(token);
        token->has_token_id = token->has_logprob = 1;
        token->token_id = from->id;
        token->logprob = from->logprob;
        token->n_top = from->top_count;
        token->top = top_list;
        for (uint32_t k = 0; k < from->top_count; k++, top++) {
            gemmad__v1__top_logprob__init(top);
            top->has_token_id = top->has_logprob = 1;
            top->token_id = from_top[k].token;
            top->logprob = from_top[k].logprob;
            *top_list++ = top;
        }
        list[i] = token;
    }
    return list;
}

void logprob_messages_free(Gemmad__V1__TokenLogprob **messages) { free(messages); }
