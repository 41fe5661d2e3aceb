#include "ctl/client.h"

#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "proto/limits.h"
#include "proto/message.h"

/* An interrupt is noticed between two waits for an event; gRPC's calls may not be made in a signal handler.
 */
enum { POLL_MS = 100 };

struct client {
    char *address;
    grpc_completion_queue *events;
    grpc_channel *channel;
};

/* The three batches of one call; the value is the completion tag and the bit in `done`. */
enum { BATCH_SEND = 1, BATCH_STATUS = 2, BATCH_MESSAGE = 4 };

struct client_stream {
    client *client;
    grpc_call *call;
    const ProtobufCMessageDescriptor *reply;
    uint32_t timeout_ms;
    unsigned pending, done;
    bool cancelled, finished;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice details;
    grpc_byte_buffer *request, *message;
};

static atomic_int interrupt_signal; /* lock-free, so a handler may write it */
static const client_access *in_use;

void client_use_access(const client_access *a) { in_use = a; }

static void on_interrupt(int number) {
    if (atomic_load(&interrupt_signal) != SIGTERM) atomic_store(&interrupt_signal, number);
}

void client_catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int client_interrupt(void) { return atomic_load(&interrupt_signal); }

bool client_forget_interrupt(void) {
    int expected = SIGINT;
    return atomic_compare_exchange_strong(&interrupt_signal, &expected, 0) || expected == 0;
}

status client_check_address(const char *address) {
    if (!strncmp(address, "unix:", 5)) {
        if (!address[5]) return fail(ST_INVALID, "--server \"%s\" has no path", address);
        return ST_OK;
    }
    const char *colon = strrchr(address, ':');
    if (colon && colon > address && !strchr(address, '/')) {
        char *end;
        long port = strtol(colon + 1, &end, 10);
        if (colon[1] >= '0' && colon[1] <= '9' && !*end && port >= 1 && port <= 65535) return ST_OK;
    }
    return fail(ST_INVALID, "--server \"%s\" is neither unix:PATH nor HOST:PORT", address);
}

static gpr_timespec after_ms(uint32_t ms) {
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

static void drop_log(gpr_log_func_args *args) { (void)args; }

static status connect_channel(client *c, uint32_t connect_ms) {
    uint64_t end_ns = clock_now_ns() + (uint64_t)connect_ms * 1000000;
    for (;;) {
        grpc_connectivity_state state = grpc_channel_check_connectivity_state(c->channel, 1);
        if (state == GRPC_CHANNEL_READY) return ST_OK;
        if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) {
            if (!strncmp(c->address, "unix:", 5) && access(c->address + 5, W_OK) && errno == EACCES)
                return fail(ST_DENIED, "%s lets only its own user connect", c->address);
            return fail(ST_UNAVAILABLE, "no gemmad answers at %s", c->address);
        }
        if (client_interrupt()) return fail(ST_CANCELLED, "interrupted");
        uint64_t now_ns = clock_now_ns();
        if (now_ns >= end_ns)
            return fail(ST_UNAVAILABLE, "nothing at %s answers as a gRPC server within %g s", c->address,
                        connect_ms / 1000.0);
        uint64_t left_ms = (end_ns - now_ns) / 1000000 + 1;
        grpc_channel_watch_connectivity_state(
            c->channel, state, after_ms(left_ms < POLL_MS ? (uint32_t)left_ms : POLL_MS), c->events, NULL);
        (void)grpc_completion_queue_next(c->events, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    }
}

static grpc_channel_credentials *make_credentials(const char *address) {
    if (!in_use || !in_use->tls || !strncmp(address, "unix:", 5)) return grpc_insecure_credentials_create();
    grpc_ssl_pem_key_cert_pair pair = {.private_key = in_use->key, .cert_chain = in_use->cert};
    return grpc_ssl_credentials_create(in_use->ca, in_use->cert ? &pair : NULL, NULL, NULL);
}

status client_open(client **out, const char *address, uint32_t connect_ms) {
    TRY(client_check_address(address));
    if (in_use) TRY(access_check(in_use, address));
    /* gRPC writes its own lines about each failed connection; ours say the same once. */
    if (!getenv("GRPC_VERBOSITY")) gpr_set_log_function(drop_log);
    grpc_init();
    client *c = memory_alloc(sizeof *c);
    c->address = memory_copy_string(address);
    c->events = grpc_completion_queue_create_for_next(NULL);
    grpc_arg args[] = {
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
         .value.integer = LIMIT_MESSAGE_BYTES},
        {.type = GRPC_ARG_INTEGER,
         .key = (char *)GRPC_ARG_MAX_SEND_MESSAGE_LENGTH,
         .value.integer = LIMIT_MESSAGE_BYTES},
        /* http_proxy is for the web, not for a daemon on this machine or its neighbour. */
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_ENABLE_HTTP_PROXY, .value.integer = 0},
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_ENABLE_RETRIES, .value.integer = 0},
        /* `status --wait` opens a client every 100 ms; a shared pool would keep the back-off of the one
           before. */
        {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, .value.integer = 1},
    };
    grpc_channel_args channel_args = {sizeof args / sizeof *args, args};
    grpc_channel_credentials *credentials = make_credentials(address);
    c->channel = grpc_channel_create(address, credentials, &channel_args);
    grpc_channel_credentials_release(credentials);
    status st = connect_channel(c, connect_ms);
    if (st != ST_OK) client_close(c);
    else *out = c;
    return st;
}

