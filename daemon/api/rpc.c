/* One gRPC call, from its arrival to its status.
 *
 * gRPC holds the call while batches of it are under way (`receiving`, `sending`, the close notice); the handler holds it
 * from its first callback to `finish`. When neither does, it is freed. One batch of writes is under way at a time; what
 * the handler sends meanwhile waits in a list whose bytes are the backlog. */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/api/code.h"
#include "daemon/api/server_internal.h"
#include "proto/limits.h"
#include "proto/message.h"

enum {
    DECODE_HERE_BYTES =
        64 << 10, /* read on the loop: well under a millisecond; more goes to a worker thread */
    PATH_SHOWN = 200,
    TRAILERS = 3,
};

typedef struct outgoing {
    grpc_byte_buffer *message;
    uint64_t bytes;
    struct outgoing *next;
} outgoing;

struct rpc {
    call base; /* first: what handlers hold */
    server *server;
    server_origin from;
    grpc_call *handle;
    grpc_call_details details;
    grpc_metadata_array metadata;
    const server_method *method;
    char peer[KEY_NAME_BYTES_MAX + 8];           /* an address, a user, or "key NAME" */
    char request_id[LIMIT_REQUEST_ID_BYTES + 2]; /* one byte too long shows as such */
    uint64_t arrived_ms;                         /* loop time */

    server_tag accept, receive, close, send;
    bool receiving, awaiting_close, sending;
    uint32_t
        holds; /* of ours: a worker, or a callback that may end the call while its caller still needs it */
    bool handling;  /* the handler has been called and has not finished */
    bool half_done; /* a stream of requests: its handler has seen the end */
    bool cancelled; /* the client is gone, or the deadline passed: nothing can be sent any more */
    int close_cancelled;

    server_waiting waiting;
    grpc_byte_buffer *received;
    uv_work_t work;
    ProtobufCMessage *request;
    status decode_status;
    char *decode_text;

    outgoing *first, **last;
    uint64_t backlog;
    bool metadata_sent, ended /* the status is known */, status_sent;
    grpc_status_code code;
    strbuf text, retry_details;
    uint32_t retry_after_ms;
    char retry_text[16];
    grpc_slice status_slice;
    grpc_metadata trailer[TRAILERS];
    size_t trailer_count;
};

static rpc *from_call(call *c) { return (rpc *)(void *)c; }
static void pump(rpc *r);
static void read_message(rpc *r);

/* ---- the end ---- */

static void drop_outgoing(rpc *r) {
    while (r->first) {
        outgoing *o = r->first;
        r->first = o->next;
        grpc_byte_buffer_destroy(o->message);
        free(o);
    }
    r->last = &r->first;
    r->backlog = 0;
}

static void free_rpc(rpc *r) {
    server_wait_ends(&r->waiting);
    drop_outgoing(r);
    for (size_t i = 0; i < r->trailer_count; i++) grpc_slice_unref(r->trailer[i].value);
    if (r->ended) grpc_slice_unref(r->status_slice);
    if (r->request) protobuf_c_message_free_unpacked(r->request, NULL);
    if (r->received) grpc_byte_buffer_destroy(r->received);
    grpc_call_details_destroy(&r->details);
    grpc_metadata_array_destroy(&r->metadata);
    if (r->handle) grpc_call_unref(r->handle);
    strbuf_close(&r->text);
    strbuf_close(&r->retry_details);
    free(r->decode_text);
    auth_key_release(r->base.who);
    free(r);
}

static void release_if_done(rpc *r) {
    if (r->receiving || r->awaiting_close || r->sending || r->handling || r->holds > 0) return;
    server *s = r->server;
    free_rpc(r);
    server_call_ends(s);
}

/* ---- sending ---- */

static void start_batch(rpc *r, const grpc_op *ops, size_t n, server_tag *tag) {
    grpc_call_error error = grpc_call_start_batch(r->handle, ops, n, tag, NULL);
    INVARIANT(error == GRPC_CALL_OK); /* anything else is a batch that we put together wrongly */
}

static void on_sent(void *owner, bool ok) {
    rpc *r = owner;
    (void)ok; /* a write that failed is followed by the close notice, which says why */
    r->sending = false;
    if (r->first) {
        outgoing *o = r->first;
        r->first = o->next;
        if (!r->first) r->last = &r->first;
        r->backlog -= o->bytes;
        grpc_byte_buffer_destroy(o->message);
        free(o);
    }
    r->holds++;
    if (r->handling && !r->cancelled && r->base.drained) r->base.drained(&r->base, r->base.context);
    pump(r);
    r->holds--;
    release_if_done(r);
}

