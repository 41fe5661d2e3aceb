/* A blocking gRPC client for tests: one call at a time, every step with a bound in time. */
#ifndef TESTS_API_CLIENT_H
#define TESTS_API_CLIENT_H

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <protobuf-c/protobuf-c.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/strbuf.h"

enum { CLIENT_PATIENCE_S = 60 };

typedef struct client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
} client;

typedef struct client_call {
    client *owner;
    grpc_call *handle;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice details;
    char *text; /* details as a string */
    bool answered;
} client_call;

static inline gpr_timespec client_seconds(double s) {
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros((int64_t)(s * 1e6), GPR_TIMESPAN));
}

static inline void client_open(client *c, const char *target) {
    grpc_arg args[] = {
        {.type = GRPC_ARG_INTEGER, .key = (char[]){GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH}, .value.integer = -1},
        /* A channel of its own, and a connection with it: channels otherwise share connections. */
        {.type = GRPC_ARG_INTEGER, .key = (char[]){GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL}, .value.integer = 1},
        {.type = GRPC_ARG_INTEGER, .key = (char[]){GRPC_ARG_ENABLE_RETRIES}, .value.integer = 0},
    };
    grpc_channel_args list = {.num_args = 3, .args = args};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    c->channel = grpc_channel_create(target, credentials, &list);
    grpc_channel_credentials_release(credentials);
    c->queue = grpc_completion_queue_create_for_pluck(NULL);
}

static inline void client_close(client *c) {
    grpc_channel_destroy(c->channel);
    grpc_completion_queue_shutdown(c->queue);
    while (grpc_completion_queue_pluck(c->queue, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {}
    grpc_completion_queue_destroy(c->queue);
}

static inline bool client_batch(client_call *k, const grpc_op *ops, size_t n) {
    static char tag;
    grpc_call_error error = grpc_call_start_batch(k->handle, ops, n, &tag, NULL);
    INVARIANT(error == GRPC_CALL_OK);
    grpc_event e = grpc_completion_queue_pluck(k->owner->queue, &tag, client_seconds(CLIENT_PATIENCE_S), NULL);
    INVARIANT(e.type == GRPC_OP_COMPLETE);
    return e.success;
}

static inline bool client_send_bytes(client_call *k, const void *bytes, size_t n) {
    grpc_slice slice = grpc_slice_from_copied_buffer(bytes, n);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = buffer;
    bool ok = client_batch(k, &op, 1);
    grpc_byte_buffer_destroy(buffer);
    grpc_slice_unref(slice);
    return ok;
}

static inline bool client_send(client_call *k, const ProtobufCMessage *m) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = memory_alloc(n + 1);
    protobuf_c_message_pack(m, bytes);
    bool ok = client_send_bytes(k, bytes, n);
    free(bytes);
    return ok;
}

static inline void client_half_close(client_call *k) {
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    (void)client_batch(k, &op, 1);
}

static inline void client_begin_with(client_call *k, client *c, const char *path, double deadline_s,
                                     grpc_metadata *metadata, size_t count) {
    grpc_slice method = grpc_slice_from_copied_string(path);
    *k = (client_call){.owner = c};
    gpr_timespec deadline = deadline_s > 0 ? client_seconds(deadline_s) : gpr_inf_future(GPR_CLOCK_MONOTONIC);
    k->handle = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue, method, NULL, deadline,
                                         NULL);
    grpc_slice_unref(method);
    grpc_metadata_array_init(&k->initial);
    grpc_metadata_array_init(&k->trailing);
    grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    op.data.send_initial_metadata.metadata = metadata;
    op.data.send_initial_metadata.count = count;
    (void)client_batch(k, &op, 1);
}

static inline void client_begin(client_call *k, client *c, const char *path, double deadline_s) {
    client_begin_with(k, c, path, deadline_s, NULL, 0);
}

/* false: no more messages. */
static inline bool client_receive(client_call *k, strbuf *out) {
    grpc_op ops[2] = {{.op = GRPC_OP_RECV_MESSAGE}, {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    grpc_byte_buffer *buffer = NULL;
    ops[0].data.recv_message.recv_message = &buffer;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &k->initial;
    (void)client_batch(k, ops, k->answered ? 1 : 2); /* the initial metadata is received once */
    k->answered = true;
    strbuf_clear(out);
    if (!buffer) return false;
    grpc_byte_buffer_reader reader;
    int ok = grpc_byte_buffer_reader_init(&reader, buffer);
    INVARIANT(ok);
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    strbuf_add(out, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all));
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    return true;
}

/* Waits for the status; client_end releases. */
static inline grpc_status_code client_status(client_call *k) {
    grpc_op ops[2] = {{.op = GRPC_OP_RECV_STATUS_ON_CLIENT}, {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    ops[0].data.recv_status_on_client.status = &k->code;
    ops[0].data.recv_status_on_client.status_details = &k->details;
    ops[0].data.recv_status_on_client.trailing_metadata = &k->trailing;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &k->initial;
    /* An answer of a status alone waits behind its initial metadata until that is asked for. */
    (void)client_batch(k, ops, k->answered ? 1 : 2);
    k->answered = true;
    k->text = memory_alloc(GRPC_SLICE_LENGTH(k->details) + 1);
    memcpy(k->text, GRPC_SLICE_START_PTR(k->details), GRPC_SLICE_LENGTH(k->details));
    grpc_slice_unref(k->details);
    return k->code;
}

/* "" when there is no such trailer; lives until the next call. */
static inline const char *client_trailer(const client_call *k, const char *key) {
    static char value[512];
    value[0] = 0;
    for (size_t i = 0; i < k->trailing.count; i++)
        if (!grpc_slice_str_cmp(k->trailing.metadata[i].key, key))
            snprintf(value, sizeof value, "%.*s", (int)GRPC_SLICE_LENGTH(k->trailing.metadata[i].value),
                     (const char *)GRPC_SLICE_START_PTR(k->trailing.metadata[i].value));
    return value;
}

static inline void client_end(client_call *k) {
    grpc_metadata_array_destroy(&k->initial);
    grpc_metadata_array_destroy(&k->trailing);
    grpc_call_unref(k->handle);
    free(k->text);
}

/* One request of bytes, at most one answer; k holds the status. */
static inline void client_ask_bytes(client_call *k, client *c, const char *path, const void *bytes, size_t n,
                                    strbuf *answer) {
    client_begin(k, c, path, CLIENT_PATIENCE_S);
    (void)client_send_bytes(k, bytes, n);
    client_half_close(k);
    (void)client_receive(k, answer);
    (void)client_status(k);
}

static inline void client_ask(client_call *k, client *c, const char *path, const ProtobufCMessage *m, strbuf *answer) {
    client_begin(k, c, path, CLIENT_PATIENCE_S);
    (void)client_send(k, m);
    client_half_close(k);
    (void)client_receive(k, answer);
    (void)client_status(k);
}

#endif
