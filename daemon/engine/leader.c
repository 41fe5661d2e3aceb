#include "daemon/engine/leader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"

enum {
    PEERS_MAX = 8,                            /* connections that have not shown the secret, and the leader */
    SEND_BYTES_MAX = 2 * LIMIT_MESSAGE_BYTES, /* waiting to be taken by the leader */
};

typedef struct peer peer;
struct peer {
    uv_pipe_t pipe;
    uv_timer_t timer; /* to show the secret */
    leader *owner;
    peer *next;
    uint8_t shown[LIMIT_SECRET_BYTES]; /* what it gives for the secret */
    size_t shown_bytes;
    frame_reader reader;
    uint32_t handles; /* open ones of the two; memory goes with the last */
    bool proven, closing;
};

struct leader {
    uv_loop_t *loop;
    uv_pipe_t listener;
    leader_events events;
    engine_bounds bounds;
    uint8_t secret[LIMIT_SECRET_BYTES];
    uint32_t prove_ms, peers;
    peer *first;  /* every open connection */
    peer *proven; /* the leader, or NULL */
    uint64_t bytes_received;
    bool closing, listener_closed;
};

static void free_when_done(leader *l) {
    if (!l->closing || !l->listener_closed || l->first) return;
    leader_events events = l->events;
    explicit_bzero(l->secret, sizeof l->secret);
    free(l);
    if (events.closed) events.closed(events.context);
}

/* ---- one connection ---- */

static void peer_handle_closed(uv_handle_t *handle) {
    peer *p = handle->data;
    if (--p->handles > 0) return;
    leader *l = p->owner;
    peer **at = &l->first;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    l->peers--;
    frame_reader_close(&p->reader);
    free(p);
    free_when_done(l);
}

static void peer_close(peer *p) {
    if (p->closing) return;
    p->closing = true;
    if (p->owner->proven == p) p->owner->proven = NULL;
    uv_close((uv_handle_t *)&p->pipe, peer_handle_closed);
    uv_close((uv_handle_t *)&p->timer, peer_handle_closed);
}

/* Ends the connection with the sentence of the thread. */
static void peer_end(peer *p, status why) {
    leader *l = p->owner;
    bool was_leader = l->proven == p;
    char text[STATUS_TEXT_MAX];
    strcpy(text, status_text());
    peer_close(p);
    if (was_leader) l->events.lost(l->events.context, why, text);
    else log_stranger(LOG_WARN, "engine link: a connection was closed: %s", text);
}

static status prove(peer *p, const engine_frame *f) {
    leader *l = p->owner;
    if (f->kind_case != GEMMAD__ENGINE__FRAME__KIND_HELLO)
        return fail(ST_AUTH, "its first frame is a %s, not a hello", frame_kind_name(f));
    if (l->proven) return fail(ST_IN_USE, "the engine has a leader already");
    uv_timer_stop(&p->timer);
    p->proven = true;
    p->reader.max_bytes = LIMIT_MESSAGE_BYTES;
    l->proven = p;
    return ST_OK;
}

static status handle_frame(peer *p, const uint8_t *payload, uint32_t n) {
    leader *l = p->owner;
    engine_frame *f = NULL;
    TRY(frame_unpack(payload, n, &f));
    status st;
    if (!p->proven) TRY_OR_FAIL(prove(p, f));
    TRY_OR_FAIL(engine_check_from_leader(f, &l->bounds));
    TRY_OR_FAIL(l->events.frame(l->events.context, f));
fail:
    frame_free(f);
    return st;
}

static void on_room(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
    (void)suggested;
    peer *p = handle->data;
    size_t room;
    if (p->shown_bytes < sizeof p->shown) {
        *out = uv_buf_init((char *)p->shown + p->shown_bytes, (unsigned)(sizeof p->shown - p->shown_bytes));
        return;
    }
    uint8_t *at = frame_reader_room(&p->reader, &room);
    *out = uv_buf_init((char *)at, (unsigned)room);
}

/* Bare bytes of a fixed number: no length and no message of a stranger is ever read. */
static void check_secret(peer *p, size_t more) {
    p->shown_bytes += more;
    if (p->shown_bytes < sizeof p->shown) return;
    bool equal = engine_secret_equal(p->shown, p->owner->secret, sizeof p->shown);
    explicit_bzero(p->shown, sizeof p->shown);
    if (!equal) peer_end(p, fail(ST_AUTH, "its first bytes are not the engine's secret"));
}

static void on_bytes(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    (void)buffer;
    peer *p = stream->data;
    if (n == 0 || p->closing) return;
    if (n < 0) {
        status st = n == UV_EOF ? fail(ST_UNAVAILABLE, "it closed the connection")
                                : fail(ST_UNAVAILABLE, "the connection broke: %s", uv_strerror((int)n));
        peer_end(p, st);
        return;
    }
    if (p->shown_bytes < sizeof p->shown) {
        check_secret(p, (size_t)n);
        return;
    }
    if (p->proven) p->owner->bytes_received += (uint64_t)n;
    frame_reader_add(&p->reader, (size_t)n);
    while (!p->closing) { /* an event may hang up */
        const uint8_t *payload;
        uint32_t length;
        status st = frame_reader_next(&p->reader, &payload, &length);
        if (st == ST_OK && !payload) return;
        if (st == ST_OK) st = handle_frame(p, payload, length);
        if (st != ST_OK) peer_end(p, st);
    }
}

