/* One request, from its headers to the last byte of its answer. libmicrohttpd holds it until it is completed, its handler
 * until it has answered; when neither does, it is freed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/http/fault.h"
#include "daemon/http/http_internal.h"

enum {
    STREAM_BLOCK_BYTES = 16 << 10,
    KEEP_TAKEN_BYTES = 64 << 10, /* of a stream's buffer, before its front is dropped */
    RETRY_BODIES_MS = 1000,
    FORGET_BYTES = 64 << 10,
};

/* ---- life ---- */

static void free_exchange(http_exchange *x) {
    http_server *s = x->server;
    if (x->admitted && s->gate.ended) s->gate.ended(s->gate.context, x);
    if (x->answered) metrics_count_http(s->metrics, (unsigned)x->code);
    log_debug("%s: %s %s %d, %s", x->peer, x->method, x->path, x->code, x->id);
    http_drop_body(x);
    for (size_t i = 0; i < x->headers; i++) {
        free(x->header[i].name);
        free(x->header[i].value);
    }
    strbuf_close(&x->out);
    free(x->method);
    free(x->path);
    free(x);
    s->exchanges--;
    if (s->stopping) http_server_turn(s);
}

static void release_if_done(http_exchange *x) {
    if (!x->connection && !x->handling) free_exchange(x);
}

void http_drop_body(http_exchange *x) {
    x->server->body_bytes -= x->body.size;
    strbuf_close(&x->body);
}

/* What a client may call its request: as long and as plain as it can stand in a log. */
static bool is_plain_id(const char *id) {
    size_t n = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:");
    return n > 0 && n <= HTTP_ID_BYTES && !id[n];
}

static void name_exchange(http_exchange *x) {
    const char *given = http_header(x, "x-request-id");
    uint8_t random[12];
    if (given && is_plain_id(given)) {
        snprintf(x->id, sizeof x->id, "%s", given);
        return;
    }
    ssize_t got = getrandom(random, sizeof random, 0);
    INVARIANT(got == (ssize_t)sizeof random);
    char *p = x->id + sprintf(x->id, "req_");
    for (size_t i = 0; i < sizeof random; i++) p += sprintf(p, "%02x", random[i]);
}

/* ---- the request ---- */

static void check_length(http_exchange *x) {
    http_server *s = x->server;
    const char *given = http_header(x, "content-length");
    unsigned long long bytes = given ? strtoull(given, NULL, 10) : 0;
    x->early = true;
    if (bytes > s->options.body_bytes) {
        (void)fail(ST_INVALID, "the body has %llu bytes, at most %zu", bytes, s->options.body_bytes);
        http_refuse(x, 413, NULL, "request_too_large", status_text());
    } else if (s->body_bytes + bytes > s->options.bodies_bytes) {
        http_set_retry(x, RETRY_BODIES_MS);
        http_refuse(x, 503, NULL, "overloaded", "too many large requests are being read; come again");
    } else {
        x->early = false;
    }
}

typedef struct framing {
    uint32_t lengths, encodings, hosts;
    bool odd; /* a name with white space, which some read as another header */
} framing;

static bool is_name(const char *name, size_t bytes, const char *wanted) {
    return bytes == strlen(wanted) && !strncasecmp(name, wanted, bytes);
}

static enum MHD_Result see_framing(void *context, enum MHD_ValueKind kind, const char *name, size_t bytes,
                                   const char *value, size_t value_bytes) {
    framing *f = context;
    (void)kind, (void)value, (void)value_bytes;
    f->lengths += is_name(name, bytes, "content-length");
    f->encodings += is_name(name, bytes, "transfer-encoding");
    f->hosts += is_name(name, bytes, "host");
    f->odd |= memchr(name, ' ', bytes) || memchr(name, '\t', bytes);
    return MHD_YES;
}

/* Where a proxy could see another end of the body than libmicrohttpd does, what follows could be another's request. */
static void check_framing(http_exchange *x) {
    framing f = {0};
    MHD_get_connection_values_n(x->connection->handle, MHD_HEADER_KIND, see_framing, &f);
    if (f.lengths + f.encodings <= 1 && f.hosts <= 1 && !f.odd) return;
    x->closes = true;
    http_refuse(
        x, 400, NULL, "bad_request",
        "the headers say in two ways what the request's length or host is, or a name of one has a space");
}

static void ask_gate(http_exchange *x) {
    http_gate *g = &x->server->gate;
    if (!g->admit) return;
    status st = g->admit(g->context, x);
    if (st == ST_OK) x->admitted = true;
    else http_refuse_status(x, st, NULL);
}

