#include "daemon/api/server.h"

#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/api/server_internal.h"
#include "daemon/api/tls.h"
#include "proto/limits.h"

enum {
    METHODS_MAX = 64,
    PEER_BYTES = 64,
    REQUESTED_CALLS = 32, /* asked of gRPC ahead of their arrival */
    CALLS_MAX = 16384,    /* live at once, of every kind: a few KiB each */
    STREAMS_MAX = 1024,   /* of one connection; a client's library queues what is over */
    KEEPALIVE_MS = 60000, /* a peer that is gone without a word is noticed after this and */
    KEEPALIVE_TIMEOUT_MS = 20000,
    HANDSHAKE_MS = 10000, /* of TLS, and until HTTP/2 has begun behind it */
    METADATA_BYTES = 16384,
    MESSAGE_MS = 120000,  /* 64 MiB at half a MiB a second */
    LOOKS = 8,            /* at those that wait, in that time */
    PING_LEAST_MS = 5000, /* clients may ping as often without being cut off */
};

typedef struct event_queue {
    pthread_mutex_t lock;
    server_tag *first, **last; /* guarded by lock */
    bool ended;                /* guarded by lock: no event will come any more */
    uv_async_t wake;
    grpc_completion_queue *queue;
} event_queue;

struct server {
    uv_loop_t *loop;
    acceptor_sink sink;
    grpc_server *grpc[SERVER_ORIGINS];
    grpc_server_credentials *credentials;
    event_queue events;
    pthread_t thread;
    server_method method[METHODS_MAX];
    uint32_t method_count;
    auth *auth;
    tls *tls;                 /* NULL: plaintext */
    char (*peer)[PEER_BYTES]; /* [peer_count], by descriptor */
    int peer_count;
    uint32_t calls, requested[SERVER_ORIGINS]; /* running; asked for and not come */
    uint32_t shut_down;                        /* of grpc */
    bool stopping, ended, drained;
    server_tag shutdown[SERVER_ORIGINS];
    uv_timer_t grace, look;
    uint32_t message_ms;
    server_waiting *waiting;
    void (*stopped)(void *context);
    void *stopped_context;
    uint32_t handles;
};

grpc_server *server_handle(server *s, server_origin from) { return s->grpc[from]; }
grpc_completion_queue *server_queue(server *s) { return s->events.queue; }
uv_loop_t *server_loop(server *s) { return s->loop; }
bool server_is_stopping(const server *s) { return s->stopping; }
auth *server_auth(const server *s) { return s->auth; }
void server_set_auth(server *s, auth *keys) { s->auth = keys; }
uint32_t server_call_count(const server *s) { return s->calls; }

/* ---- the completion thread ---- */

/* What is there at once goes to the loop together: waking it costs more than an event. The nap lets more come together and
 * keeps this thread from taking turns with the loop on a small machine: 64 streams on two cores get 15 % more events and
 * a tenth less delay. An idle server does not nap, it waits. */
enum { EVENTS_TOGETHER = 64, NAP_US = 30 };

static void *drain_completions(void *argument) {
    event_queue *q = argument;
    for (bool ended = false; !ended;) {
        server_tag *first = NULL, **last = &first;
        gpr_timespec until = gpr_inf_future(GPR_CLOCK_REALTIME);
        for (int i = 0; i < EVENTS_TOGETHER && !ended; i++) {
            grpc_event e = grpc_completion_queue_next(q->queue, until, NULL);
            if (e.type == GRPC_QUEUE_TIMEOUT) break;
            ended = e.type == GRPC_QUEUE_SHUTDOWN;
            if (ended) break;
            server_tag *tag = e.tag;
            tag->ok = e.success;
            tag->next = NULL;
            *last = tag;
            last = &tag->next;
            until = gpr_inf_past(GPR_CLOCK_REALTIME);
        }
        pthread_mutex_lock(&q->lock);
        if (first) {
            *q->last = first;
            q->last = last;
        }
        q->ended = ended;
        /* Under the lock: the loop closes the handle once it has seen `ended`. */
        uv_async_send(&q->wake);
        pthread_mutex_unlock(&q->lock);
        if (!ended) usleep(NAP_US);
    }
    return NULL;
}

