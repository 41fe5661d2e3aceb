/* libmicrohttpd on the loop: its epoll descriptor is polled, its time-outs are a timer, and each connection has a deadline of
 * its own, since libmicrohttpd knows only inactivity: who sends a byte now and then would stay for ever. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/http/http_internal.h"
#include "proto/limits.h"

enum {
    HEADER_MS = 10000,
    IDLE_MS = 75000,
    BODY_MS = 30000,
    BODY_BYTES_A_MS = 32, /* 32 KiB/s: the least that a body may come with, over BODY_MS */
    TURN_MOST_MS = 20,
    LEFT_MS = 2000,          /* for what was on its way when the client closed its end */
    STALL_SECONDS = 300,     /* an answer that is not read at all */
    HEADER_BYTES = 32 << 10, /* libmicrohttpd's memory of a connection: request line and headers together */
};

/* ---- libmicrohttpd's turn ---- */

static void finish_stop(http_server *s);

static void run(http_server *s);

static void on_turn(uv_timer_t *timer) { run(timer->data); }

static void run(http_server *s) {
    MHD_UNSIGNED_LONG_LONG wait_ms;
    if (s->closing) return;
    MHD_run(s->daemon);
    if (s->stopping && s->connections == 0) {
        finish_stop(s);
        return;
    }
    bool waits = MHD_get_timeout(s->daemon, &wait_ms) == MHD_YES;
    /* Never 0: such a timer, started from its own callback, would be all that the loop still does. And less often from turn
     * to turn in which nothing comes: a client that leaves a TLS handshake half done makes libmicrohttpd ask for the next
     * turn at once, for as long as it stays. What comes on a socket has its turn without this timer. */
    if (waits && wait_ms == 0) wait_ms = s->turns < TURN_MOST_MS ? ++s->turns : TURN_MOST_MS;
    if (waits) uv_timer_start(&s->turn, on_turn, wait_ms, 0);
    else uv_timer_stop(&s->turn);
}

void http_server_turn(http_server *s) {
    s->turns = 0;
    if (!s->closing) uv_timer_start(&s->turn, on_turn, 0, 0);
}

static void on_readable(uv_poll_t *poll, int error, int events) {
    http_server *s = poll->data;
    (void)error, (void)events;
    s->turns = 0;
    run(s);
}

/* ---- deadlines ---- */

static uint64_t phase_ms(const http_connection *c) {
    const http_options *o = &c->server->options;
    if (c->left && c->phase != HTTP_WORK) return LEFT_MS;
    switch (c->phase) {
    case HTTP_IDLE: return o->idle_ms;
    case HTTP_HEADERS: return o->header_ms;
    case HTTP_BODY: {
        const http_exchange *x = c->exchange;
        return o->body_ms + (x ? (x->body.size + x->discarded) / BODY_BYTES_A_MS : 0);
    }
    default: return UINT64_MAX;
    }
}

static void on_deadline(uv_timer_t *timer) {
    http_connection *c = timer->data;
    uint64_t passed = uv_now(c->server->loop) - c->phase_began_ms, allowed = phase_ms(c);
    if (allowed == UINT64_MAX) return;
    if (passed < allowed) {
        uv_timer_start(timer, on_deadline, allowed - passed, 0);
        return;
    }
    log_debug("%s: closed after %llu ms: %s", c->peer, (unsigned long long)passed,
              c->phase == HTTP_BODY      ? "its body comes too slowly"
              : c->phase == HTTP_HEADERS ? "the headers are not complete"
                                         : "no request");
    http_connection_break(c);
}

void http_connection_enter(http_connection *c, http_phase phase) {
    c->phase = phase;
    uv_update_time(c->server->loop);
    c->phase_began_ms = uv_now(c->server->loop);
    uint64_t allowed = phase_ms(c);
    if (allowed == UINT64_MAX) uv_timer_stop(&c->deadline);
    else uv_timer_start(&c->deadline, on_deadline, allowed, 0);
}

void http_connection_break(http_connection *c) {
    c->broken = true;
    shutdown(c->fd, SHUT_RDWR);
    if (c->exchange) http_exchange_resume(c->exchange);
}

/* ---- connections ---- */

static acceptor_verdict look(const char *seen, size_t n) {
    (void)n; /* every method begins with a capital letter: not TLS, and no other protocol's noise */
    return seen[0] >= 'A' && seen[0] <= 'Z' ? ACCEPTOR_TAKE : ACCEPTOR_REFUSE;
}

/* A record of a handshake. */
static acceptor_verdict look_for_tls(const char *seen, size_t n) {
    (void)n;
    return seen[0] == 0x16 ? ACCEPTOR_TAKE : ACCEPTOR_REFUSE;
}

static void on_handle_closed(http_server *s) {
    INVARIANT(s->handles > 0);
    if (--s->handles == 0 && s->closing) s->stopped(s->stopped_context);
}

