/* Frames to and from the link's C structs. Apart from link.c so that the fuzz target can reach it.
 * Memory:  link_request_unpack's result is released with link_request_free; the other functions fill messages
 *          whose memory belongs to the caller's arrays. */
#ifndef SHARD_LINK_WIRE_H
#define SHARD_LINK_WIRE_H

#include "proto/engine_check.h"
#include "shard/link/link.h"

/* The submit must have passed engine_check_from_gemmad. */
link_request *link_request_unpack(const Gemmad__Engine__Submit *s);

/* rank[count] and list[count] are filled from info[count]. */
void link_rank_pack(const link_rank_info *info, uint32_t count, Gemmad__Engine__RankInfo *rank,
                    Gemmad__Engine__RankInfo **list);

/* Arrays behind n logprobs in one allocation; free() it. list points at the [n] messages. */
void *link_logprob_pack(const token_logprob *p, uint32_t n, Gemmad__Engine__TokenLogprob ***list);

#endif