static void on_too_late(uv_timer_t *timer) {
    peer *p = timer->data;
    peer_end(p, fail(ST_AUTH, "it has not shown the secret within %u ms", p->owner->prove_ms));
}

static bool is_same_user(uv_pipe_t *pipe) {
    uv_os_fd_t fd;
    struct ucred who;
    socklen_t n = sizeof who;
    if (uv_fileno((uv_handle_t *)pipe, &fd) != 0) return false;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) == 0 && who.uid == geteuid();
}

static void on_connection(uv_stream_t *stream, int error) {
    leader *l = stream->data;
    if (error || l->closing) return;
    peer *p = memory_alloc(sizeof *p);
    p->owner = l;
    p->handles = 2;
    frame_reader_open(&p->reader, FRAME_FIRST_BYTES_MAX);
    int inited = uv_pipe_init(l->loop, &p->pipe, 0) | uv_timer_init(l->loop, &p->timer);
    INVARIANT(inited == 0);
    p->pipe.data = p->timer.data = p;
    p->next = l->first;
    l->first = p;
    l->peers++;
    if (uv_accept(stream, (uv_stream_t *)&p->pipe) != 0) {
        peer_close(p);
    } else if (l->peers > PEERS_MAX) {
        peer_end(p, fail(ST_BUSY, "%d connections are open already", PEERS_MAX));
    } else if (!is_same_user(&p->pipe)) {
        peer_end(p, fail(ST_AUTH, "it belongs to another user"));
    } else {
        uv_timer_start(&p->timer, on_too_late, l->prove_ms, 0);
        uv_read_start((uv_stream_t *)&p->pipe, on_room, on_bytes);
    }
}

/* ---- the listener ---- */

static void listener_closed(uv_handle_t *handle) {
    leader *l = handle->data;
    l->listener_closed = true;
    free_when_done(l);
}

status leader_listen(leader **out, uv_loop_t *loop, const leader_options *options) {
    leader *l = memory_alloc(sizeof *l);
    l->loop = loop;
    l->events = options->events;
    l->prove_ms = options->prove_ms;
    memcpy(l->secret, options->secret, sizeof l->secret);
    int error = uv_pipe_init(loop, &l->listener, 0);
    INVARIANT(error == 0);
    l->listener.data = l;
    error = uv_pipe_bind(&l->listener, options->socket_path);
    if (!error && chmod(options->socket_path, 0600) != 0) error = -errno;
    if (!error) error = uv_listen((uv_stream_t *)&l->listener, PEERS_MAX, on_connection);
    if (error) {
        l->events.closed = NULL;
        leader_close(l);
        return fail(error == UV_EADDRINUSE ? ST_IN_USE : ST_IO, "%s: %s", options->socket_path,
                    uv_strerror(error));
    }
    *out = l;
    return ST_OK;
}

void leader_close(leader *l) {
    if (!l || l->closing) return;
    l->closing = true;
    for (peer *p = l->first; p; p = p->next) peer_close(p);
    uv_close((uv_handle_t *)&l->listener, listener_closed);
}

bool leader_is_connected(const leader *l) { return l->proven != NULL; }
uint64_t leader_bytes_received(const leader *l) { return l->bytes_received; }
void leader_set_bounds(leader *l, engine_bounds bounds) { l->bounds = bounds; }

void leader_hang_up(leader *l) {
    if (l->proven) peer_close(l->proven);
}

/* ---- sending ---- */

typedef struct sending {
    uv_write_t request;
    uint8_t *bytes;
} sending;

static void on_sent(uv_write_t *request, int error) {
    (void)error; /* the reading side hears of a broken connection too, and tells */
    sending *s = request->data;
    free(s->bytes);
    free(s);
}

status leader_send(leader *l, const engine_frame *f) {
    if (!l->proven) return fail(ST_UNAVAILABLE, "the engine's leader is not connected");
    uv_stream_t *stream = (uv_stream_t *)&l->proven->pipe;
    size_t waiting = uv_stream_get_write_queue_size(stream), n;
    if (waiting > SEND_BYTES_MAX)
        return fail(ST_BUSY, "%zu bytes wait to be taken by the engine, at most %d may", waiting,
                    SEND_BYTES_MAX);
    sending *s = memory_alloc(sizeof *s);
    status st = frame_pack(f, &s->bytes, &n);
    if (st != ST_OK) {
        free(s);
        return st;
    }
    s->request.data = s;
    uv_buf_t buffer = uv_buf_init((char *)s->bytes, (unsigned)n);
    int error = uv_write(&s->request, stream, &buffer, 1, on_sent);
    if (error == 0) return ST_OK;
    free(s->bytes);
    free(s);
    return fail(ST_UNAVAILABLE, "the engine's leader: %s", uv_strerror(error));
}