static void on_deadline_closed(uv_handle_t *handle) {
    http_connection *c = handle->data;
    http_server *s = c->server;
    free(c);
    on_handle_closed(s);
}

static void connection_ended(http_connection *c) {
    http_server *s = c->server;
    if (c->accepted) acceptor_end_connection(c->accepted);
    c->accepted = NULL;
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    s->connections--;
    uv_close((uv_handle_t *)&c->deadline, on_deadline_closed);
}

static http_connection *connection_begins(http_server *s, int fd, const char *peer, acceptor_connection *a) {
    http_connection *c = memory_alloc(sizeof *c);
    c->server = s;
    c->accepted = a;
    c->owner = acceptor_is_owner(a);
    c->fd = fd;
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    c->next = s->first;
    c->link = &s->first;
    if (c->next) c->next->link = &c->next;
    s->first = c;
    s->connections++;
    s->handles++;
    int error = uv_timer_init(s->loop, &c->deadline);
    INVARIANT(error == 0);
    c->deadline.data = c;
    http_connection_enter(c, HTTP_HEADERS);
    return c;
}

static void *take(void *context, int fd, const char *peer, acceptor_connection *a) {
    http_server *s = context;
    struct sockaddr_storage where = {0};
    socklen_t n = sizeof where;
    if (s->stopping || getpeername(fd, (struct sockaddr *)&where, &n) != 0) {
        close(fd);
        acceptor_end_connection(a);
        return NULL;
    }
    http_connection *c = connection_begins(s, fd, peer, a);
    s->adding = c;
    if (MHD_add_connection(s->daemon, fd, (struct sockaddr *)&where, n) != MHD_YES && s->adding) {
        log_debug("%s: libmicrohttpd does not take the connection", peer);
        connection_ended(c);
        c = NULL;
    }
    s->adding = NULL;
    http_server_turn(s);
    return c;
}

static void client_left(void *context, void *taken) {
    http_connection *c = taken;
    (void)context;
    if (!c) return;
    c->accepted = NULL;
    c->left = true;
    http_connection_enter(c, c->phase);
    /* libmicrohttpd sees it by itself unless the connection is suspended, as it is while a handler works. A client that has
     * only closed its writing end counts as gone as well. */
    if (!c->exchange || !c->exchange->suspended) return;
    http_exchange_left(c->exchange);
    http_connection_break(c);
}

/* ---- what libmicrohttpd calls ---- */

static void on_connection(void *context, struct MHD_Connection *handle, void **own,
                          enum MHD_ConnectionNotificationCode what) {
    http_server *s = context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        INVARIANT(s->adding);
        s->adding->handle = handle;
        *own = s->adding;
        s->adding = NULL;
    } else if (*own) {
        connection_ended(*own);
        *own = NULL;
    }
}

static http_connection *connection_of(struct MHD_Connection *handle) {
    return MHD_get_connection_info(handle, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* The request line has been read. */
static void *on_request_line(void *context, const char *uri, struct MHD_Connection *handle) {
    (void)context, (void)uri;
    http_connection_enter(connection_of(handle), HTTP_HEADERS);
    return NULL;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *handle, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **own) {
    http_connection *c = connection_of(handle);
    http_exchange *x = *own;
    (void)context, (void)version;
    if (c->broken) return MHD_NO;
    if (!x) {
        *own = x = http_exchange_begin(c, method, url);
        c->exchange = x;
        http_connection_enter(c, HTTP_BODY);
        return x->early ? http_exchange_queue(x, handle) : MHD_YES;
    }
    if (*upload_bytes > 0) {
        http_exchange_receive(x, upload, *upload_bytes);
        *upload_bytes = 0;
        return c->broken ? MHD_NO : MHD_YES;
    }
    if (c->phase != HTTP_WORK) {
        http_connection_enter(c, HTTP_WORK);
        http_exchange_dispatch(x);
    }
    if (x->answered) return http_exchange_queue(x, handle);
    /* Left while its body was still being read: the acceptor has said so already, and says it once. */
    if (c->left) return MHD_NO;
    x->suspended = true;
    MHD_suspend_connection(handle);
    return MHD_YES;
}

static void on_completed(void *context, struct MHD_Connection *handle, void **own,
                         enum MHD_RequestTerminationCode why) {
    http_exchange *x = *own;
    (void)context, (void)why;
    *own = NULL;
    if (!x) return;
    http_connection *c = connection_of(handle);
    c->exchange = NULL;
    http_connection_enter(c, HTTP_IDLE);
    if (c->server->stopping) http_connection_break(c);
    http_exchange_completed(x);
}

static void log_of_library(void *context, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
static void log_of_library(void *context, const char *format, va_list args) {
    char text[512];
    (void)context;
    int n = vsnprintf(text, sizeof text, format, args);
    if (n > 0 && (size_t)n < sizeof text && text[n - 1] == '\n') text[n - 1] = 0;
    log_debug("http: %s", text);
}

/* ---- opening ---- */

static void set_defaults(http_options *o) {
    if (!o->header_ms) o->header_ms = HEADER_MS;
    if (!o->idle_ms) o->idle_ms = IDLE_MS;
    if (!o->body_ms) o->body_ms = BODY_MS;
    if (!o->body_bytes) o->body_bytes = LIMIT_MESSAGE_BYTES;
    if (!o->bodies_bytes) o->bodies_bytes = LIMIT_HTTP_BODIES_BYTES;
}

static status start_daemon(http_server *s) {
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;
    struct MHD_OptionItem encrypt[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)(intptr_t)http_tls_give},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (char[]){HTTP_TLS_PRIORITIES}},
        {MHD_OPTION_HTTPS_MEM_TRUST, 0, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    if (s->options.tls) {
        TRY(http_tls_open(&s->tls, s->options.tls));
        s->options.tls = NULL; /* the caller's */
        flags |= MHD_USE_TLS;
        encrypt[2].ptr_value = (char *)(uintptr_t)http_tls_client_ca(s->tls);
        if (!encrypt[2].ptr_value) encrypt[2] = encrypt[3];
    } else {
        encrypt[0] = encrypt[3];
    }
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, log_of_library, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_URI_LOG_CALLBACK, on_request_line, s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)LIMIT_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)STALL_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_ARRAY, encrypt, MHD_OPTION_END);
    return s->daemon ? ST_OK : fail(ST_INTERNAL, "libmicrohttpd does not start");
}

