/* What the two ends of a wake connection share (wake_proof.c): the proof, and sockets.
 * Threads: any; nothing here keeps state. */
#ifndef SHARD_COMM_WAKE_INTERNAL_H
#define SHARD_COMM_WAKE_INTERNAL_H

#include "shard/comm/wake_net.h"

enum { WAKE_NONCE_BYTES = 32, WAKE_PROOF_BYTES = 32 };

/* The rank's answer to the hub's nonce, as it travels: little-endian, no padding. */
typedef struct wake_answer {
    uint8_t rank[4];
    uint8_t nonce[WAKE_NONCE_BYTES];
    uint8_t proof[WAKE_PROOF_BYTES];
} wake_answer;

static inline void wake_put_rank(uint8_t out[4], uint32_t rank) {
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(rank >> (8 * i));
}
static inline uint32_t wake_get_rank(const uint8_t in[4]) {
    return (uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

STATUS_CHECKED status wake_nonce(uint8_t out[WAKE_NONCE_BYTES]);
/* side is "rank" or "hub", so that one side's proof is none of the other's. answer->proof is not read. */
void wake_prove(uint8_t proof[WAKE_PROOF_BYTES], wake_secret secret, const char *side,
                const uint8_t hub_nonce[WAKE_NONCE_BYTES], const wake_answer *answer);
/* Takes as long for any difference. */
bool wake_proof_equal(const uint8_t a[WAKE_PROOF_BYTES], const uint8_t b[WAKE_PROOF_BYTES]);

/* No delay for single bytes; probes, so that a host that lost power is noticed while both sides are
 * silent. */
void wake_set_options(int fd);
/* Polls fd for events until clock_now_ns() reaches until_ns: > 0 ready, 0 time is up. */
int wake_poll(int fd, short events, uint64_t until_ns);
wake_peer wake_peer_of(int fd);
void wake_say_goodbye(int fd);

#endif
