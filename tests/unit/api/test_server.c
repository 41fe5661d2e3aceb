/* Calls through gRPC's own client: what handlers are promised, and what clients are. */
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"
#include "tests/unit/api/fixture.h"

typedef Gemmad__V1__DetokenizeResponse text_message;
static fixture fix;
static client cli;
static strbuf answer;

/* Set on the loop, read by the test once it knows that they are. */
static _Atomic int cancelled_with = -1, handler_runs;
static _Atomic uint64_t backlog_seen, deadline_seen;
static char peer_seen[64];

static void send_text(call *c, const void *bytes, size_t n) {
    text_message m = GEMMAD__V1__DETOKENIZE_RESPONSE__INIT;
    m.has_text = true;
    m.text = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)(uintptr_t)bytes};
    c->ops->send(c, &m.base);
}

static void echo(void *context, call *c, const ProtobufCMessage *request) {
    const Gemmad__V1__TokenizeRequest *r = (const void *)request;
    (void)context;
    handler_runs++;
    snprintf(peer_seen, sizeof peer_seen, "%s", c->peer);
    send_text(c, r->text.data, r->text.len);
    c->ops->finish(c, ST_OK, "", 0);
}

static void count(void *context, call *c, const ProtobufCMessage *request) {
    (void)context, (void)request;
    char text[16];
    for (int i = 0; i < 10000; i++) send_text(c, text, (size_t)snprintf(text, sizeof text, "%d", i));
    c->ops->finish(c, ST_OK, "", 0);
}

static void refuse(void *context, call *c, const ProtobufCMessage *request) {
    (void)context, (void)request;
    c->ops->finish(c, ST_BUSY, "the queue is full: \xFF\xC3(\xE2\x82", 1500);
}

static void on_cancelled(call *c, void *context, status why) {
    (void)context;
    cancelled_with = (int)why;
    c->ops->finish(c, why, "", 0);
}

static void wait_for_ever(void *context, call *c, const ProtobufCMessage *request) {
    (void)context, (void)request;
    deadline_seen = c->deadline_ms;
    c->cancelled = on_cancelled;
    send_text(c, "begun", 5);
}

enum { FLOOD_MESSAGES = 64, FLOOD_BYTES = 1 << 20 };

static void flood(void *context, call *c, const ProtobufCMessage *request) {
    (void)context, (void)request;
    char *bytes = memory_alloc(FLOOD_BYTES);
    for (int i = 0; i < FLOOD_MESSAGES; i++) {
        bytes[0] = (char)i;
        send_text(c, bytes, FLOOD_BYTES);
    }
    free(bytes);
    backlog_seen = c->ops->backlog_bytes(c);
    c->ops->finish(c, ST_OK, "", 0);
}

/* One message each time that the client has taken all. */
static void send_next(call *c, void *context) {
    static const char bytes[FLOOD_BYTES];
    int *sent = context;
    if (c->ops->backlog_bytes(c) > 0) return;
    if (*sent == 8) {
        free(sent);
        c->cancelled = NULL;
        c->drained = NULL;
        c->ops->finish(c, ST_OK, "", 0);
        return;
    }
    ++*sent;
    send_text(c, bytes, sizeof bytes);
}

static void give_up_pacing(call *c, void *context, status why) {
    free(context);
    on_cancelled(c, NULL, why);
}

static void pace(void *context, call *c, const ProtobufCMessage *request) {
    (void)context, (void)request;
    c->context = memory_alloc(sizeof(int));
    c->cancelled = give_up_pacing;
    c->drained = send_next;
    send_next(c, c->context);
}

static void add_methods(fixture *f) {
    static const call_method methods[] = {
        {"/test.Test/Echo", &gemmad__v1__tokenize_request__descriptor, false, echo},
        {"/test.Test/Count", &gemmad__v1__tokenize_request__descriptor, false, count},
        {"/test.Test/Refuse", &gemmad__v1__tokenize_request__descriptor, false, refuse},
        {"/test.Test/Wait", &gemmad__v1__tokenize_request__descriptor, false, wait_for_ever},
        {"/test.Test/Flood", &gemmad__v1__tokenize_request__descriptor, false, flood},
        {"/test.Test/Pace", &gemmad__v1__tokenize_request__descriptor, false, pace},
        {"/test.Test/Stream", &gemmad__v1__tokenize_request__descriptor, true, echo},
    };
    server_add_core(f->server, methods, sizeof methods / sizeof *methods, NULL);
}

static void check_echo(const char *text, size_t n) {
    Gemmad__V1__TokenizeRequest q = GEMMAD__V1__TOKENIZE_REQUEST__INIT;
    client_call k;
    q.has_text = true;
    q.text = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)(uintptr_t)text};
    client_ask(&k, &cli, "/test.Test/Echo", &q.base, &answer);
    CHECK_THAT(k.code == GRPC_STATUS_OK, "%d %s", k.code, k.text);
    text_message *m = (void *)protobuf_c_message_unpack(&gemmad__v1__detokenize_response__descriptor, NULL, answer.size,
                                                        (const uint8_t *)strbuf_text(&answer));
    CHECK(m && m->text.len == n && (n == 0 || !memcmp(m->text.data, text, n)));
    if (m) protobuf_c_message_free_unpacked(&m->base, NULL);
    client_end(&k);
}

