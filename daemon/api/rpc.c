/* One gRPC call on the loop thread: its batches, its queue of messages to send, its end. */
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "daemon/api/server_internal.h"
#include "proto/message.h"

static rpc *rpc_of(call *c) { return (rpc *)c; }

static grpc_status_code code_of(status st) {
    switch (st) {
    case ST_OK: return GRPC_STATUS_OK;
    case ST_INVALID:
    case ST_FORMAT: return GRPC_STATUS_INVALID_ARGUMENT;
    case ST_NOT_FOUND: return GRPC_STATUS_NOT_FOUND;
    case ST_EXISTS: return GRPC_STATUS_ALREADY_EXISTS;
    case ST_UNSUPPORTED: return GRPC_STATUS_UNIMPLEMENTED;
    case ST_BUSY:
    case ST_NO_MEMORY:
    case ST_KV_FULL: return GRPC_STATUS_RESOURCE_EXHAUSTED;
    case ST_UNAVAILABLE:
    case ST_PEER: return GRPC_STATUS_UNAVAILABLE;
    case ST_CANCELLED: return GRPC_STATUS_CANCELLED;
    case ST_TIMEOUT: return GRPC_STATUS_DEADLINE_EXCEEDED;
    case ST_AUTH: return GRPC_STATUS_UNAUTHENTICATED;
    default: return GRPC_STATUS_INTERNAL;
    }
}

static void start(rpc *r, const grpc_op *ops, size_t n, tag *t) {
    r->batches++;
    grpc_call_error e = grpc_call_start_batch(r->call, ops, n, t, NULL);
    INVARIANT(e == GRPC_CALL_OK);
}

static void release_if_done(rpc *r) {
    if (r->batches > 0 || !r->status_sent || !r->has_closed) return;
    if (r->previous) r->previous->next = r->next;
    else r->server->calls = r->next;
    if (r->next) r->next->previous = r->previous;
    for (size_t i = 0; i < r->queue_count; i++)
        grpc_byte_buffer_destroy(r->queue[(r->queue_first + i) % r->queue_capacity]);
    free(r->queue);
    if (r->request) protobuf_c_message_free_unpacked(r->request, NULL);
    if (r->received) grpc_byte_buffer_destroy(r->received);
    if (r->sending) grpc_byte_buffer_destroy(r->sending);
    grpc_slice_unref(r->text);
    if (r->trailer_count) {
        grpc_slice_unref(r->trailer.key);
        grpc_slice_unref(r->trailer.value);
    }
    grpc_call_details_destroy(&r->details);
    grpc_metadata_array_destroy(&r->metadata);
    grpc_call_unref(r->call);
    free(r);
}

/* ---- sending ---- */

static void send_next(rpc *r) {
    if (r->writing || r->status_sent) return;
    if (r->queue_count > 0 && !r->has_closed) {
        r->sending = r->queue[r->queue_first];
        r->queue_first = (r->queue_first + 1) % r->queue_capacity;
        r->queue_count--;
        r->writing = true;
        start(r, &(grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = r->sending}, 1, &r->sent);
        return;
    }
    if (!r->wants_status) return;
    r->status_sent = true;
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op.data.send_status_from_server.status = r->code;
    op.data.send_status_from_server.status_details = &r->text;
    op.data.send_status_from_server.trailing_metadata_count = r->trailer_count;
    op.data.send_status_from_server.trailing_metadata = &r->trailer;
    start(r, &op, 1, &r->finished);
}

static void on_sent(tag *t, bool ok) {
    (void)ok; /* a failed write means that the client left: RECV_CLOSE tells */
    rpc *r = t->owner;
    r->batches--;
    r->writing = false;
    r->queued_bytes -= grpc_byte_buffer_length(r->sending);
    grpc_byte_buffer_destroy(r->sending);
    r->sending = NULL;
    send_next(r);
    release_if_done(r);
}

static void on_finished(tag *t, bool ok) {
    (void)ok;
    rpc *r = t->owner;
    r->batches--;
    release_if_done(r);
}

static void rpc_send(call *c, const ProtobufCMessage *message) {
    rpc *r = rpc_of(c);
    INVARIANT(!r->wants_status);
    if (r->has_closed && r->cancelled) return;
    size_t n = protobuf_c_message_get_packed_size(message);
    grpc_slice slice = grpc_slice_malloc(n);
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    if (r->queue_count == r->queue_capacity) { /* a ring: a slow reader may leave very many small events */
        size_t old = r->queue_capacity;
        r->queue_capacity = old ? old * 2 : 8;
        r->queue = memory_grow(r->queue, r->queue_capacity * sizeof *r->queue);
        memcpy(r->queue + old, r->queue, r->queue_first * sizeof *r->queue);
    }
    r->queue[(r->queue_first + r->queue_count++) % r->queue_capacity] = buffer;
    r->queued_bytes += grpc_byte_buffer_length(buffer);
    send_next(r);
}

static void rpc_finish(call *c, status st, const char *text, uint32_t retry_after_ms) {
    rpc *r = rpc_of(c);
    INVARIANT(!r->wants_status);
    r->wants_status = true;
    r->code = code_of(st);
    grpc_slice_unref(r->text);
    r->text = grpc_slice_from_copied_string(st == ST_OK || !text ? "" : text);
    if (retry_after_ms) {
        char number[16];
        snprintf(number, sizeof number, "%u", retry_after_ms);
        r->trailer = (grpc_metadata){.key = grpc_slice_from_copied_string("retry-after-ms"),
                                     .value = grpc_slice_from_copied_string(number)};
        r->trailer_count = 1;
    }
    send_next(r);
}

static uint64_t rpc_backlog(const call *c) { return ((const rpc *)c)->queued_bytes; }

