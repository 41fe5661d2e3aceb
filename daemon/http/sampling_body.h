/* The fields that every endpoint of generated text has: sampling, limits, formats.
 * Threads, errors, memory: as body.h. */
#ifndef DAEMON_HTTP_SAMPLING_BODY_H
#define DAEMON_HTTP_SAMPLING_BODY_H

#include "daemon/http/body.h"
#include "proto/gemmad.pb-c.h"

enum { HTTP_LOGPROBS_MAX = 20 };

/* For the table of an endpoint's fields: what sampling_body_read and format_body_read look at, and what of other servers'
 * fields is taken as long as it asks for nothing. */
#define SAMPLING_BODY_FIELDS                                                                                 \
    {"max_tokens", NULL, NULL}, {"temperature", NULL, NULL}, {"top_p", NULL, NULL}, {"top_k", NULL, NULL},   \
        {"min_p", NULL, NULL}, {"seed", NULL, NULL}, {"stop", NULL, NULL}, {"stop_token_ids", NULL, NULL},   \
        {"ignore_eos", NULL, NULL}, {"repetition_penalty", NULL, NULL}, {"presence_penalty", NULL, NULL},    \
        {"frequency_penalty", NULL, NULL}, {"logit_bias", NULL, NULL}, {"n", NULL, NULL},                    \
        {"priority", NULL, NULL}, {"logprobs", NULL, NULL}, {"model", NULL, NULL}, {"stream", NULL, NULL},   \
        {"stream_options", NULL, NULL}, {"response_format", NULL, NULL}, {"guided_json", NULL, NULL},        \
        {"guided_regex", NULL, NULL}, {"guided_choice", NULL, NULL}, {"structured_outputs", NULL, NULL},     \
        {"user", "*", NULL}, {"metadata", "*", NULL}, {"request_id", "*", NULL}, {"best_of", "1", "use n"},  \
        {"use_beam_search", "false", "there is no beam search"},                                             \
        {"length_penalty", "1 1.0", "there is no beam search"}, {"min_tokens", "0", NULL},                   \
        {"prompt_logprobs", NULL, NULL}, {"skip_special_tokens", "true false", NULL},                        \
        {"spaces_between_special_tokens", "true false", NULL},                                               \
        {"include_stop_str_in_output", "false", NULL},                                                       \
        {"truncate_prompt_tokens", "", "nothing is truncated here"}, {"guided_grammar", "", NULL},           \
        {"bad_words", "[]", NULL}, {"typical_p", "1 1.0", NULL}, {"cache_prompt", "true", NULL}, {           \
        "lora", "[]", "adapters (LoRA) are not available in this version"                                    \
    }

typedef struct sampling_body {
    Gemmad__V1__Sampling sampling;
    const char *model; /* NULL: the first */
    int32_t priority;
    bool stream, include_usage;
    Gemmad__V1__ResponseFormat *format; /* NULL: free text */
} sampling_body;

/* Not logprobs and max_tokens, which differ. */
STATUS_CHECKED status sampling_body_read(body *b, sampling_body *out);
/* response_format and the guided_… fields of vLLM; only one of them may be there. */
STATUS_CHECKED status format_body_read(body *b, Gemmad__V1__ResponseFormat **out);
/* {"type": …, …}, of which `schema` is at v itself (Responses) or in v.json_schema. */
STATUS_CHECKED status format_body_read_typed(body *b, const json_value *v, const char *param,
                                             Gemmad__V1__ResponseFormat **out);

#endif