static void on_closed(uv_handle_t *handle) {
    server *s = handle->data;
    INVARIANT(s->handles > 0);
    if (--s->handles == 0 && s->stopped) s->stopped(s->stopped_context);
}

static void on_wake(uv_async_t *wake) {
    server *s = wake->data;
    event_queue *q = &s->events;
    pthread_mutex_lock(&q->lock);
    server_tag *tag = q->first;
    bool ended = q->ended;
    q->first = NULL;
    q->last = &q->first;
    pthread_mutex_unlock(&q->lock);
    while (tag) {
        server_tag *next = tag->next; /* `done` may free the tag */
        tag->done(tag->owner, tag->ok);
        tag = next;
    }
    if (!ended || s->drained) return;
    s->drained = true;
    pthread_join(s->thread, NULL);
    uv_close((uv_handle_t *)&s->events.wake, on_closed);
    uv_close((uv_handle_t *)&s->grace, on_closed);
    uv_close((uv_handle_t *)&s->look, on_closed);
}

/* ---- opening ---- */

/* gRPC's own log lines in our format. Its errors are peers that send nonsense and connections that break, which an
 * operator need not be woken for. */
static void log_of_grpc(gpr_log_func_args *a) {
    log_stranger(a->severity == GPR_LOG_SEVERITY_ERROR ? LOG_WARN : LOG_DEBUG, "grpc: %s", a->message);
}

static grpc_arg integer(const char *name, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)name, .value.integer = value};
}