void client_close(client *c) {
    if (!c) return;
    grpc_channel_destroy(c->channel);
    grpc_completion_queue_shutdown(c->events);
    while (grpc_completion_queue_next(c->events, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(c->events);
    free(c->address);
    free(c);
    grpc_shutdown();
}

/* ---- One call
 * ------------------------------------------------------------------------------------------------- */

static void start_batch(client_stream *s, unsigned batch, const grpc_op *ops, size_t count) {
    grpc_call_error error = grpc_call_start_batch(s->call, ops, count, (void *)(uintptr_t)batch, NULL);
    INVARIANT(error == GRPC_CALL_OK);
    s->pending |= batch;
    s->done &= ~batch;
}

static void cancel(client_stream *s) {
    if (!s->cancelled) grpc_call_cancel(s->call, NULL);
    s->cancelled = true;
}

static void wait_for(client_stream *s, unsigned batches) {
    while ((s->done & batches) != batches) {
        if (client_interrupt()) cancel(s);
        grpc_event event = grpc_completion_queue_next(s->client->events, after_ms(POLL_MS), NULL);
        if (event.type != GRPC_OP_COMPLETE) continue;
        unsigned batch = (unsigned)(uintptr_t)event.tag;
        s->pending &= ~batch;
        s->done |= batch;
    }
}

static grpc_byte_buffer *pack(const ProtobufCMessage *request) {
    size_t n = protobuf_c_message_get_packed_size(request);
    grpc_slice slice = grpc_slice_malloc(n);
    protobuf_c_message_pack(request, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

status client_stream_open(client_stream **out, client *c, const char *method, const ProtobufCMessage *request,
                          const ProtobufCMessageDescriptor *reply, uint32_t timeout_ms) {
    size_t n = protobuf_c_message_get_packed_size(request);
    if (n > LIMIT_MESSAGE_BYTES)
        return fail(ST_INVALID, "a request of %zu bytes, at most %d", n, LIMIT_MESSAGE_BYTES);
    client_stream *s = memory_alloc(sizeof *s);
    *s =
        (client_stream){.client = c, .reply = reply, .timeout_ms = timeout_ms, .details = grpc_empty_slice()};
    gpr_timespec deadline = timeout_ms ? after_ms(timeout_ms) : gpr_inf_future(GPR_CLOCK_MONOTONIC);
    s->call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->events,
                                       grpc_slice_from_static_string(method), NULL, deadline, NULL);
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    s->request = pack(request);
    grpc_metadata authorization = {.key = grpc_slice_from_static_string("authorization")};
    bool has_key = in_use && in_use->authorization;
    if (has_key) authorization.value = grpc_slice_from_static_string(in_use->authorization);
    grpc_op send[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .data.send_initial_metadata = {.count = has_key, .metadata = &authorization}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = s->request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA,
         .data.recv_initial_metadata.recv_initial_metadata = &s->initial},
    };
    start_batch(s, BATCH_SEND, send, sizeof send / sizeof *send);
    grpc_op end = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                   .data.recv_status_on_client = {
                       .trailing_metadata = &s->trailing, .status = &s->code, .status_details = &s->details}};
    start_batch(s, BATCH_STATUS, &end, 1);
    *out = s;
    return ST_OK;
}

static status from_code(grpc_status_code code, const char **name) {
    static const struct {
        grpc_status_code code;
        const char *name;
        status st;
    } codes[] = {
        {GRPC_STATUS_CANCELLED, "CANCELLED", ST_CANCELLED},
        {GRPC_STATUS_INVALID_ARGUMENT, "INVALID_ARGUMENT", ST_INVALID},
        {GRPC_STATUS_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", ST_TIMEOUT},
        {GRPC_STATUS_NOT_FOUND, "NOT_FOUND", ST_NOT_FOUND},
        {GRPC_STATUS_ALREADY_EXISTS, "ALREADY_EXISTS", ST_EXISTS},
        {GRPC_STATUS_PERMISSION_DENIED, "PERMISSION_DENIED", ST_AUTH},
        {GRPC_STATUS_UNAUTHENTICATED, "UNAUTHENTICATED", ST_AUTH},
        {GRPC_STATUS_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", ST_BUSY},
        {GRPC_STATUS_UNIMPLEMENTED, "UNIMPLEMENTED", ST_UNSUPPORTED},
        {GRPC_STATUS_UNAVAILABLE, "UNAVAILABLE", ST_UNAVAILABLE},
        {GRPC_STATUS_INTERNAL, "INTERNAL", ST_INTERNAL},
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i].code == code) {
            *name = codes[i].name;
            return codes[i].st;
        }
    *name = "UNKNOWN";
    return ST_INTERNAL;
}

/* The stream has ended: the server's verdict. */
static status verdict(client_stream *s) {
    wait_for(s, BATCH_STATUS);
    s->finished = true;
    if (client_interrupt()) return fail(ST_CANCELLED, "interrupted");
    if (s->code == GRPC_STATUS_OK) return ST_OK;
    const char *name;
    status st = from_code(s->code, &name);
    size_t n = GRPC_SLICE_LENGTH(s->details);
    if (st == ST_TIMEOUT && s->timeout_ms)
        return fail(st, "no answer from %s within %g s (%s)", s->client->address, s->timeout_ms / 1000.0,
                    name);
    if (n == 0) return fail(st, "%s gave no reason (%s)", s->client->address, name);
    return fail(st, "%.*s (%s)", (int)(n < STATUS_TEXT_MAX ? n : STATUS_TEXT_MAX),
                (const char *)GRPC_SLICE_START_PTR(s->details), name);
}

status client_stream_next(client_stream *s, ProtobufCMessage **out) {
    INVARIANT(!s->finished);
    *out = NULL;
    grpc_op receive = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->message};
    start_batch(s, BATCH_MESSAGE, &receive, 1);
    wait_for(s, BATCH_MESSAGE);
    if (!s->message) return verdict(s);
    grpc_byte_buffer_reader reader;
    INVARIANT(grpc_byte_buffer_reader_init(&reader, s->message));
    grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(s->message);
    s->message = NULL;
    status st = message_unpack(s->reply, GRPC_SLICE_START_PTR(whole), GRPC_SLICE_LENGTH(whole), out);
    grpc_slice_unref(whole);
    return st == ST_OK ? ST_OK : fail_within(ST_INTERNAL, "answer of %s", s->client->address);
}

void client_stream_close(client_stream *s) {
    if (!s) return;
    if (!s->finished) cancel(s);
    wait_for(s, s->pending);
    grpc_byte_buffer_destroy(s->request);
    grpc_byte_buffer_destroy(s->message);
    grpc_call_unref(s->call);
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_slice_unref(s->details);
    free(s);
}

status client_call(client *c, const char *method, const ProtobufCMessage *request,
                   const ProtobufCMessageDescriptor *reply, uint32_t timeout_ms, ProtobufCMessage **out) {
    client_stream *s = NULL;
    ProtobufCMessage *extra = NULL;
    *out = NULL;
    TRY(client_stream_open(&s, c, method, request, reply, timeout_ms));
    status st = client_stream_next(s, out);
    if (st == ST_OK && !*out) st = fail(ST_INTERNAL, "%s ended %s without an answer", c->address, method);
    else if (st == ST_OK) st = client_stream_next(s, &extra);
    if (extra) {
        protobuf_c_message_free_unpacked(extra, NULL);
        st = fail(ST_INTERNAL, "%s answered %s twice", c->address, method);
    }
    if (st != ST_OK && *out) {
        protobuf_c_message_free_unpacked(*out, NULL);
        *out = NULL;
    }
    client_stream_close(s);
    return st;
}
