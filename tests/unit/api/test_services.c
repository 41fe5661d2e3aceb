/* Health and reflection, as a client sees them. */
#include "daemon/api/descriptors.h"
#include "daemon/api/health.h"
#include "daemon/api/reflection.h"
#include "proto/descriptors.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "tests/unit/api/fixture.h"

static fixture fix;
static client cli;
static strbuf answer;
static health *watched;
static reflection *mirror;
static const char *state = "starting"; /* loop thread, after the start */

static const char *state_now(void *context) {
    (void)context;
    return state;
}

static void add_methods(fixture *f) {
    health_open(&watched, f->server, state_now, NULL);
    CHECK_STATUS(reflection_open(&mirror, f->server), ST_OK);
}

static void become_ready(fixture *f) {
    (void)f;
    state = "ready";
    health_changed(watched);
    health_changed(watched); /* no news */
}
static void become_draining(fixture *f) {
    (void)f;
    state = "draining";
    health_changed(watched);
}
static void stop_health(fixture *f) {
    (void)f;
    state = "ready";
    health_stop(watched);
}

static void send_service(client_call *k, const char *name) {
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    q.service = (char *)(uintptr_t)name;
    CHECK(client_send(k, &q.base));
    client_half_close(k);
}

static int status_of_answer(void) {
    Grpc__Health__V1__HealthCheckResponse *m = grpc__health__v1__health_check_response__unpack(
        NULL, answer.size, (const uint8_t *)strbuf_text(&answer));
    int got = m ? (int)m->status : -1;
    if (m) grpc__health__v1__health_check_response__free_unpacked(m, NULL);
    return got;
}

static void check_health(const char *service, grpc_status_code code, int want) {
    client_call k;
    client_begin(&k, &cli, "/grpc.health.v1.Health/Check", CLIENT_PATIENCE_S);
    send_service(&k, service);
    bool got = client_receive(&k, &answer);
    CHECK(got == (code == GRPC_STATUS_OK));
    if (got) CHECK_THAT(status_of_answer() == want, "%d", status_of_answer());
    CHECK(client_status(&k) == code);
    client_end(&k);
}

enum { SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 };

TEST(health_follows_the_state) {
    client_call all, one, unknown;
    check_health("", GRPC_STATUS_OK, NOT_SERVING);
    check_health("gemmad.v1.Inference", GRPC_STATUS_OK, NOT_SERVING);
    check_health("gemmad.v1.Nothing", GRPC_STATUS_NOT_FOUND, 0);
    client_begin(&all, &cli, "/grpc.health.v1.Health/Watch", 0);
    client_begin(&one, &cli, "/grpc.health.v1.Health/Watch", 0);
    client_begin(&unknown, &cli, "/grpc.health.v1.Health/Watch", 0);
    send_service(&all, "");
    send_service(&one, "gemmad.v1.Inference");
    send_service(&unknown, "x");
    CHECK(client_receive(&all, &answer) && status_of_answer() == NOT_SERVING);
    CHECK(client_receive(&one, &answer) && status_of_answer() == NOT_SERVING);
    CHECK(client_receive(&unknown, &answer) && status_of_answer() == SERVICE_UNKNOWN);
    fixture_run(&fix, become_ready);
    check_health("", GRPC_STATUS_OK, SERVING);
    CHECK(client_receive(&all, &answer) && status_of_answer() == SERVING);
    CHECK(client_receive(&one, &answer) && status_of_answer() == SERVING);
    grpc_call_cancel(one.handle, NULL);
    CHECK(client_status(&one) == GRPC_STATUS_CANCELLED);
    CHECK(fixture_await_counts(&fix, 1, 2));
    fixture_run(&fix, become_draining);
    CHECK(client_receive(&all, &answer) && status_of_answer() == NOT_SERVING);
    fixture_run(&fix, stop_health);
    CHECK(!client_receive(&all, &answer) && client_status(&all) == GRPC_STATUS_UNAVAILABLE);
    CHECK(!client_receive(&unknown, &answer) && client_status(&unknown) == GRPC_STATUS_UNAVAILABLE);
    check_health("", GRPC_STATUS_OK, NOT_SERVING); /* whatever the state says now */
    client_end(&all);
    client_end(&one);
    client_end(&unknown);
    CHECK(fixture_await_counts(&fix, 1, 0));
}

typedef Grpc__Reflection__V1__ServerReflectionResponse response;
#define KIND(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define ANSWER(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name

static response *reflect(client_call *k, int kind, const char *text) {
    Grpc__Reflection__V1__ServerReflectionRequest q = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    q.message_request_case = kind;
    q.file_by_filename = (char *)(uintptr_t)text; /* the four texts share a place */
    CHECK(client_send(k, &q.base));
    CHECK(client_receive(k, &answer));
    response *m = grpc__reflection__v1__server_reflection_response__unpack(NULL, answer.size,
                                                                           (const uint8_t *)strbuf_text(&answer));
    INVARIANT(m);
    return m;
}