/* A refused request's short body is read and forgotten, so that the connection lives on. */
static bool body_is_long(const http_exchange *x) {
    const char *length = http_header(x, "content-length");
    return http_header(x, "expect") || http_header(x, "transfer-encoding") ||
           (length && strtoull(length, NULL, 10) > FORGET_BYTES);
}

http_exchange *http_exchange_begin(http_connection *c, const char *method, const char *path) {
    http_exchange *x = memory_alloc(sizeof *x);
    x->server = c->server;
    x->connection = c;
    x->server->exchanges++;
    x->began_ms = uv_now(x->server->loop);
    x->method = memory_copy_string(method);
    x->path = memory_copy_string(path);
    memcpy(x->peer, c->peer, sizeof x->peer);
    snprintf(x->caller, sizeof x->caller, "%s", c->peer);
    name_exchange(x);
    if (x->server->stopping) http_refuse(x, 503, NULL, "unavailable", "gemmad is stopping");
    if (!x->answered) check_framing(x);
    /* First, so that strangers are not told what there is. */
    if (!x->answered) ask_gate(x);
    if (!x->answered) http_route_find(x);
    if (!x->answered) check_length(x);
    x->early = x->early || x->closes || (x->answered && body_is_long(x));
    return x;
}

/* A body that comes in chunks tells its length only by being too long; then the answer waits for its end, and who goes on
 * for ever is cut off. */
void http_exchange_receive(http_exchange *x, const char *bytes, size_t n) {
    http_server *s = x->server;
    if (!x->answered && x->body.size + n > s->options.body_bytes) {
        (void)fail(ST_INVALID, "the body has more than %zu bytes, which are allowed", s->options.body_bytes);
        http_refuse(x, 413, NULL, "request_too_large", status_text());
        http_drop_body(x);
    } else if (!x->answered && s->body_bytes + n > s->options.bodies_bytes) {
        http_set_retry(x, RETRY_BODIES_MS);
        http_refuse(x, 503, NULL, "overloaded", "too many large requests are being read; come again");
        http_drop_body(x);
    }
    if (x->answered) {
        x->discarded += n;
        if (x->discarded > s->options.body_bytes) http_connection_break(x->connection);
        return;
    }
    strbuf_add(&x->body, bytes, n);
    s->body_bytes += n;
}

void http_exchange_dispatch(http_exchange *x) {
    if (x->answered) return;
    x->handling = true;
    x->route->handle(x->route_context, x);
}

uv_loop_t *http_loop(const http_exchange *x) { return x->server->loop; }
const char *http_id(const http_exchange *x) { return x->id; }
const char *http_peer(const http_exchange *x) { return x->peer; }
const char *http_caller(const http_exchange *x) { return x->caller; }
const char *http_method(const http_exchange *x) { return x->method; }
const char *http_path(const http_exchange *x) { return x->path; }

const char *http_rest(const http_exchange *x) {
    const char *star = x->route ? strchr(x->route->path, '*') : NULL;
    return star ? x->path + (star - x->route->path) : "";
}

const char *http_header(const http_exchange *x, const char *name) {
    return x->connection ? MHD_lookup_connection_value(x->connection->handle, MHD_HEADER_KIND, name) : NULL;
}

const char *http_query(const http_exchange *x, const char *name) {
    return x->connection ? MHD_lookup_connection_value(x->connection->handle, MHD_GET_ARGUMENT_KIND, name)
                         : NULL;
}

const char *http_body(const http_exchange *x, size_t *bytes) {
    *bytes = x->body.size;
    return strbuf_text(&x->body);
}

void http_set_caller(http_exchange *x, const char *caller) {
    snprintf(x->caller, sizeof x->caller, "%s", caller);
}
void http_set_gate_data(http_exchange *x, void *data) { x->gate_data = data; }
void *http_gate_data(const http_exchange *x) { return x->gate_data; }

/* ---- the answer ---- */

void http_add_header(http_exchange *x, const char *name, const char *value) {
    INVARIANT(x->headers < HTTP_HEADERS_MAX && !x->queued);
    x->header[x->headers].name = memory_copy_string(name);
    x->header[x->headers++].value = memory_copy_string(value);
}

void http_set_retry(http_exchange *x, uint32_t after_ms) { x->retry_after_ms = after_ms; }

static void add_retry(http_exchange *x) {
    char text[16];
    if (!x->retry_after_ms) return;
    snprintf(text, sizeof text, "%u", (x->retry_after_ms + 999) / 1000);
    http_add_header(x, "Retry-After", text);
    snprintf(text, sizeof text, "%u", x->retry_after_ms);
    http_add_header(x, "retry-after-ms", text);
}

/* Without a thread of its own libmicrohttpd does not wake itself. */
void http_exchange_resume(http_exchange *x) {
    if (!x->suspended) return;
    x->suspended = false;
    MHD_resume_connection(x->connection->handle);
    http_server_turn(x->server);
}

