#include "daemon/api/acceptor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "proto/limits.h"

enum {
    LISTENERS_MAX = 32,
    GREETING_MS = 10000,
    LOOK_AGAIN_MS = 25, /* at a greeting that came in part: peeked bytes would wake a poll again and again */
    ACCEPT_PAUSE_MS = 100, /* when the process is out of descriptors */
    ACCEPTS_A_TURN = 64,   /* so that a flood does not hold the loop */
    LINGER_MS = 2000,
    LINGER_BYTES_A_TURN = 1 << 20,
};

typedef struct listener {
    acceptor *owner;
    const acceptor_sink *sink;
    address_socket socket;
    uv_poll_t poll;
    uv_timer_t pause;
} listener;

/* `fd` is the sink's once it is handed over; `watch`, its duplicate, stays ours. */
struct acceptor_connection {
    acceptor *owner;
    const acceptor_sink *sink;
    void *taken; /* the sink's word for it */
    int fd, watch;
    bool handed_over, closing, owner_user;
    uint64_t opened_ms;
    char peer[64];
    uv_poll_t poll;
    uv_timer_t timer;
    uint32_t handles;
    acceptor_connection *next, **link;
};
typedef acceptor_connection connection;

struct acceptor {
    uv_loop_t *loop;
    acceptor_limits limits;
    listener *listener[LISTENERS_MAX];
    uint32_t listener_count;
    connection *first;
    uint32_t connections;
    bool stopping;
    uint32_t handles; /* of listeners, and one for each connection */
    void (*stopped)(void *context);
    void *stopped_context;
};

uint32_t acceptor_connection_count(const acceptor *a) { return a->connections; }
bool acceptor_is_owner(const acceptor_connection *c) { return c->owner_user; }

status acceptor_open(acceptor **out, uv_loop_t *loop, const acceptor_limits *limits) {
    *out = memory_alloc(sizeof **out);
    (*out)->loop = loop;
    if (limits) (*out)->limits = *limits;
    if (!(*out)->limits.connections) (*out)->limits.connections = LIMIT_CONNECTIONS;
    if (!(*out)->limits.greeting_ms) (*out)->limits.greeting_ms = GREETING_MS;
    if (!(*out)->limits.socket_mode) (*out)->limits.socket_mode = 0600;
    return ST_OK;
}

static void handle_gone(acceptor *a) {
    INVARIANT(a->handles > 0);
    if (--a->handles == 0 && a->stopping) a->stopped(a->stopped_context);
}

/* ---- one connection ---- */

static void on_connection_closed(uv_handle_t *handle) {
    connection *c = handle->data;
    if (--c->handles > 0) return;
    acceptor *a = c->owner;
    close(c->watch);
    free(c);
    handle_gone(a);
}

static void end_connection(connection *c) {
    if (c->closing) return;
    c->closing = true;
    if (!c->handed_over) close(c->fd);
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    c->owner->connections--;
    uv_close((uv_handle_t *)&c->poll, on_connection_closed);
    uv_close((uv_handle_t *)&c->timer, on_connection_closed);
}

static void on_hang_up(uv_poll_t *poll, int error, int events) {
    connection *c = poll->data;
    (void)error, (void)events;
    end_connection(c); /* c lives until its handles are closed, which is later */
    if (c->sink->left) c->sink->left(c->sink->context, c->taken);
}

static void hand_over(connection *c) {
    uv_timer_stop(&c->timer);
    c->handed_over = true;
    uv_poll_start(&c->poll, UV_DISCONNECT, on_hang_up);
    c->taken = c->sink->take(c->sink->context, c->fd, c->peer, c);
}

static void on_lingered(uv_timer_t *timer) { end_connection(timer->data); }

static void on_leftover(uv_poll_t *poll, int error, int events) {
    connection *c = poll->data;
    static char bytes[16384]; /* nobody reads it */
    (void)events;
    for (size_t seen = 0; !error && seen < LINGER_BYTES_A_TURN;) {
        ssize_t n = recv(c->watch, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) break;
        seen += (size_t)n;
        if (seen >= LINGER_BYTES_A_TURN) return;
    }
    end_connection(c);
}

void acceptor_end_connection(acceptor_connection *c) {
    if (c->closing) return;
    uv_poll_start(&c->poll, UV_READABLE, on_leftover);
    uv_timer_start(&c->timer, on_lingered, LINGER_MS, 0);
}

static void on_greeting(uv_poll_t *poll, int error, int events);

static void on_timer(uv_timer_t *timer) {
    connection *c = timer->data;
    uint64_t waited = uv_now(c->owner->loop) - c->opened_ms;
    if (waited >= c->owner->limits.greeting_ms) {
        log_debug("%s: no %s within %u ms", c->peer, c->sink->protocol, c->owner->limits.greeting_ms);
        end_connection(c);
        return;
    }
    uv_timer_start(&c->timer, on_timer, c->owner->limits.greeting_ms - waited, 0);
    uv_poll_start(&c->poll, UV_READABLE, on_greeting);
}

