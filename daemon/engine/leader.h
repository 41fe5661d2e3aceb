/* gemmad's end of one engine link: listens on the engine's socket, lets in the one peer that shows the
 * secret, and hands over its frames, checked. A peer's first bytes must be the secret, soon; nothing else of it is
 * looked at before, and its first frame must be a small hello.
 *
 * Memory:  leader_listen allocates; leader_close releases after the `closed` event. Frames are valid during
 *          the event.
 * Threads: loop thread.
 * Errors:  a frame that fails a check closes the connection with `lost` and a sentence naming frame, field
 *          and value. */
#ifndef DAEMON_ENGINE_LEADER_H
#define DAEMON_ENGINE_LEADER_H

#include <stdbool.h>
#include <uv.h>
#include "proto/engine_check.h"

typedef struct leader leader;

typedef struct leader_events {
    /* ST_OK, or the sentence for which the link is closed. The first one of a connection is a hello. */
    status (*frame)(void *context, const engine_frame *f);
    /* The connection that was let in ended; never from inside leader_send or leader_hang_up. */
    void (*lost)(void *context, status why, const char *text);
    void (*closed)(void *context); /* after leader_close */
    void *context;
} leader_events;

typedef struct leader_options {
    const char *socket_path; /* of at most 107 bytes; its folder is the owner's alone */
    const uint8_t *secret;   /* [LIMIT_SECRET_BYTES], copied */
    uint32_t prove_ms;
    leader_events events;
} leader_options;

STATUS_CHECKED status leader_listen(leader **out, uv_loop_t *loop, const leader_options *options);
void leader_close(leader *l);

bool leader_is_connected(const leader *l);
/* Every byte of the let-in connection: a sign of life, even in the middle of a frame. */
uint64_t leader_bytes_received(const leader *l);
void leader_set_bounds(leader *l, engine_bounds bounds);
/* ST_UNAVAILABLE: nobody is connected; ST_BUSY: too much waits to be sent already. */
STATUS_CHECKED status leader_send(leader *l, const engine_frame *f);
/* Without a `lost` event. */
void leader_hang_up(leader *l);

#endif