static void add_trailer(rpc *r, const char *key, grpc_slice value) {
    INVARIANT(r->trailer_count < TRAILERS);
    r->trailer[r->trailer_count++] =
        (grpc_metadata){.key = grpc_slice_from_static_string(key), .value = value};
}

static grpc_op status_op(rpc *r) {
    if (r->retry_after_ms > 0) {
        snprintf(r->retry_text, sizeof r->retry_text, "%u", r->retry_after_ms);
        code_add_retry_details(r->code, strbuf_text(&r->text), r->retry_after_ms, &r->retry_details);
        add_trailer(r, "retry-after-ms", grpc_slice_from_copied_string(r->retry_text));
        /* What gRPC's own retry policies look at. */
        add_trailer(r, "grpc-retry-pushback-ms", grpc_slice_from_copied_string(r->retry_text));
        add_trailer(r, "grpc-status-details-bin",
                    grpc_slice_from_copied_buffer(r->retry_details.data, r->retry_details.size));
    }
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op.data.send_status_from_server.status = r->code;
    op.data.send_status_from_server.status_details = &r->status_slice;
    op.data.send_status_from_server.trailing_metadata = r->trailer;
    op.data.send_status_from_server.trailing_metadata_count = r->trailer_count;
    return op;
}

/* Writes what there is, the status with the last message: one write for a short answer. */
static void pump(rpc *r) {
    grpc_op ops[3];
    size_t n = 0;
    if (r->sending || r->status_sent || !r->handle) return;
    if (r->cancelled) {
        drop_outgoing(r);
        return;
    }
    bool last = r->ended && (!r->first || !r->first->next);
    if (!r->first && !last) {
        /* The next message of a stream of requests is read when the answers to the last have left. */
        if (r->handling && r->method->client_streams && !r->half_done && !r->receiving) read_message(r);
        return;
    }
    if (!r->metadata_sent) ops[n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    if (r->first) {
        grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
        op.data.send_message.send_message = r->first->message;
        ops[n++] = op;
    }
    if (last) ops[n++] = status_op(r);
    r->metadata_sent = r->sending = true;
    r->status_sent = last;
    start_batch(r, ops, n, &r->send);
}

static void rpc_send(call *c, const ProtobufCMessage *message) {
    rpc *r = from_call(c);
    INVARIANT(!r->ended);
    if (r->cancelled) return;
    size_t n = protobuf_c_message_get_packed_size(message);
    grpc_slice slice = grpc_slice_malloc(n);
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    outgoing *o = memory_alloc(sizeof *o);
    o->message = grpc_raw_byte_buffer_create(&slice, 1);
    o->bytes = n;
    grpc_slice_unref(slice);
    *r->last = o;
    r->last = &o->next;
    r->backlog += n;
    pump(r);
}

static void end_with(rpc *r, status st, const char *text, uint32_t retry_after_ms) {
    INVARIANT(!r->ended);
    r->ended = true;
    r->code = code_of_status(st);
    code_add_text(text, &r->text);
    r->retry_after_ms = st == ST_OK ? 0 : retry_after_ms;
    r->status_slice = grpc_slice_from_copied_string(strbuf_text(&r->text));
    pump(r);
}

static void rpc_finish(call *c, status st, const char *text, uint32_t retry_after_ms) {
    rpc *r = from_call(c);
    INVARIANT(r->handling);
    end_with(r, st, text, retry_after_ms);
    r->handling = false;
    release_if_done(r);
}

static uint64_t rpc_backlog_bytes(const call *c) { return ((const rpc *)(const void *)c)->backlog; }

static const call_ops rpc_ops = {rpc_send, rpc_finish, rpc_backlog_bytes};

/* ---- receiving ---- */

/* Any thread. */
static void decode(rpc *r) {
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, r->received)) {
        r->decode_status = fail(ST_INVALID, "a message whose compression cannot be undone");
    } else {
        grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
        grpc_byte_buffer_reader_destroy(&reader);
        r->decode_status = message_unpack(r->method->request, GRPC_SLICE_START_PTR(all),
                                          GRPC_SLICE_LENGTH(all), &r->request);
        grpc_slice_unref(all);
    }
    if (r->decode_status != ST_OK) r->decode_text = memory_copy_string(status_text());
}

