/* Queued tokens as protobuf's TokenLogprob, for Generate's and Chat's events.
 * Memory:  one block; logprob_messages_free releases. Valid while the queue is unchanged. */
#ifndef DAEMON_QUEUE_LOGPROB_MESSAGE_H
#define DAEMON_QUEUE_LOGPROB_MESSAGE_H

#include "daemon/queue/token_queue.h"
#include "proto/gemmad.pb-c.h"

/* [n], the n oldest of the queue. */
Gemmad__V1__TokenLogprob **logprob_messages(const token_queue *q, size_t n);
void logprob_messages_free(Gemmad__V1__TokenLogprob **messages);

#endif