/* With a part of a greeting unread, nothing else would tell. */
static void on_left_early(uv_poll_t *poll, int error, int events) {
    (void)error, (void)events;
    end_connection(poll->data);
}

static void on_greeting(uv_poll_t *poll, int error, int events) {
    connection *c = poll->data;
    char seen[ACCEPTOR_LOOK_BYTES];
    (void)events;
    ssize_t n = error ? 0 : recv(c->fd, seen, sizeof seen, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    acceptor_verdict verdict = n <= 0 ? ACCEPTOR_REFUSE : c->sink->look(seen, (size_t)n);
    if (verdict == ACCEPTOR_REFUSE) {
        if (n > 0) log_debug("%s: what it sent is no %s", c->peer, c->sink->protocol);
        end_connection(c);
    } else if (verdict == ACCEPTOR_TAKE) {
        hand_over(c);
    } else {
        uint64_t left = c->opened_ms + c->owner->limits.greeting_ms - uv_now(c->owner->loop);
        uv_poll_start(&c->poll, UV_DISCONNECT, on_left_early);
        uv_timer_start(&c->timer, on_timer, left < LOOK_AGAIN_MS ? left : LOOK_AGAIN_MS, 0);
    }
}

static void begin_connection(listener *l, int fd, int watch, const char *peer, bool owner_user) {
    acceptor *a = l->owner;
    connection *c = memory_alloc(sizeof *c);
    c->owner = a;
    c->sink = l->sink;
    c->fd = fd;
    c->watch = watch;
    c->owner_user = owner_user;
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    uv_update_time(a->loop);
    c->opened_ms = uv_now(a->loop);
    c->next = a->first;
    c->link = &a->first;
    if (c->next) c->next->link = &c->next;
    a->first = c;
    a->connections++;
    a->handles++;
    int refused = uv_timer_init(a->loop, &c->timer) | uv_poll_init(a->loop, &c->poll, watch);
    INVARIANT(refused == 0);
    c->poll.data = c->timer.data = c;
    c->handles = 2;
    uv_timer_start(&c->timer, on_timer, a->limits.greeting_ms, 0);
    uv_poll_start(&c->poll, UV_READABLE, on_greeting);
}

/* ---- accepting ---- */

/* Names the client; false: it may not come in. */
static bool admit_unix(const acceptor *a, int fd, char *peer, size_t size, bool *owner_user) {
    struct ucred who;
    socklen_t n = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) != 0) return false;
    snprintf(peer, size, "uid %u", who.uid);
    *owner_user = who.uid == geteuid() || who.uid == 0;
    if (*owner_user || a->limits.other_users) return true;
    log_stranger(LOG_WARN,
                 "a connection of user %u (process %d) is refused: only %u and root may use this socket",
                 who.uid, who.pid, geteuid());
    return false;
}

static bool admit_tcp(int fd, const struct sockaddr_storage *from, char *peer, size_t size) {
    int yes = 1;
    const void *where = from->ss_family == AF_INET6
                            ? (const void *)&((const struct sockaddr_in6 *)(const void *)from)->sin6_addr
                            : (const void *)&((const struct sockaddr_in *)(const void *)from)->sin_addr;
    if (!inet_ntop(from->ss_family, where, peer, (socklen_t)size)) return false;
    /* A token is a small write that somebody waits for. gRPC sets this on sockets of its own making only. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return true;
}

/* One stranger leaves room for others. */
static bool holds_too_many(const acceptor *a, const char *peer) {
    uint32_t count = 0;
    if (2 * a->connections < a->limits.connections) return false;
    for (const connection *c = a->first; c; c = c->next) count += !c->owner_user && !strcmp(c->peer, peer);
    return 2 * count >= a->limits.connections;
}

static void take(listener *l, int fd, const struct sockaddr_storage *from) {
    acceptor *a = l->owner;
    char peer[64] = "";
    bool owner_user = false, admitted;
    if (a->connections >= a->limits.connections) {
        log_stranger(LOG_WARN, "a connection is refused: %u are open, the most that are allowed",
                     a->connections);
        close(fd);
        return;
    }
    if (l->socket.is_unix) admitted = admit_unix(a, fd, peer, sizeof peer, &owner_user);
    else admitted = admit_tcp(fd, from, peer, sizeof peer);
    if (admitted && !owner_user && holds_too_many(a, peer)) {
        log_stranger(LOG_WARN, "a connection of %s is refused: it holds half of the %u that may be open",
                     peer, a->limits.connections);
        admitted = false;
    }
    if (!admitted) {
        close(fd);
        return;
    }
    int watch = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (watch < 0) {
        log_warn("%s: no descriptor left for its connection: %s", peer, strerror(errno));
        close(fd);
        return;
    }
    begin_connection(l, fd, watch, peer, owner_user);
}

static void on_acceptable(uv_poll_t *poll, int error, int events);

static void on_pause_over(uv_timer_t *timer) {
    listener *l = timer->data;
    uv_poll_start(&l->poll, UV_READABLE, on_acceptable);
}

static void on_acceptable(uv_poll_t *poll, int error, int events) {
    listener *l = poll->data;
    (void)error, (void)events;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage from;
        socklen_t n = sizeof from;
        int fd = accept4(l->socket.fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            take(l, fd, &from);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warn("%s: cannot accept a connection: %s", l->socket.text, strerror(errno));
            uv_poll_stop(&l->poll);
            uv_timer_start(&l->pause, on_pause_over, ACCEPT_PAUSE_MS, 0);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return; /* EAGAIN: that was the last */
        }
    }
}

