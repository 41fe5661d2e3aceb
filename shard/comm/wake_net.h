/* One TCP connection between rank 0 and every other rank, for what MPI cannot do: sleep without using a
 * core, and notice that a process is gone. Rank 0 is the hub. A byte 'w' wakes; 'b' is a goodbye before an
 * orderly close, so that a connection that ends without one means a rank that failed.
 *
 * Proof:   hub sends a nonce; the rank answers {rank, own nonce, HMAC-SHA256(secret, "rank", both nonces,
 *          rank)}; the hub answers HMAC-SHA256(secret, "hub", …). The secret itself never travels, the hub
 *          drops strangers before it reads anything else from them, and a rank that reached somebody else
 *          at one of the hub's addresses (bridges have the same address on many hosts) goes on to the
 *          next.
 * Memory:  all taken at open; at most WAKE_STRANGERS_MAX connections that have proved nothing are held at
 *          once.
 * Threads: one thread, except wake_hub_shut and wake_link_shut: any thread.
 * Errors:  ST_TIMEOUT when ranks do not come in time (they are named), ST_PEER when the other side is
 *          gone. */
#ifndef SHARD_COMM_WAKE_NET_H
#define SHARD_COMM_WAKE_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/status.h"

enum { WAKE_ADDRESSES_BYTES = 2048, WAKE_STRANGERS_MAX = 64, WAKE_PROOF_MS = 2000 };

typedef struct wake_secret {
    const uint8_t *bytes;
    size_t count;
} wake_secret;

typedef struct wake_hub wake_hub;
typedef struct wake_link wake_link;
typedef enum wake_peer { WAKE_PEER_THERE, WAKE_PEER_LEFT, WAKE_PEER_LOST } wake_peer;

/* Listens on a port of its own, on the loopback address only when all ranks share the host. `addresses` is
 * text for wake_link_open: the port and every address of this host. */
STATUS_CHECKED status wake_hub_open(wake_hub **out, uint32_t ranks, bool loopback_only,
                                    char addresses[WAKE_ADDRESSES_BYTES]);
/* Returns when ranks 1 … ranks - 1 have all proved themselves, and listens no more. */
STATUS_CHECKED status wake_hub_accept(wake_hub *h, wake_secret secret, uint32_t timeout_ms);
/* One wake to each rank with skip[rank] false. */
STATUS_CHECKED status wake_hub_wake(wake_hub *h, const bool *skip);
/* A rank whose connection ended without a goodbye, or 0. */
uint32_t wake_hub_lost(wake_hub *h);
void wake_hub_shut(wake_hub *h);  /* every rank finds its connection ended */
void wake_hub_close(wake_hub *h); /* with a goodbye, unless shut; NULL is fine */

STATUS_CHECKED status wake_link_open(wake_link **out, uint32_t rank, const char *addresses,
                                     wake_secret secret, uint32_t timeout_ms);
/* Takes one wake. ST_TIMEOUT: none came; ST_PEER: the hub left or is lost. */
STATUS_CHECKED status wake_link_wait(wake_link *l, uint32_t timeout_ms);
wake_peer wake_link_peer(const wake_link *l); /* without taking wakes */
void wake_link_shut(wake_link *l);
void wake_link_close(wake_link *l); /* with a goodbye, unless shut; NULL is fine */

#endif