static void hand_over(rpc *r) {
    grpc_byte_buffer_destroy(r->received);
    r->received = NULL;
    if (r->decode_status != ST_OK) {
        r->handling = false;
        if (!r->ended && !r->cancelled) end_with(r, r->decode_status, r->decode_text, 0);
        return;
    }
    if (!r->ended && !r->cancelled) {
        r->handling = true;
        r->method->handle(r->method->context, &r->base, r->request);
        pump(r);
    }
    protobuf_c_message_free_unpacked(r->request, NULL);
    r->request = NULL;
}

static void decode_on_worker(uv_work_t *work) { decode(work->data); }

static void on_decoded(uv_work_t *work, int error) {
    rpc *r = work->data;
    INVARIANT(error == 0); /* nobody cancels it */
    hand_over(r);
    r->holds--;
    release_if_done(r);
}

/* The client has sent all it will: an rpc of one request that never came is answered here. */
static void on_last_message(rpc *r) {
    if (r->ended || r->cancelled) return;
    if (r->handling) {
        r->half_done = true;
        r->method->handle(r->method->context, &r->base, NULL);
    } else {
        if (r->method->client_streams) end_with(r, ST_OK, "", 0);
        else end_with(r, ST_INVALID, "the call ended without a request message", 0);
    }
}

static void on_received(void *owner, bool ok) {
    rpc *r = owner;
    (void)ok;
    r->receiving = false;
    server_wait_ends(&r->waiting);
    r->holds++;
    if (r->received && grpc_byte_buffer_length(r->received) > DECODE_HERE_BYTES) {
        r->work.data = r;
        int error = uv_queue_work(server_loop(r->server), &r->work, decode_on_worker, on_decoded);
        INVARIANT(error == 0);
        return;
    }
    if (r->received) {
        decode(r);
        hand_over(r);
    } else {
        on_last_message(r);
    }
    r->holds--;
    release_if_done(r);
}

static void read_message(rpc *r) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &r->received;
    r->receiving = true;
    start_batch(r, &op, 1, &r->receive);
}

/* ---- arrival ---- */

/* From now, 0 for none; a deadline that has just passed is 1 ms away. */
static uint64_t deadline_ms(gpr_timespec deadline) {
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) >= 0) return 0;
    double left = gpr_timespec_to_micros(gpr_time_sub(deadline, gpr_now(deadline.clock_type))) / 1000;
    return left < 1 ? 1 : (uint64_t)left;
}

/* Whoever opens calls and says nothing in them takes places from others. */
static void on_too_late(server_waiting *w) {
    rpc *r = (rpc *)(void *)((char *)w - offsetof(rpc, waiting));
    if (!r->ended && !r->cancelled) end_with(r, ST_TIMEOUT, "the request did not come in time", 0);
}

static void tell_cancelled(rpc *r) {
    r->cancelled = true;
    server_wait_ends(&r->waiting);
    pump(r);
    if (!r->handling) return;
    if (r->method->client_streams) { /* its handler keeps nothing between messages */
        r->handling = false;
        return;
    }
    uint64_t passed = uv_now(server_loop(r->server)) - r->arrived_ms;
    /* Both ends count the deadline; the client's word of having given up may be here first. */
    bool late = r->base.deadline_ms > 0 && passed + 5 >= r->base.deadline_ms;
    if (r->base.cancelled) r->base.cancelled(&r->base, r->base.context, late ? ST_TIMEOUT : ST_CANCELLED);
}

static void on_close(void *owner, bool ok) {
    rpc *r = owner;
    r->awaiting_close = false;
    r->holds++;
    if (!ok || r->close_cancelled) tell_cancelled(r);
    r->holds--;
    release_if_done(r);
}

static void watch_close(rpc *r) {
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &r->close_cancelled;
    r->awaiting_close = true;
    start_batch(r, &op, 1, &r->close);
}

/* "fd:7" of a connection that the acceptor took; "ipv4:127.0.0.1:4711", "ipv6:%5B::1%5D:4711" of gRPC's own ports. */
static void name_peer(rpc *r) {
    char *given = grpc_call_get_peer(r->handle), address[64];
    int fd = -1;
    if (given && sscanf(given, "fd:%d", &fd) == 1)
        snprintf(r->peer, sizeof r->peer, "%s", server_peer(r->server, fd));
    else if (given && (sscanf(given, "ipv4:%63[0-9.]", address) == 1 ||
                       sscanf(given, "ipv6:%%5B%63[^%]", address) == 1))
        snprintf(r->peer, sizeof r->peer, "%s", address);
    gpr_free(given);
    r->base.peer = r->peer;
}