void http_set_tls(http_server *s, const tls_files *files) {
    if (s->tls && http_tls_replace(s->tls, files) != ST_OK)
        log_error("HTTPS keeps its certificate: %s", status_text());
}

status http_open(http_server **out, uv_loop_t *loop, const http_options *options) {
    http_server *s = memory_alloc(sizeof *s);
    *out = NULL;
    s->loop = loop;
    s->sink = (acceptor_sink){.protocol = options && options->tls ? "HTTPS" : "HTTP/1.1",
                              .option = "--http",
                              .look = options && options->tls ? look_for_tls : look,
                              .take = take,
                              .left = client_left,
                              .context = s};
    if (options) s->options = *options;
    set_defaults(&s->options);
    status st = start_daemon(s);
    if (st != ST_OK) {
        http_tls_close(s->tls);
        free(s);
        return st;
    }
    int fd = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    int error =
        uv_poll_init(loop, &s->poll, fd) | uv_timer_init(loop, &s->turn) | uv_timer_init(loop, &s->grace);
    INVARIANT(error == 0);
    s->poll.data = s->turn.data = s->grace.data = s;
    s->handles = 3;
    uv_poll_start(&s->poll, UV_READABLE, on_readable);
    *out = s;
    return ST_OK;
}

const acceptor_sink *http_sink(const http_server *s) { return &s->sink; }

void http_set_metrics(http_server *s, metrics *m) { s->metrics = m; }
void http_set_gate(http_server *s, const http_gate *gate) { s->gate = *gate; }

uint32_t http_exchange_count(const http_server *s) { return s->exchanges; }

/* ---- stopping ---- */

static void on_closed(uv_handle_t *handle) { on_handle_closed(handle->data); }

static void finish_stop(http_server *s) {
    if (s->closing || s->exchanges > 0) return;
    s->closing = true;
    uv_close((uv_handle_t *)&s->turn, on_closed);
    uv_close((uv_handle_t *)&s->grace, on_closed);
    uv_close((uv_handle_t *)&s->poll, on_closed);
}

static void break_connections(http_server *s, bool idle_only) {
    for (http_connection *c = s->first; c; c = c->next) {
        if (c->exchange && idle_only) continue;
        if (c->exchange && c->exchange->suspended) http_exchange_left(c->exchange);
        http_connection_break(c);
    }
    http_server_turn(s);
}

static void on_grace_over(uv_timer_t *timer) {
    http_server *s = timer->data;
    if (s->exchanges > 0) log_warn("%u HTTP requests still run and are cut off", s->exchanges);
    break_connections(s, false);
}

void http_stop(http_server *s, uint32_t grace_ms, void (*stopped)(void *context), void *context) {
    INVARIANT(!s->stopping);
    s->stopping = true;
    s->stopped = stopped;
    s->stopped_context = context;
    break_connections(s, true);
    uv_timer_start(&s->grace, on_grace_over, grace_ms, 0);
}

void http_close(http_server *s) {
    if (!s) return;
    INVARIANT(s->closing && s->handles == 0);
    MHD_stop_daemon(s->daemon);
    http_tls_close(s->tls);
    free(s);
}