static void check_file(client_call *k, int kind, const char *text, const char *want) {
    response *m = reflect(k, kind, text);
    if (want) {
        CHECK(m->message_response_case == ANSWER(FILE_DESCRIPTOR_RESPONSE));
        ProtobufCBinaryData *f = m->file_descriptor_response->file_descriptor_proto;
        /* A FileDescriptorProto begins with its name: tag, length, text. */
        CHECK(f->len > strlen(want) + 2 && f->data[1] == strlen(want) && !memcmp(f->data + 2, want, strlen(want)));
    } else {
        CHECK(m->message_response_case == ANSWER(ERROR_RESPONSE));
        CHECK(m->error_response->error_code == GRPC_STATUS_NOT_FOUND && strstr(m->error_response->error_message, text));
    }
    grpc__reflection__v1__server_reflection_response__free_unpacked(m, NULL);
}

static void check_reflection(const char *path) {
    client_call k;
    client_begin(&k, &cli, path, CLIENT_PATIENCE_S);
    response *m = reflect(&k, KIND(LIST_SERVICES), "");
    static const char *const want[] = {"gemmad.v1.Inference", "gemmad.v1.Jobs", "gemmad.v1.Control",
                                       "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                       "grpc.reflection.v1alpha.ServerReflection"};
    size_t n = m->message_response_case == ANSWER(LIST_SERVICES_RESPONSE) ? m->list_services_response->n_service : 0;
    CHECK(n == sizeof want / sizeof *want);
    for (size_t i = 0; i < n && i < sizeof want / sizeof *want; i++)
        CHECK(!strcmp(m->list_services_response->service[i]->name, want[i]));
    grpc__reflection__v1__server_reflection_response__free_unpacked(m, NULL);
    check_file(&k, KIND(FILE_BY_FILENAME), "gemmad.proto", "gemmad.proto");
    check_file(&k, KIND(FILE_BY_FILENAME), "nothing.proto", NULL);
    check_file(&k, KIND(FILE_CONTAINING_SYMBOL), "gemmad.v1.Inference.Generate", "gemmad.proto");
    check_file(&k, KIND(FILE_CONTAINING_SYMBOL), "gemmad.v1.GenerateRequest.prompt", "gemmad.proto");
    check_file(&k, KIND(FILE_CONTAINING_SYMBOL), "grpc.health.v1.HealthCheckResponse.SERVING",
               "grpc/health/v1/health.proto");
    check_file(&k, KIND(FILE_CONTAINING_SYMBOL), "grpc.health.v1.HealthCheckResponse.ServingStatus",
               "grpc/health/v1/health.proto");
    check_file(&k, KIND(FILE_CONTAINING_SYMBOL), "gemmad.v1.Nothing", NULL);
    m = reflect(&k, KIND(ALL_EXTENSION_NUMBERS_OF_TYPE), "gemmad.v1.Sampling");
    CHECK(m->message_response_case == ANSWER(ALL_EXTENSION_NUMBERS_RESPONSE));
    grpc__reflection__v1__server_reflection_response__free_unpacked(m, NULL);
    client_half_close(&k);
    CHECK(!client_receive(&k, &answer));
    CHECK_THAT(client_status(&k) == GRPC_STATUS_OK, "%s", k.text);
    client_end(&k);
}

TEST(reflection_in_both_versions) {
    check_reflection("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    check_reflection("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
}

TEST(a_reflection_that_is_given_up_or_broken_ends) {
    client_call k;
    const char *path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    client_begin(&k, &cli, path, CLIENT_PATIENCE_S);
    check_file(&k, KIND(FILE_BY_FILENAME), "gemmad.proto", "gemmad.proto");
    grpc_call_cancel(k.handle, NULL);
    (void)client_status(&k);
    client_end(&k);
    CHECK(fixture_await_counts(&fix, 1, 0));

    client_begin(&k, &cli, path, CLIENT_PATIENCE_S);
    check_file(&k, KIND(FILE_BY_FILENAME), "gemmad.proto", "gemmad.proto");
    CHECK(client_send_bytes(&k, "\x1A\x7F", 2));
    CHECK(!client_receive(&k, &answer));
    CHECK_THAT(client_status(&k) == GRPC_STATUS_INVALID_ARGUMENT, "%s", k.text);
    client_end(&k);
    CHECK(fixture_await_counts(&fix, 1, 0));

    client_begin(&k, &cli, path, CLIENT_PATIENCE_S); /* asks nothing */
    client_half_close(&k);
    CHECK(client_status(&k) == GRPC_STATUS_OK);
    client_end(&k);
}

/* Any cut of the set is refused or read as what is left of it, never past its end (AddressSanitizer watches). */
TEST(cut_descriptors) {
    for (size_t n = 0; n < proto_descriptors_bytes; n += 7) {
        uint8_t *cut = memory_alloc(n + 1);
        descriptors *d = NULL;
        memcpy(cut, proto_descriptors, n);
        status st = descriptors_open(&d, cut, n);
        CHECK(st == ST_OK || st == ST_FORMAT);
        if (st == ST_OK) descriptors_close(d);
        free(cut);
    }
}

int main(void) {
    RUN(cut_descriptors);
    fixture_open(&fix, NULL, add_methods);
    client_open(&cli, fix.target);
    RUN(reflection_in_both_versions);
    RUN(a_reflection_that_is_given_up_or_broken_ends);
    RUN(health_follows_the_state);
    client_close(&cli);
    fixture_close(&fix);
    health_close(watched);
    reflection_close(mirror);
    strbuf_close(&answer);
    return test_result() || test_checks_failed;
}
