/* What gemmad.v1.Sampling means: bounds, the checkpoint's defaults, and the engine's form of it. Generate,
 * Chat and HTTP read their requests through here.
 *
 * Memory:  a plan owns its arrays; sampling_close releases. A zeroed plan is empty and valid.
 * Threads: any.
 * Errors:  ST_INVALID with the field, its value and the bound; ST_UNSUPPORTED with the field. The plan is
 * then closed. */
#ifndef DAEMON_QUEUE_SAMPLING_H
#define DAEMON_QUEUE_SAMPLING_H

#include "daemon/engine/engine.h"
#include "daemon/queue/stop.h"
#include "proto/gemmad.pb-c.h"
#include <stdbool.h>

typedef struct sampling_plan {
    engine_sampling engine; /* its pointers point into this plan */
    uint32_t n;             /* samples */
    bool has_max_tokens;
    uint32_t stop_token[LIMIT_STOP_TOKENS * 2];
    engine_bias *bias;
    stop_matcher stop;
} sampling_plan;

/* s NULL: all defaults. has_text: the model has a tokenizer, so stop strings can be found. A seed that is not
 * given is drawn. */
STATUS_CHECKED status sampling_read(sampling_plan *out, const Gemmad__V1__Sampling *s,
                                    const model_facts *facts, bool has_text);
/* One more token that ends the answer. ST_INVALID: there are as many as an engine takes. */
STATUS_CHECKED status sampling_add_stop(sampling_plan *p, uint32_t id);
void sampling_close(sampling_plan *p);
/* The prompt's length is known: it and max_tokens must fit the context; max_tokens that was not given is the
 * rest. */
STATUS_CHECKED status sampling_fit(sampling_plan *p, size_t prompt_tokens, const model_facts *facts);
/* Every id is a row of the vocabulary, else ST_INVALID with field, position and value. */
STATUS_CHECKED status sampling_check_ids(const char *field, const uint32_t *ids, size_t n, uint32_t vocab);

#endif