TEST(one_request_one_answer) {
    check_echo("hello", 5);
    check_echo("with\0nul", 8);
    check_echo("", 0);
    CHECK_THAT(!strncmp(peer_seen, "uid ", 4), "%s", peer_seen);
    char *large = memory_alloc(10 << 20); /* read on a worker thread */
    memset(large, 'x', 10 << 20);
    check_echo(large, 10 << 20);
    free(large);
}

TEST(events_arrive_in_order) {
    client_call k;
    int seen = 0;
    client_begin(&k, &cli, "/test.Test/Count", CLIENT_PATIENCE_S);
    CHECK(client_send_bytes(&k, "", 0));
    client_half_close(&k);
    char want[24];
    while (client_receive(&k, &answer)) {
        int n = snprintf(want + 2, sizeof want - 2, "%d", seen++);
        want[0] = 0x0A, want[1] = (char)n;
        CHECK(answer.size == (size_t)n + 2 && !memcmp(answer.data, want, answer.size));
    }
    CHECK_THAT(seen == 10000, "%d", seen);
    CHECK(client_status(&k) == GRPC_STATUS_OK);
    client_end(&k);
}

TEST(errors_reach_the_client_whole) {
    client_call k;
    client_ask_bytes(&k, &cli, "/test.Test/Refuse", "", 0, &answer);
    CHECK(k.code == GRPC_STATUS_RESOURCE_EXHAUSTED);
    CHECK_THAT(!strcmp(k.text, "the queue is full: \xEF\xBF\xBD\xEF\xBF\xBD(\xEF\xBF\xBD\xEF\xBF\xBD"), "%s", k.text);
    CHECK_THAT(!strcmp(client_trailer(&k, "retry-after-ms"), "1500"), "%s", client_trailer(&k, "retry-after-ms"));
    CHECK(client_trailer(&k, "grpc-status-details-bin")[0]);
    client_end(&k);

    client_ask_bytes(&k, &cli, "/test.Test/Nothing", "", 0, &answer);
    CHECK(k.code == GRPC_STATUS_UNIMPLEMENTED && strstr(k.text, "/test.Test/Nothing"));
    client_end(&k);

    client_ask_bytes(&k, &cli, "/test.Test/Stream", "", 0, &answer);
    CHECK(k.code == GRPC_STATUS_UNIMPLEMENTED && strstr(k.text, "test.Test/Stream takes a stream of requests"));
    client_end(&k);
}

TEST(what_is_no_message_is_an_invalid_argument) {
    client_call k;
    int before = handler_runs;
    client_ask_bytes(&k, &cli, "/test.Test/Echo", "\x12\x7F" "a", 3, &answer);
    CHECK_THAT(k.code == GRPC_STATUS_INVALID_ARGUMENT && strstr(k.text, "TokenizeRequest"), "%d %s", k.code, k.text);
    client_end(&k);
    client_begin(&k, &cli, "/test.Test/Echo", CLIENT_PATIENCE_S); /* no message at all */
    client_half_close(&k);
    CHECK(client_status(&k) == GRPC_STATUS_INVALID_ARGUMENT);
    client_end(&k);
    char *large = memory_alloc(LIMIT_MESSAGE_BYTES + 1);
    client_ask_bytes(&k, &cli, "/test.Test/Echo", large, LIMIT_MESSAGE_BYTES + 1, &answer);
    CHECK_THAT(k.code == GRPC_STATUS_RESOURCE_EXHAUSTED, "%d %s", k.code, k.text);
    client_end(&k);
    free(large);
    CHECK(handler_runs == before);
    check_echo("still here", 10);
}

static void await_cancelled(status want) {
    for (int i = 0; i < 500 && cancelled_with < 0; i++) usleep(20000);
    CHECK_THAT(cancelled_with == (int)want, "%d", cancelled_with);
    cancelled_with = -1;
    CHECK(fixture_await_counts(&fix, 1, 0));
}

TEST(a_client_that_goes_away_is_heard) {
    client_call k;
    client_begin(&k, &cli, "/test.Test/Wait", 0);
    CHECK(client_send_bytes(&k, "", 0));
    CHECK(client_receive(&k, &answer));
    CHECK(deadline_seen == 0);
    CHECK(cancelled_with == -1);
    grpc_call_cancel(k.handle, NULL);
    CHECK(client_status(&k) == GRPC_STATUS_CANCELLED);
    client_end(&k);
    await_cancelled(ST_CANCELLED);
}

