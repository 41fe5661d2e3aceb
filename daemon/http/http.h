/* HTTP/1.1 on the libuv loop: libmicrohttpd reads and writes, without a thread or a listening socket of its own; the acceptor
 * brings connections. A request is an exchange: it is looked up in a table of routes, let in by a gate, its body is read
 * whole, and a handler answers it, at once or later, whole or as a stream.
 *
 * Memory:  http_open allocates; http_close after `stopped`. An exchange is its handler's from the call of the handler until
 *          it has answered; it frees itself afterwards, so that answering is the last that a handler does with it. What the
 *          accessors return is the exchange's.
 * Threads: loop thread.
 * Errors:  refusals have OpenAI's shape, {"error": {"message", "type", "param", "code"}}. Unknown path 404, wrong method 405
 *          with Allow, a body that is too long 413. A connection that sends its headers or its body too slowly, or nothing for
 *          too long, is closed. */
#ifndef DAEMON_HTTP_HTTP_H
#define DAEMON_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "daemon/api/acceptor.h"
#include "daemon/auth/tls_files.h"
#include "daemon/observe/metrics.h"

typedef struct http_server http_server;
typedef struct http_exchange http_exchange;

typedef void http_handler(void *context, http_exchange *x);

/* Tables of routes outlive the server. */
typedef struct http_route {
    const char *method; /* "GET", which serves HEAD too, "POST", "DELETE"; "": every one */
    const char *path; /* "/v1/models"; with '*' at its end every path that begins so and has something more */
    http_handler *handle;
} http_route;

/* Who may come in. admit is called when the headers are here and the body is not: ST_OK, or a status whose sentence goes to
 * the client (ST_AUTH 401, ST_BUSY 429 …, with http_set_retry for the time). It may name the caller with http_set_caller and
 * keep something of its own with http_set_gate_data. ended is called once for each exchange that was admitted. */
typedef struct http_gate {
    status (*admit)(void *context, http_exchange *x);
    void (*ended)(void *context, http_exchange *x);
    void *context;
} http_gate;

typedef struct http_options {
    /* 0 each: 10 s for the headers of a request, 75 s between two requests, 30 s for a body and 1 s more for each 32 KiB. */
    uint32_t header_ms, idle_ms, body_ms;
    size_t body_bytes;    /* of one request; 0: LIMIT_MESSAGE_BYTES */
    size_t bodies_bytes;  /* of all; 0: LIMIT_HTTP_BODIES_BYTES */
    const tls_files *tls; /* encrypts with these; copied; NULL: plaintext */
} http_options;

STATUS_CHECKED status http_open(http_server **out, uv_loop_t *loop,
                                const http_options *options /* or NULL */);
/* For the listeners that are HTTP's; good while the server is. */
const acceptor_sink *http_sink(const http_server *s);
void http_add_routes(http_server *s, const http_route *routes, size_t count, void *context);
/* Answers are counted there, by code. */
void http_set_metrics(http_server *s, metrics *m);
void http_set_gate(http_server *s, const http_gate *gate); /* copied */
/* For connections to come. */
void http_set_tls(http_server *s, const tls_files *files);
uint32_t http_exchange_count(const http_server *s);
/* No new connection; exchanges that still run after grace_ms are cut off. Then `stopped`, once. Before acceptor_stop. */
void http_stop(http_server *s, uint32_t grace_ms, void (*stopped)(void *context), void *context);
void http_close(http_server *s); /* NULL is fine */

/* ---- the request ---- */

uv_loop_t *http_loop(const http_exchange *x);
const char *http_id(const http_exchange *x);     /* what x-request-id of the answer says */
const char *http_peer(const http_exchange *x);   /* "uid 1000", "10.0.0.7" */
const char *http_caller(const http_exchange *x); /* whose request it is: as the gate said, else the peer */
const char *http_method(const http_exchange *x);
const char *http_path(const http_exchange *x); /* without the query, decoded */
const char *http_rest(const http_exchange *x); /* what stood in place of the route's '*'; "" without one */
const char *http_header(const http_exchange *x, const char *name); /* NULL: absent */
const char *http_query(const http_exchange *x, const char *name);  /* NULL: absent; decoded */
const char *http_body(const http_exchange *x, size_t *bytes);      /* "" when there is none */

/* Its memory is no longer needed. */
void http_drop_body(http_exchange *x);

void http_set_caller(http_exchange *x, const char *caller); /* copied */
void http_set_gate_data(http_exchange *x, void *data);
void *http_gate_data(const http_exchange *x);

/* ---- the answer ---- */

/* Before http_answer, http_refuse or http_stream_begin; copied. */
void http_add_header(http_exchange *x, const char *name, const char *value);
/* Goes with a refusal as retry-after and retry-after-ms. */
void http_set_retry(http_exchange *x, uint32_t after_ms);
/* The whole answer; body is copied, type (text/plain …) is the caller's and stays. */
void http_answer(http_exchange *x, int code, const char *type, const void *body, size_t bytes);
void http_answer_json(http_exchange *x, int code, const strbuf *json);
/* An error. param and word ("model_not_found") may be NULL. */
void http_refuse(http_exchange *x, int code, const char *param, const char *word, const char *text);
/* The same by a status; text NULL: the thread's sentence. */
void http_refuse_status(http_exchange *x, status st, const char *text);

/* An answer that is sent as it comes. Nothing is lost if the client has left: what is written then goes nowhere. */
void http_stream_begin(http_exchange *x, int code, const char *type);
void http_stream_write(http_exchange *x, const void *bytes, size_t n);
void http_stream_end(http_exchange *x);
uint64_t http_stream_backlog(const http_exchange *x); /* bytes written and not taken by the client's socket */

/* For handlers that do not answer at once. left: the client has gone, once; the handler answers all the same, soon.
 * drained: the backlog has become less. Either may be NULL. */
void http_watch(http_exchange *x, void (*left)(void *context, http_exchange *x),
                void (*drained)(void *context, http_exchange *x), void *context);

#endif