void http_answer(http_exchange *x, int code, const char *type, const void *body, size_t bytes) {
    INVARIANT(!x->answered);
    x->answered = true;
    x->code = code;
    x->type = type;
    if (bytes > 0) strbuf_add(&x->out, body, bytes);
    x->handling = false;
    http_exchange_resume(x);
    release_if_done(x);
}

void http_answer_json(http_exchange *x, int code, const strbuf *json) {
    http_answer(x, code, "application/json", strbuf_text(json), json->size);
}

void http_refuse(http_exchange *x, int code, const char *param, const char *word, const char *text) {
    strbuf json = {0};
    fault_write(code, param, word, text, &json);
    add_retry(x);
    if (code == 401) http_add_header(x, "WWW-Authenticate", "Bearer");
    http_answer_json(x, code, &json);
    strbuf_close(&json);
}

void http_refuse_status(http_exchange *x, status st, const char *text) {
    char copy[STATUS_TEXT_MAX];
    snprintf(copy, sizeof copy, "%s", text ? text : status_text());
    http_refuse(x, fault_code(st), NULL, fault_word(st), copy);
}

/* ---- streams ---- */

void http_stream_begin(http_exchange *x, int code, const char *type) {
    INVARIANT(!x->answered);
    x->answered = x->streams = true;
    x->code = code;
    x->type = type;
    http_exchange_resume(x);
}

void http_stream_write(http_exchange *x, const void *bytes, size_t n) {
    INVARIANT(x->streams && !x->ended);
    if (!x->connection || x->told_left) return;
    strbuf_add(&x->out, bytes, n);
    http_exchange_resume(x);
}

void http_stream_end(http_exchange *x) {
    INVARIANT(x->streams && !x->ended);
    x->ended = true;
    x->handling = false;
    http_exchange_resume(x);
    release_if_done(x);
}

uint64_t http_stream_backlog(const http_exchange *x) { return x->out.size - x->taken; }

void http_watch(http_exchange *x, void (*left)(void *context, http_exchange *x),
                void (*drained)(void *context, http_exchange *x), void *context) {
    x->left = left;
    x->drained = drained;
    x->watch_context = context;
}

void http_exchange_left(http_exchange *x) {
    if (x->told_left || !x->handling) return;
    x->told_left = true;
    strbuf_clear(&x->out);
    x->taken = 0;
    if (x->left) x->left(x->watch_context, x);
}

static ssize_t read_stream(void *own, uint64_t position, char *to, size_t most) {
    http_exchange *x = own;
    (void)position;
    if (!x->connection || x->connection->broken) return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = x->out.size - x->taken;
    if (n > most) n = most;
    if (n > 0) {
        memcpy(to, x->out.data + x->taken, n);
        x->taken += n;
        if (x->taken == x->out.size) {
            strbuf_clear(&x->out);
            x->taken = 0;
        } else if (x->taken > KEEP_TAKEN_BYTES) {
            strbuf_drop_front(&x->out, x->taken);
            x->taken = 0;
        }
        if (x->handling && x->drained) x->drained(x->watch_context, x);
        return (ssize_t)n;
    }
    if (x->ended) return MHD_CONTENT_READER_END_OF_STREAM;
    if (x->connection->left) return MHD_CONTENT_READER_END_WITH_ERROR; /* nobody says it a second time */
    x->suspended = true;
    MHD_suspend_connection(x->connection->handle);
    return 0;
}

/* ---- libmicrohttpd's side ---- */

enum MHD_Result http_exchange_queue(http_exchange *x, struct MHD_Connection *handle) {
    struct MHD_Response *r =
        x->streams
            ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, x, NULL)
            : MHD_create_response_from_buffer(x->out.size, x->out.data, MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    x->queued = true;
    if (x->type) MHD_add_response_header(r, "Content-Type", x->type);
    if (x->closes) MHD_add_response_header(r, "Connection", "close");
    MHD_add_response_header(r, "x-request-id", x->id);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (x->streams) MHD_add_response_header(r, "Cache-Control", "no-cache");
    for (size_t i = 0; i < x->headers; i++) MHD_add_response_header(r, x->header[i].name, x->header[i].value);
    enum MHD_Result queued = MHD_queue_response(handle, (unsigned)x->code, r);
    MHD_destroy_response(r);
    return queued;
}

void http_exchange_completed(http_exchange *x) {
    bool whole = x->answered && (!x->streams || (x->ended && x->out.size == x->taken));
    x->suspended = false;
    if (!whole) http_exchange_left(x);
    x->connection = NULL;
    release_if_done(x);
}
