/* Keys on the wire: who is let in, and what a call then knows of its caller. */
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/api/health.h"
#include "proto/gemmad.pb-c.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "tests/unit/api/fixture.h"

static fixture fix;
static health *watched;
static auth *keys;
static client owner, stranger; /* over the Unix socket, over TCP */
static strbuf answer;
static uint32_t handled;

/* Answers with the peer and the key's name. */
static void tell(void *context, call *c, const ProtobufCMessage *request) {
    char text[160];
    (void)context, (void)request;
    handled++;
    snprintf(text, sizeof text, "%s|%s|%d", c->peer, c->who ? auth_key_name(c->who) : "-",
             auth_key_is_admin(c->who));
    c->ops->finish(c, ST_INVALID, text, 0);
}

static const char *ready(void *context) {
    (void)context;
    return "ready";
}

static void add_methods(fixture *f) {
    server_add_method(f->server, &(server_method){.path = "/t.T/Tell",
                                                  .request = &gemmad__v1__list_models_request__descriptor,
                                                  .handle = tell});
    health_open(&watched, f->server, ready, NULL);
    server_set_auth(f->server, keys);
    server_set_message_ms(f->server, 800);
}

static void replace_keys(fixture *f) {
    key_file file = {0};
    key_entry *e;
    (void)f;
    CHECK_STATUS(key_file_add(&file, "alice", &e), ST_OK);
    key_digest("right", 5, e->digest);
    CHECK_STATUS(key_file_add(&file, "root", &e), ST_OK);
    key_digest("strong", 6, e->digest);
    e->admin = true;
    auth_replace(keys, &file);
    key_file_close(&file);
}

/* `count` values of authorization; the status' text in k. */
static void ask_many(client_call *k, client *c, const char *path, const char *const *value, size_t count) {
    grpc_metadata metadata[4];
    static const uint8_t nothing[1];
    for (size_t i = 0; i < count; i++)
        metadata[i] = (grpc_metadata){.key = grpc_slice_from_static_string("authorization"),
                                      .value = grpc_slice_from_copied_string(value[i])};
    client_begin_with(k, c, path, CLIENT_PATIENCE_S, metadata, count);
    for (size_t i = 0; i < count; i++) grpc_slice_unref(metadata[i].value);
    (void)client_send_bytes(k, nothing, 0);
    client_half_close(k);
    (void)client_receive(k, &answer);
    (void)client_status(k);
}

static void check(client *c, const char *value, grpc_status_code code, const char *text) {
    client_call k;
    uint32_t before = handled;
    ask_many(&k, c, "/t.T/Tell", &value, value != NULL);
    CHECK_THAT(k.code == code && strstr(k.text, text), "%s: %d \"%s\"", value ? value : "no key", k.code,
               k.text);
    CHECK(handled - before == (code == GRPC_STATUS_INVALID_ARGUMENT));
    client_end(&k);
}

TEST(strangers_need_a_key) {
    check(&stranger, NULL, GRPC_STATUS_UNAUTHENTICATED, "a key is needed");
    check(&stranger, "Bearer wrong", GRPC_STATUS_UNAUTHENTICATED, "not known here");
    check(&stranger, "Basic right", GRPC_STATUS_UNAUTHENTICATED, "not \"Bearer KEY\"");
    check(&stranger, "Bearer right", GRPC_STATUS_INVALID_ARGUMENT, "key alice|alice|0");
    check(&stranger, "bearer strong", GRPC_STATUS_INVALID_ARGUMENT, "key root|root|1");
    static const char *const two[] = {"Bearer right", "Bearer wrong"};
    client_call k;
    ask_many(&k, &stranger, "/t.T/Tell", two, 2);
    CHECK_THAT(k.code == GRPC_STATUS_UNAUTHENTICATED, "%d %s", k.code, k.text);
    client_end(&k);
}

TEST(what_methods_there_are_is_not_told_to_strangers) {
    client_call k;
    ask_many(&k, &stranger, "/t.T/Other", NULL, 0);
    CHECK(k.code == GRPC_STATUS_UNAUTHENTICATED);
    client_end(&k);
    static const char *const key[] = {"Bearer right"};
    ask_many(&k, &stranger, "/t.T/Other", key, 1);
    CHECK(k.code == GRPC_STATUS_UNIMPLEMENTED);
    client_end(&k);
}

