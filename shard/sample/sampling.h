/* How one request's tokens are drawn. All fields are set; defaults were put in by the coordinator.
 * Order (docs/numerics.md): logit_bias, repetition penalty (prompt + answer), presence and frequency penalty (answer),
 * grammar, temperature, top_k, top_p, min_p. */
#ifndef SHARD_SAMPLE_SAMPLING_H
#define SHARD_SAMPLE_SAMPLING_H

#include <stdint.h>
#include "proto/limits.h"

typedef struct logit_bias {
    uint32_t token;
    float bias;
} logit_bias;

typedef struct sampling {
    float temperature;        /* 0: greedy */
    float top_p, min_p;       /* 1 and 0: off */
    uint32_t top_k;           /* 0: off */
    float repetition_penalty; /* 1: off */
    float presence_penalty, frequency_penalty; /* 0: off */
    uint64_t seed;
    uint32_t sample_index;
    int32_t logprobs, prompt_logprobs; /* top n; -1: not asked */
    uint32_t max_tokens;      /* new tokens, counted from the end of the prompt */
    uint32_t stop_token_count, bias_count;
    uint32_t stop_token[LIMIT_STOP_TOKENS * 2];
    logit_bias bias[LIMIT_LOGIT_BIAS];
} sampling;

typedef struct top_entry {
    uint32_t token;
    float logprob;
} top_entry;

/* log-softmax of the model's logits (after its softcap), before bias, penalties, grammar and filters. */
typedef struct token_logprob {
    uint32_t token;
    float logprob;
    uint32_t top_count;
    const top_entry *top;     /* [top_count], falling probability, ties by lowest id */
} token_logprob;

#endif