/* The one value of `authorization`; false: there are several, and whoever checks another than we do is deceived. */
static bool find_authorization(const rpc *r, const grpc_slice **out) {
    *out = NULL;
    for (size_t i = 0; i < r->metadata.count; i++) {
        if (grpc_slice_str_cmp(r->metadata.metadata[i].key, "authorization")) continue;
        if (*out) return false;
        *out = &r->metadata.metadata[i].value;
    }
    return true;
}

static status check_key(rpc *r) {
    auth *keys = server_auth(r->server);
    const grpc_slice *shown;
    if (!keys || (r->method && r->method->open)) return ST_OK;
    if (!find_authorization(r, &shown)) return fail(ST_AUTH, "the call has several authorizations");
    if (shown)
        return auth_check(keys, (const char *)GRPC_SLICE_START_PTR(*shown), GRPC_SLICE_LENGTH(*shown),
                          &r->base.who);
    if (r->from == FROM_OWNER) return ST_OK;
    return fail(ST_AUTH, "a key is needed, in the metadata \"authorization: Bearer KEY\"");
}

/* Who calls, and whether it may. A key's name stands for whoever has it, wherever it comes from. */
static status identify(rpc *r) {
    name_peer(r);
    status st = check_key(r);
    if (st != ST_OK) {
        log_stranger(LOG_WARN, "a call of %s is refused: %s", r->peer, status_text());
        auth_refused(server_auth(r->server));
    } else if (r->base.who) snprintf(r->peer, sizeof r->peer, "key %s", auth_key_name(r->base.who));
    return st;
}

static const grpc_slice *find_metadata(const rpc *r, const char *key) {
    for (size_t i = 0; i < r->metadata.count; i++)
        if (grpc_slice_str_cmp(r->metadata.metadata[i].key, key) == 0) return &r->metadata.metadata[i].value;
    return NULL;
}

/* What metadata says of a request beside its message: who traces it, and by which id. */
static void read_metadata(rpc *r) {
    const grpc_slice *parent = find_metadata(r, "traceparent"), *id = find_metadata(r, "x-request-id");
    trace_begin(&r->base.trace, parent ? (const char *)GRPC_SLICE_START_PTR(*parent) : NULL,
                parent ? GRPC_SLICE_LENGTH(*parent) : 0);
    if (!id || GRPC_SLICE_LENGTH(*id) == 0) return;
    snprintf(r->request_id, sizeof r->request_id, "%.*s", (int)GRPC_SLICE_LENGTH(*id),
             (const char *)GRPC_SLICE_START_PTR(*id));
    r->base.request_id = r->request_id;
}

static void on_accepted(void *owner, bool ok) {
    rpc *r = owner;
    server *s = r->server;
    if (!ok) { /* the server is stopping */
        server_origin from = r->from;
        free_rpc(r);
        server_request_ends(s, from);
        return;
    }
    bool room = server_call_begins(s, r->from);
    const char *path = (const char *)GRPC_SLICE_START_PTR(r->details.method);
    size_t n = GRPC_SLICE_LENGTH(r->details.method);
    uv_update_time(server_loop(s));
    r->arrived_ms = uv_now(server_loop(s));
    r->base.deadline_ms = deadline_ms(r->details.deadline);
    read_metadata(r);
    watch_close(r);
    r->method = server_find_method(s, path, n);
    if (r->method) r->base.path = r->method->path;
    status st = identify(r);
    if (st != ST_OK) {
        end_with(r, st, status_text(), 0);
    } else if (!r->method) {
        (void)fail(ST_UNSUPPORTED, "there is no method %.*s", n > PATH_SHOWN ? PATH_SHOWN : (int)n, path);
        end_with(r, ST_UNSUPPORTED, status_text(), 0);
    } else if (!room) {
        end_with(r, ST_BUSY, "too many calls are open", 1000);
    } else {
        server_wait_begins(s, &r->waiting);
        read_message(r);
    }
}

void rpc_request(server *s, server_origin from) {
    rpc *r = memory_alloc(sizeof *r);
    r->base.ops = &rpc_ops;
    r->server = s;
    r->from = from;
    r->waiting.too_late = on_too_late;
    r->last = &r->first;
    r->accept = (server_tag){.done = on_accepted, .owner = r};
    r->receive = (server_tag){.done = on_received, .owner = r};
    r->close = (server_tag){.done = on_close, .owner = r};
    r->send = (server_tag){.done = on_sent, .owner = r};
    grpc_call_details_init(&r->details);
    grpc_metadata_array_init(&r->metadata);
    grpc_call_error error =
        grpc_server_request_call(server_handle(s, from), &r->handle, &r->details, &r->metadata,
                                 server_queue(s), server_queue(s), &r->accept);
    INVARIANT(error == GRPC_CALL_OK);
}