static const call_ops rpc_ops = {rpc_send, rpc_finish, rpc_backlog};

/* ---- receiving ---- */

static void receive(rpc *r) {
    start(r, &(grpc_op){.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &r->received}, 1, &r->message);
}

static const ProtobufCMessageDescriptor *request_type(const rpc *r) {
    return r->method ? r->method->request : r->own->request;
}

static status unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *buffer, ProtobufCMessage **out) {
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return fail(ST_INVALID, "the request's compression cannot be undone");
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    status st = message_unpack(type, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice), out);
    grpc_slice_unref(slice);
    return st;
}

static void on_message(tag *t, bool ok) {
    rpc *r = t->owner;
    r->batches--;
    bool streams = r->own && r->own->streams;
    if (r->wants_status) {
        release_if_done(r);
        return;
    }
    if (!ok || !r->received) {
        if (streams) rpc_finish(&r->base, ST_OK, "", 0);
        else rpc_finish(&r->base, ST_INVALID, "the call has no request message", 0);
        release_if_done(r);
        return;
    }
    if (r->request) protobuf_c_message_free_unpacked(r->request, NULL);
    r->request = NULL;
    status st = unpack(request_type(r), r->received, &r->request);
    grpc_byte_buffer_destroy(r->received);
    r->received = NULL;
    if (st != ST_OK) {
        rpc_finish(&r->base, st, status_text(), 0);
    } else if (r->method) {
        r->method->handle(r->server->o.core, &r->base, r->request);
    } else {
        r->own->handle(r->server, &r->base, r->request);
        if (streams && !r->wants_status) receive(r);
    }
    release_if_done(r);
}

static bool deadline_passed(const rpc *r) {
    gpr_timespec deadline = gpr_convert_clock_type(r->details.deadline, GPR_CLOCK_REALTIME);
    return gpr_time_cmp(deadline, gpr_now(GPR_CLOCK_REALTIME)) <= 0;
}

static void on_closed(tag *t, bool ok) {
    (void)ok;
    rpc *r = t->owner;
    r->batches--;
    r->has_closed = true;
    if (r->cancelled && !r->wants_status && !r->told_cancelled) {
        r->told_cancelled = true;
        status why = deadline_passed(r) ? ST_TIMEOUT : ST_CANCELLED;
        if (r->base.cancelled) r->base.cancelled(&r->base, r->base.context, why);
        else if (!r->request || (r->own && !r->wants_status))
            rpc_finish(&r->base, why, "cancelled", 0); /* no handler has it yet, or one of ours that only watches */
    }
    send_next(r);
    release_if_done(r);
}

/* ---- arrival ---- */

static bool find_method(rpc *r) {
    const server_options *o = &r->server->o;
    grpc_slice path = r->details.method;
    for (uint32_t i = 0; i < o->method_count; i++)
        if (grpc_slice_str_cmp(path, o->methods[i].path) == 0) r->method = &o->methods[i];
    for (uint32_t i = 0; i < health_method_count; i++)
        if (grpc_slice_str_cmp(path, health_methods[i].path) == 0) r->own = &health_methods[i];
    for (uint32_t i = 0; i < reflection_method_count; i++)
        if (grpc_slice_str_cmp(path, reflection_methods[i].path) == 0) r->own = &reflection_methods[i];
    return r->method || r->own;
}

static uint64_t deadline_left_ms(const rpc *r) {
    gpr_timespec deadline = r->details.deadline;
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0) return 0;
    int32_t left = gpr_time_to_millis(gpr_time_sub(gpr_convert_clock_type(deadline, GPR_CLOCK_REALTIME),
                                                   gpr_now(GPR_CLOCK_REALTIME)));
    return left < 1 ? 1 : (uint64_t)left;
}

static void on_arrived(tag *t, bool ok) {
    rpc *r = t->owner;
    server *s = r->server;
    s->accepting--;
    if (!ok) { /* the server shuts down */
        grpc_call_details_destroy(&r->details);
        grpc_metadata_array_destroy(&r->metadata);
        free(r);
        return;
    }
    if (!s->stopping) rpc_accept(s);
    r->next = s->calls;
    if (r->next) r->next->previous = r;
    s->calls = r;
    char *peer = grpc_call_get_peer(r->call);
    snprintf(r->peer, sizeof r->peer, "%s", listener_peer(s, peer));
    gpr_free(peer);
    r->base.peer = r->peer;
    r->base.deadline_ms = deadline_left_ms(r);
    start(r, &(grpc_op){.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &r->cancelled}, 1,
          &r->closed);
    start(r, &(grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA}, 1, &r->finished);
    if (find_method(r) && !(r->method && r->method->client_streams)) {
        receive(r);
        return;
    }
    char *path = grpc_slice_to_c_string(r->details.method), text[256];
    snprintf(text, sizeof text, r->method ? "%.150s is not available in this version" : "there is no rpc %.150s", path);
    gpr_free(path);
    rpc_finish(&r->base, ST_UNSUPPORTED, text, 0);
}

void rpc_accept(server *s) {
    rpc *r = memory_alloc(sizeof *r);
    r->base.ops = &rpc_ops;
    r->server = s;
    r->text = grpc_empty_slice();
    grpc_call_details_init(&r->details);
    grpc_metadata_array_init(&r->metadata);
    r->arrived = (tag){on_arrived, r};
    r->message = (tag){on_message, r};
    r->sent = (tag){on_sent, r};
    r->closed = (tag){on_closed, r};
    r->finished = (tag){on_finished, r};
    s->accepting++;
    grpc_call_error e = grpc_server_request_call(s->grpc, &r->call, &r->details, &r->metadata, s->events.cq, s->events.cq,
                                                 &r->arrived);
    INVARIANT(e == GRPC_CALL_OK);
}