TEST(a_connection_that_breaks_is_heard) {
    client other;
    client_call k;
    client_open(&other, fix.target);
    client_begin(&k, &other, "/test.Test/Wait", 0);
    CHECK(client_send_bytes(&k, "", 0));
    CHECK(client_receive(&k, &answer));
    CHECK(fixture_await_counts(&fix, 2, 1));
    grpc_call_cancel(k.handle, NULL);
    (void)client_status(&k);
    client_end(&k);
    client_close(&other);
    await_cancelled(ST_CANCELLED);
}

TEST(a_deadline_is_a_timeout) {
    client_call k;
    client_begin(&k, &cli, "/test.Test/Wait", 0.4);
    CHECK(client_send_bytes(&k, "", 0));
    CHECK(client_receive(&k, &answer));
    CHECK_THAT(deadline_seen > 0 && deadline_seen <= 400, "%llu", (unsigned long long)deadline_seen);
    CHECK(client_status(&k) == GRPC_STATUS_DEADLINE_EXCEEDED);
    client_end(&k);
    await_cancelled(ST_TIMEOUT);
}

TEST(what_a_client_does_not_take_is_the_backlog) {
    client_call k;
    int seen = 0;
    client_begin(&k, &cli, "/test.Test/Flood", CLIENT_PATIENCE_S);
    CHECK(client_send_bytes(&k, "", 0));
    client_half_close(&k);
    while (client_receive(&k, &answer)) {
        CHECK(answer.size > FLOOD_BYTES && answer.data[answer.size - FLOOD_BYTES] == (char)seen);
        seen++;
    }
    CHECK(seen == FLOOD_MESSAGES);
    CHECK(backlog_seen > (uint64_t)FLOOD_MESSAGES * FLOOD_BYTES / 2);
    CHECK(client_status(&k) == GRPC_STATUS_OK);
    client_end(&k);
}

TEST(a_handler_hears_what_was_taken) {
    client_call k;
    for (int leave = 0; leave < 2; leave++) {
        int seen = 0;
        cancelled_with = -1;
        client_begin(&k, &cli, "/test.Test/Pace", CLIENT_PATIENCE_S);
        CHECK(client_send_bytes(&k, "", 0));
        if (!leave) client_half_close(&k);
        while (seen < (leave ? 1 : 9) && client_receive(&k, &answer)) seen++;
        CHECK_THAT(seen == (leave ? 1 : 8), "%d", seen);
        if (leave) grpc_call_cancel(k.handle, NULL);
        CHECK(client_status(&k) == (leave ? GRPC_STATUS_CANCELLED : GRPC_STATUS_OK));
        client_end(&k);
        CHECK(fixture_await_counts(&fix, 1, 0));
    }
}

TEST(a_flooded_client_may_leave) {
    client_call k;
    client_begin(&k, &cli, "/test.Test/Flood", CLIENT_PATIENCE_S);
    CHECK(client_send_bytes(&k, "", 0));
    CHECK(client_receive(&k, &answer));
    grpc_call_cancel(k.handle, NULL);
    (void)client_status(&k);
    client_end(&k);
    CHECK(fixture_await_counts(&fix, 1, 0));
}

TEST(many_calls_at_once) {
    enum { CALLS = 200 };
    static client_call k[CALLS];
    for (int i = 0; i < CALLS; i++) client_begin(&k[i], &cli, "/test.Test/Wait", 0);
    for (int i = 0; i < CALLS; i++) CHECK(client_send_bytes(&k[i], "", 0));
    CHECK(fixture_await_counts(&fix, 1, CALLS));
    check_echo("beside them", 11);
    for (int i = 0; i < CALLS; i++) {
        grpc_call_cancel(k[i].handle, NULL);
        (void)client_status(&k[i]);
        client_end(&k[i]);
    }
    CHECK(fixture_await_counts(&fix, 1, 0));
    cancelled_with = -1;
}

/* The last: the fixture is closed while a call runs, which its handler hears. */
static client_call last;

int main(void) {
    fixture_open(&fix, NULL, add_methods);
    client_open(&cli, fix.target);
    RUN(one_request_one_answer);
    RUN(events_arrive_in_order);
    RUN(errors_reach_the_client_whole);
    RUN(what_is_no_message_is_an_invalid_argument);
    RUN(a_client_that_goes_away_is_heard);
    RUN(a_connection_that_breaks_is_heard);
    RUN(a_deadline_is_a_timeout);
    RUN(what_a_client_does_not_take_is_the_backlog);
    RUN(a_handler_hears_what_was_taken);
    RUN(a_flooded_client_may_leave);
    RUN(many_calls_at_once);
    client_begin(&last, &cli, "/test.Test/Wait", 0);
    CHECK(client_send_bytes(&last, "", 0) && client_receive(&last, &answer));
    fixture_close(&fix);
    CHECK(cancelled_with == ST_CANCELLED);
    (void)client_status(&last);
    client_end(&last);
    client_close(&cli);
    strbuf_close(&answer);
    return test_result() || test_checks_failed;
}
