/* What the files of the HTTP server share.
 * Threads: loop thread. */
#ifndef DAEMON_HTTP_HTTP_INTERNAL_H
#define DAEMON_HTTP_HTTP_INTERNAL_H

#include <microhttpd.h>

#include "daemon/http/http.h"
#include "daemon/http/http_tls.h"

typedef enum http_phase { HTTP_IDLE, HTTP_HEADERS, HTTP_BODY, HTTP_WORK } http_phase;

typedef struct http_connection {
    http_server *server;
    acceptor_connection *accepted; /* NULL: its client has left, or it was ended */
    struct MHD_Connection *handle;
    int fd;
    char peer[64];
    http_phase phase;
    uint64_t phase_began_ms;
    uv_timer_t deadline;
    http_exchange *exchange; /* the one that libmicrohttpd works on */
    bool owner;              /* of the daemon's own user, or root's */
    bool left;               /* the client has closed its end, or both */
    bool broken;             /* to be closed as soon as libmicrohttpd looks at it */
    struct http_connection *next, **link;
} http_connection;

enum { HTTP_ROUTE_TABLES = 8, HTTP_HEADERS_MAX = 8, HTTP_ID_BYTES = 64 };

typedef struct http_table {
    const http_route *route;
    size_t count;
    void *context;
} http_table;

struct http_server {
    uv_loop_t *loop;
    acceptor_sink sink;
    http_options options;
    http_gate gate;
    metrics *metrics;
    http_table table[HTTP_ROUTE_TABLES];
    size_t tables;
    struct MHD_Daemon *daemon;
    http_tls *tls; /* NULL: plaintext */
    uv_poll_t poll;
    uv_timer_t turn, grace;
    uint32_t turns;                  /* since something came */
    http_connection *first, *adding; /* adding: the one that libmicrohttpd is being told of */
    uint32_t connections, exchanges;
    size_t body_bytes; /* of all exchanges */
    bool stopping, closing;
    void (*stopped)(void *context);
    void *stopped_context;
    uint32_t handles; /* of libuv: ours and one for each connection */
};

/* The phase's time begins. */
void http_connection_enter(http_connection *c, http_phase phase);
/* libmicrohttpd shall look at its connections again. */
void http_server_turn(http_server *s);
/* Closed without another byte. */
void http_connection_break(http_connection *c);

struct http_exchange {
    http_server *server;
    http_connection *connection; /* NULL: libmicrohttpd is done with it */
    const http_route *route;
    void *route_context;
    char id[HTTP_ID_BYTES + 1], caller[128], peer[64];
    char *method, *path;
    uint64_t began_ms;
    strbuf body;
    uint64_t discarded;   /* of a body that was refused */
    bool admitted, early; /* early: refused before its body is read, which is long */
    bool closes;          /* the connection, with the answer */
    void *gate_data;
    /* The handler's side. */
    bool handling, told_left;
    void (*left)(void *context, http_exchange *x);
    void (*drained)(void *context, http_exchange *x);
    void *watch_context;
    /* The answer. */
    struct {
        char *name, *value;
    } header[HTTP_HEADERS_MAX];
    size_t headers;
    uint32_t retry_after_ms;
    bool answered, queued, suspended;
    int code;
    const char *type;
    strbuf out; /* the whole answer, or what the stream has not sent yet from `taken` on */
    size_t taken;
    bool streams, ended;
};

/* ---- exchange.c ---- */

/* The headers of a request are here. */
http_exchange *http_exchange_begin(http_connection *c, const char *method, const char *path);
/* More of its body. */
void http_exchange_receive(http_exchange *x, const char *bytes, size_t n);
/* Its body is whole: the handler is called, unless it has been answered. */
void http_exchange_dispatch(http_exchange *x);
/* Gives libmicrohttpd the answer. */
enum MHD_Result http_exchange_queue(http_exchange *x, struct MHD_Connection *handle);
/* libmicrohttpd is done with it. */
void http_exchange_completed(http_exchange *x);
/* libmicrohttpd shall go on with one that is suspended. */
void http_exchange_resume(http_exchange *x);
void http_exchange_left(http_exchange *x);

/* ---- route.c ---- */

/* Sets route and its context, or answers 404 or 405. */
void http_route_find(http_exchange *x);

#endif
