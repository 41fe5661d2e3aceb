/* What a frame of the engine link must look like, checked by both ends on everything they receive, and by
 * gemmad on what it is about to submit: a request that the leader would refuse must fail alone, not take the
 * link with it. These checks need no memory of earlier frames; order, live ids and counts so far are checked
 * by the ends themselves.
 *
 * Errors:  ST_FORMAT with "kind: field, value, bound". */
#ifndef PROTO_ENGINE_CHECK_H
#define PROTO_ENGINE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include "proto/frame.h"
#include "proto/limits.h"

enum { ENGINE_LINK_VERSION = 1, ENGINE_TEXT_BYTES_MAX = 4096 };

/* What is known of the engine; 0: not known yet, only the limits of proto/limits.h hold. */
typedef struct engine_bounds {
    uint32_t vocab, context_tokens;
} engine_bounds;

STATUS_CHECKED status engine_check_from_leader(const engine_frame *f, const engine_bounds *bounds);
STATUS_CHECKED status engine_check_from_gemmad(const engine_frame *f, const engine_bounds *bounds);
STATUS_CHECKED status engine_check_submit(const Gemmad__Engine__Submit *s, const engine_bounds *bounds);

/* "loading" and "ready" hellos; any other state is refused by the check. */
bool engine_hello_is_ready(const Gemmad__Engine__Hello *h);
/* True when both hold the same n bytes; the time taken does not tell how many were right. */
bool engine_secret_equal(const uint8_t *a, const uint8_t *b, size_t n);

#endif
