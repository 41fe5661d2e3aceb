/* Which tokens a request has seen, for the repetition, presence and frequency penalties: one small hash table a slot,
 * the same on every rank.
 *
 * Memory:  grows with distinct tokens; penalties_clear keeps it, penalties_close releases.
 * Threads: engine thread. */
#ifndef SHARD_SAMPLE_PENALTIES_H
#define SHARD_SAMPLE_PENALTIES_H

#include <stdbool.h>
#include <stdint.h>
#include "shard/sample/sampling.h"

typedef struct seen_token {
    uint32_t token;       /* SAMPLE_NO_TOKEN: empty place */
    uint32_t in_answer;   /* times; a token of the prompt alone has 0 */
} seen_token;

typedef struct penalties {
    seen_token *place;
    uint32_t capacity, count; /* capacity is a power of two or 0 */
} penalties;

bool penalties_wanted(const sampling *p);
void penalties_clear(penalties *t);
void penalties_close(penalties *t);
void penalties_add(penalties *t, uint32_t token, bool in_answer);

#endif