TEST(the_owner_needs_none_and_may_show_one) {
    char expected[64];
    snprintf(expected, sizeof expected, "uid %u|-|1", geteuid());
    check(&owner, NULL, GRPC_STATUS_INVALID_ARGUMENT, expected);
    check(&owner, "Bearer right", GRPC_STATUS_INVALID_ARGUMENT, "key alice|alice|0");
    check(&owner, "Bearer wrong", GRPC_STATUS_UNAUTHENTICATED, "not known here");
}

TEST(health_is_for_everybody) {
    client_call k;
    ask_many(&k, &stranger, "/grpc.health.v1.Health/Check", NULL, 0);
    CHECK_THAT(k.code == GRPC_STATUS_OK, "%d %s", k.code, k.text);
    client_end(&k);
}

/* A message is not looked at before its sender is known: this one is none. */
TEST(nothing_is_decoded_for_strangers) {
    client_call k;
    client_ask_bytes(&k, &stranger, "/t.T/Tell", "\xff\xff\xff", 3, &answer);
    CHECK(k.code == GRPC_STATUS_UNAUTHENTICATED);
    client_end(&k);
}

/* Open, and then nothing: the call ends, and its place is another's. */
TEST(a_call_without_a_message_ends) {
    client_call k;
    grpc_metadata key = {.key = grpc_slice_from_static_string("authorization"),
                         .value = grpc_slice_from_static_string("Bearer right")};
    client_begin_with(&k, &stranger, "/t.T/Tell", CLIENT_PATIENCE_S, &key, 1);
    CHECK(fixture_await_counts(&fix, 2, 1));
    CHECK_THAT(client_status(&k) == GRPC_STATUS_DEADLINE_EXCEEDED, "%d %s", k.code, k.text);
    CHECK(!strcmp(k.text, "the request did not come in time"));
    client_end(&k);
    CHECK(fixture_await_counts(&fix, 2, 0));
    check(&stranger, "Bearer right", GRPC_STATUS_INVALID_ARGUMENT, "key alice|alice|0");
}

static void check_mode(fixture *f) {
    struct stat s;
    CHECK(stat(f->path, &s) == 0 && (s.st_mode & 07777) == 0666);
}

/* Another user of this machine, on a socket that is open to others: the key decides. */
TEST(another_user_with_a_key) {
    check_mode(&fix);
    if (geteuid() != 0) {
        printf("another_user_with_a_key: needs root, not run\n");
        return;
    }
    CHECK(chmod(fix.dir, 0755) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        /* A process of its own with no gRPC in it: raw HTTP/2 up to the server's SETTINGS. */
        static const char greeting[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
        char got[9];
        if (setgid(65534) != 0 || setuid(65534) != 0) _exit(2);
        int fd = fixture_dial_unix(&fix);
        if (write(fd, greeting, sizeof greeting - 1) != (ssize_t)sizeof greeting - 1) _exit(3);
        _exit(read(fd, got, sizeof got) == (ssize_t)sizeof got && got[3] == 4 ? 0 : 4);
    }
    int state = 0;
    CHECK(waitpid(child, &state, 0) == child && WIFEXITED(state));
    CHECK_THAT(WEXITSTATUS(state) == 0, "%d", WEXITSTATUS(state));
}

int main(void) {
    auth_open(&keys, NULL);
    fixture_open(&fix, &(acceptor_limits){.socket_mode = 0666, .other_users = true}, add_methods);
    client_open(&owner, fix.target);
    client_open(&stranger, fix.tcp);
    check(&stranger, "Bearer right", GRPC_STATUS_UNAUTHENTICATED,
          "not known here"); /* before there are any */
    fixture_run(&fix, replace_keys);
    RUN(strangers_need_a_key);
    RUN(what_methods_there_are_is_not_told_to_strangers);
    RUN(the_owner_needs_none_and_may_show_one);
    RUN(health_is_for_everybody);
    RUN(nothing_is_decoded_for_strangers);
    RUN(a_call_without_a_message_ends);
    RUN(another_user_with_a_key);
    client_close(&owner);
    client_close(&stranger);
    fixture_close(&fix);
    health_close(watched);
    auth_close(keys);
    strbuf_close(&answer);
    return test_result() || test_checks_failed;
}
