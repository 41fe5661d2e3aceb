/* Sets of allowed tokens that the ranks have: the leader numbers them by places, so that a set that comes again (inside a
 * string nearly every step has the same) travels once.
 *
 * Memory:  up to ALLOWED_PLACES sets, taken when first used.
 * Threads: engine thread of the leader. */
#ifndef SHARD_SAMPLE_ALLOWED_SETS_H
#define SHARD_SAMPLE_ALLOWED_SETS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"

/* More than sequences in a step, so that each finds a place that the step has not used. */
enum { ALLOWED_PLACES = 2 * LIMIT_REQUESTS_PER_ENGINE };

typedef struct allowed_sets allowed_sets;

allowed_sets *allowed_sets_open(uint32_t vocab);
void allowed_sets_close(allowed_sets *a); /* NULL is fine */
/* The place of a set, [(vocab + 31) / 32] words, in step number `step` (they rise, from 1). *is_new: the ranks do not have it yet. */
uint32_t allowed_sets_place(allowed_sets *a, const uint32_t *words, uint64_t step, bool *is_new);

#endif