static void begin_listener(acceptor *a, const address_socket *socket, const acceptor_sink *sink) {
    listener *l = memory_alloc(sizeof *l);
    l->owner = a;
    l->sink = sink;
    l->socket = *socket;
    int refused = uv_poll_init(a->loop, &l->poll, socket->fd) | uv_timer_init(a->loop, &l->pause);
    INVARIANT(refused == 0);
    l->poll.data = l->pause.data = l;
    uv_poll_start(&l->poll, UV_READABLE, on_acceptable);
    a->listener[a->listener_count++] = l;
    a->handles += 2;
}

static void warn_of_open(const acceptor *a, const address_socket *sockets, int count) {
    for (int i = 0; i < count && !a->limits.other_users; i++) {
        struct sockaddr_storage where = {0};
        socklen_t n = sizeof where;
        if (sockets[i].is_unix || getsockname(sockets[i].fd, (struct sockaddr *)&where, &n) != 0) continue;
        log_warn("%s is open to every user of %s; --keys FILE asks them for a key", sockets[i].text,
                 address_is_loopback((const struct sockaddr *)&where) ? "this machine"
                                                                      : "every machine that reaches it");
    }
}

status acceptor_listen(acceptor *a, const char *address, bool public_allowed, const acceptor_sink *sink) {
    address_socket sockets[ADDRESS_SOCKETS_MAX];
    int count;
    TRY(address_listen(sink->option, address, public_allowed, sockets, &count));
    status st = address_set_mode(&sockets[0],
                                 a->limits.socket_mode); /* a Unix socket is the only one of its address */
    if (a->listener_count + (uint32_t)count > LISTENERS_MAX)
        st = fail(ST_INVALID, "%s %s: more than %d listening sockets", sink->option, address, LISTENERS_MAX);
    if (sink->unix_only && !sockets[0].is_unix)
        st = fail(ST_UNSUPPORTED, "%s %s: with TLS, %s cannot take a TCP socket from others; name host:port",
                  sink->option, address, sink->protocol);
    if (st != ST_OK) {
        while (count > 0) address_close(&sockets[--count]);
        return st;
    }
    warn_of_open(a, sockets, count);
    for (int i = 0; i < count; i++) begin_listener(a, &sockets[i], sink);
    return ST_OK;
}

void acceptor_describe(const acceptor *a, const acceptor_sink *sink, strbuf *out) {
    bool first = true;
    for (uint32_t i = 0; i < a->listener_count; i++) {
        if (sink && a->listener[i]->sink != sink) continue;
        strbuf_add_format(out, "%s%s", first ? "" : ", ", a->listener[i]->socket.text);
        first = false;
    }
}

/* ---- stopping ---- */

static void on_listener_handle_closed(uv_handle_t *handle) { handle_gone(handle->data); }

void acceptor_stop(acceptor *a, void (*stopped)(void *context), void *context) {
    INVARIANT(!a->stopping);
    a->stopping = true;
    a->stopped = stopped;
    a->stopped_context = context;
    a->handles++; /* without a listener there would be nobody to say so */
    for (uint32_t i = 0; i < a->listener_count; i++) {
        listener *l = a->listener[i];
        l->poll.data = l->pause.data = a;
        uv_close((uv_handle_t *)&l->poll, on_listener_handle_closed);
        uv_close((uv_handle_t *)&l->pause, on_listener_handle_closed);
        address_close(&l->socket);
    }
    while (a->first) end_connection(a->first);
    handle_gone(a);
}

void acceptor_close(acceptor *a) {
    if (!a) return;
    INVARIANT(a->handles == 0);
    for (uint32_t i = 0; i < a->listener_count; i++) free(a->listener[i]);
    free(a);
}