static grpc_server *create_grpc_server(void) {
    grpc_arg args[] = {
        integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, LIMIT_MESSAGE_BYTES),
        integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        integer(GRPC_ARG_MAX_CONCURRENT_STREAMS, STREAMS_MAX),
        integer(GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS),
        integer(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS),
        integer(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        integer(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        integer(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_LEAST_MS),
        integer(GRPC_ARG_ALLOW_REUSEPORT, 0),
        integer(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS),
        integer(GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES),
    };
    return grpc_server_create(&(grpc_channel_args){.num_args = sizeof args / sizeof *args, .args = args},
                              NULL);
}

static void request_calls(server *s, server_origin from) {
    while (!s->stopping && s->requested[from] < REQUESTED_CALLS) {
        s->requested[from]++;
        rpc_request(s, from);
    }
}

static acceptor_verdict look(const char *seen, size_t n);
static void *take(void *context, int fd, const char *peer, acceptor_connection *c);

status server_open(server **out, uv_loop_t *loop) {
    server *s = memory_alloc(sizeof *s);
    s->loop = loop;
    s->sink =
        (acceptor_sink){.protocol = "HTTP/2", .option = "--listen", .look = look, .take = take, .context = s};
    gpr_set_log_function(log_of_grpc);
    grpc_init();
    s->credentials = grpc_insecure_server_credentials_create();
    s->events.queue = grpc_completion_queue_create_for_next(NULL);
    s->events.last = &s->events.first;
    for (int from = 0; from < SERVER_ORIGINS; from++) {
        s->grpc[from] = create_grpc_server();
        grpc_server_register_completion_queue(s->grpc[from], s->events.queue, NULL);
    }

    int error = uv_async_init(loop, &s->events.wake, on_wake);
    INVARIANT(error == 0);
    error = uv_timer_init(loop, &s->grace) | uv_timer_init(loop, &s->look);
    INVARIANT(error == 0);
    s->events.wake.data = s->grace.data = s->look.data = s;
    s->handles = 3;
    s->message_ms = MESSAGE_MS;
    pthread_mutex_init(&s->events.lock, NULL);
    error = pthread_create(&s->thread, NULL, drain_completions, &s->events);
    INVARIANT(error == 0);
    *out = s;
    return ST_OK;
}

void server_set_message_ms(server *s, uint32_t ms) { s->message_ms = ms; }

void server_wait_begins(server *s, server_waiting *w) {
    w->since_ms = uv_now(s->loop);
    w->next = s->waiting;
    w->link = &s->waiting;
    if (w->next) w->next->link = &w->next;
    s->waiting = w;
}

void server_wait_ends(server_waiting *w) {
    if (!w->link) return;
    *w->link = w->next;
    if (w->next) w->next->link = w->link;
    w->link = NULL;
}

/* The newest come first: from the first that is too old on, all are. */
static void look_at_waiting(uv_timer_t *timer) {
    server *s = timer->data;
    uint64_t now = uv_now(s->loop);
    server_waiting **at = &s->waiting;
    while (*at && now - (*at)->since_ms < s->message_ms) at = &(*at)->next;
    while (*at) {
        server_waiting *late = *at;
        server_wait_ends(late);
        late->too_late(late);
    }
}

void server_start(server *s) {
    uv_timer_start(&s->look, look_at_waiting, s->message_ms / LOOKS, s->message_ms / LOOKS);
    for (int from = 0; from < SERVER_ORIGINS; from++) {
        grpc_server_start(s->grpc[from]);
        request_calls(s, from);
    }
}

void server_set_tls(server *s, const tls_files *files) {
    s->sink.unix_only = true;
    if (s->tls) tls_replace(s->tls, files);
    else tls_open(&s->tls, files);
}

/* Taken and let go first: gRPC tells no reason, and this has a sentence for each. It takes it itself without
 * SO_REUSEPORT, so that whoever comes in between is noticed. */
status server_listen_tls(server *s, const char *address, bool public_allowed) {
    address_socket sockets[ADDRESS_SOCKETS_MAX];
    int count;
    INVARIANT(s->tls);
    TRY(address_listen("--listen", address, public_allowed, sockets, &count));
    status st = ST_OK;
    for (int i = 0; i < count; i++) {
        address_close(&sockets[i]);
        if (st == ST_OK) st = tls_add_port(s->tls, s->grpc[FROM_OTHERS], sockets[i].text);
    }
    return st;
}

/* ---- methods ---- */

void server_add_method(server *s, const server_method *method) {
    INVARIANT(s->method_count < METHODS_MAX);
    s->method[s->method_count++] = *method;
}

static void refuse_stream(void *path, call *c, const ProtobufCMessage *request) {
    (void)request;
    status st = fail(ST_UNSUPPORTED, "%s takes a stream of requests, which is not available in this version",
                     (const char *)path + 1);
    c->ops->finish(c, st, status_text(), 0);
}

void server_add_core(server *s, const call_method *methods, uint32_t count, void *core) {
    for (uint32_t i = 0; i < count; i++) {
        const call_method *m = &methods[i];
        server_add_method(s,
                          &(server_method){.path = m->path,
                                           .request = m->request,
                                           .handle = m->client_streams ? refuse_stream : m->handle,
                                           .context = m->client_streams ? (void *)(uintptr_t)m->path : core});
    }
}

const server_method *server_find_method(const server *s, const char *path, size_t n) {
    for (uint32_t i = 0; i < s->method_count; i++)
        if (strlen(s->method[i].path) == n && !memcmp(s->method[i].path, path, n)) return &s->method[i];
    return NULL;
}

/* ---- connections ---- */

/* gRPC names the peer of a connection that it was given "fd:7", so the descriptor is the key. A call of a connection
 * that has since ended may find its successor's name, and is dead itself. */
static void keep_peer(server *s, int fd, const char *peer) {
    if (fd >= s->peer_count) {
        int count = fd + 64;
        s->peer = memory_grow(s->peer, (size_t)count * sizeof *s->peer);
        memset(s->peer + s->peer_count, 0, (size_t)(count - s->peer_count) * sizeof *s->peer);
        s->peer_count = count;
    }
    snprintf(s->peer[fd], PEER_BYTES, "%s", peer);
}

const char *server_peer(const server *s, int fd) { return fd >= 0 && fd < s->peer_count ? s->peer[fd] : ""; }

static acceptor_verdict look(const char *seen, size_t n) {
    /* RFC 9113, 3.4: what every client sends first. */
    static const char greeting[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    _Static_assert(sizeof greeting - 1 <= ACCEPTOR_LOOK_BYTES, "the acceptor shows all of it");
    if (n > sizeof greeting - 1) n = sizeof greeting - 1;
    if (memcmp(seen, greeting, n) != 0) return ACCEPTOR_REFUSE;
    return n == sizeof greeting - 1 ? ACCEPTOR_TAKE : ACCEPTOR_MORE;
}

static void *take(void *context, int fd, const char *peer, acceptor_connection *c) {
    server *s = context;
    if (s->stopping) {
        close(fd);
        return NULL;
    }
    keep_peer(s, fd, peer);
    grpc_server_add_channel_from_fd(s->grpc[acceptor_is_owner(c) ? FROM_OWNER : FROM_OTHERS], fd,
                                    s->credentials);
    return NULL;
}

const acceptor_sink *server_sink(const server *s) { return &s->sink; }

/* ---- calls ---- */

bool server_call_begins(server *s, server_origin from) {
    s->requested[from]--;
    s->calls++;
    request_calls(s, from);
    return s->calls <= CALLS_MAX;
}

/* ---- stopping ---- */

static void end_queue_when_done(server *s) {
    bool none = s->calls == 0 && s->requested[FROM_OWNER] == 0 && s->requested[FROM_OTHERS] == 0;
    if (s->shut_down == SERVER_ORIGINS && none && !s->ended) {
        s->ended = true;
        grpc_completion_queue_shutdown(s->events.queue);
    }
}

void server_call_ends(server *s) {
    INVARIANT(s->calls > 0);
    s->calls--;
    end_queue_when_done(s);
}

void server_request_ends(server *s, server_origin from) {
    INVARIANT(s->requested[from] > 0);
    s->requested[from]--;
    end_queue_when_done(s);
}

static void on_shut_down(void *owner, bool ok) {
    server *s = owner;
    (void)ok;
    if (++s->shut_down == SERVER_ORIGINS) uv_timer_stop(&s->grace);
    end_queue_when_done(s);
}

static void on_grace_over(uv_timer_t *timer) {
    server *s = timer->data;
    if (s->calls > 0) log_warn("%u calls still run and are cancelled", s->calls);
    for (int from = 0; from < SERVER_ORIGINS; from++) grpc_server_cancel_all_calls(s->grpc[from]);
}

void server_stop(server *s, uint32_t grace_ms, void (*stopped)(void *context), void *context) {
    INVARIANT(!s->stopping);
    s->stopping = true;
    s->stopped = stopped;
    s->stopped_context = context;
    for (int from = 0; from < SERVER_ORIGINS; from++) {
        s->shutdown[from] = (server_tag){.done = on_shut_down, .owner = s};
        grpc_server_shutdown_and_notify(s->grpc[from], s->events.queue, &s->shutdown[from]);
    }
    uv_timer_stop(&s->look);
    uv_timer_start(&s->grace, on_grace_over, grace_ms, 0);
}

void server_close(server *s) {
    if (!s) return;
    INVARIANT(s->drained && s->handles == 0);
    for (int from = 0; from < SERVER_ORIGINS; from++) grpc_server_destroy(s->grpc[from]);
    grpc_completion_queue_destroy(s->events.queue);
    tls_close(s->tls);
    grpc_server_credentials_release(s->credentials);
    grpc_shutdown();
    pthread_mutex_destroy(&s->events.lock);
    free(s->peer);
    free(s);
}
