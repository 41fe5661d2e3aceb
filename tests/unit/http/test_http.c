/* The server: routes, limits, streams, clients that mean no good and clients that leave. */
#include "tests/unit/http/http_fixture.h"

static atomic_int left_count, drained_count, ended_count;
static http_exchange *held; /* by the loop's thread only */
static size_t backlog_seen;

static void answer_path(void *context, http_exchange *x) {
    size_t n;
    strbuf text = {0};
    const char *body = http_body(x, &n);
    strbuf_add_format(&text, "%s|%s|%s|%zu|%.*s", (const char *)context, http_path(x), http_rest(x), n,
                      (int)(n < 99 ? n : 99), body);
    http_add_header(x, "X-Own", "1");
    http_answer(x, 200, "text/plain", text.data, text.size);
    strbuf_close(&text);
}

static void on_left(void *context, http_exchange *x) {
    (void)context;
    left_count++;
    held = NULL;
    http_refuse(x, 499, NULL, NULL, "gone");
}

/* Does not answer until it is told to, or its client leaves. */
static void hold(void *context, http_exchange *x) {
    (void)context;
    held = x;
    http_watch(x, on_left, NULL, NULL);
}

static void let_go(fixture *f) {
    (void)f;
    http_answer(held, 200, "text/plain", "late", 4);
    held = NULL;
}

static void on_stream_left(void *context, http_exchange *x) {
    (void)context;
    left_count++;
    http_stream_end(x);
    held = NULL;
}

static void on_drained(void *context, http_exchange *x) {
    (void)context;
    drained_count++;
    if (http_stream_backlog(x) == 0 && drained_count > 3) {
        http_stream_write(x, "end", 3);
        http_stream_end(x);
    }
}

static void stream(void *context, http_exchange *x) {
    static char much[8 << 20];
    memset(much, 'x', sizeof much);
    (void)context;
    http_watch(x, on_stream_left, on_drained, NULL);
    http_stream_begin(x, 200, "text/event-stream");
    http_stream_write(x, much, sizeof much);
    backlog_seen = http_stream_backlog(x);
}

/* A stream that has nothing to say yet. */
static void quiet(void *context, http_exchange *x) {
    (void)context;
    http_watch(x, on_stream_left, NULL, NULL);
    http_stream_begin(x, 200, "text/event-stream");
    http_stream_write(x, "a\n", 2);
    held = x;
}

static const http_route routes[] = {
    {"GET", "/a", answer_path}, {"POST", "/a", answer_path}, {"GET", "/m/*", answer_path},
    {"GET", "/hold", hold},     {"GET", "/stream", stream},  {"GET", "/quiet", quiet},
    {"POST", "/hold", hold},    {"POST", "/quiet", quiet},   {"", "/any", answer_path}};
enum { ROUTES = sizeof routes / sizeof *routes };

static bool has(char *answer, const char *part) {
    bool yes = strstr(answer, part) != NULL;
    if (!yes) printf("\"%s\" is not in:\n%.600s\n", part, answer);
    return yes;
}

#define CHECK_ANSWER(request, ...)                                                                           \
    do {                                                                                                     \
        const char *parts_[] = {__VA_ARGS__};                                                                \
        char *answer_ = fixture_ask(&f, request, 3000);                                                      \
        for (size_t p_ = 0; p_ < sizeof parts_ / sizeof *parts_; p_++) CHECK(has(answer_, parts_[p_]));      \
        free(answer_);                                                                                       \
    } while (0)

#define CLOSE "Host: localhost\r\nConnection: close\r\n"

TEST(routes_and_refusals) {
    fixture f;
    fixture_open(&f, NULL, routes, ROUTES, "me");
    CHECK_ANSWER("GET /a?x=1 HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200 OK", "X-Own: 1", "x-request-id: req_",
                 "me|/a||0|");
    CHECK_ANSWER("POST /a HTTP/1.1\r\n" CLOSE "Content-Length: 5\r\n\r\nhello", "me|/a||5|hello");
    CHECK_ANSWER("POST /a HTTP/1.1\r\n" CLOSE
                 "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                 "|5|abcde");
    CHECK_ANSWER("GET /m/x/y HTTP/1.1\r\n" CLOSE "\r\n", "me|/m/x/y|x/y|0|");
    CHECK_ANSWER("GET /m/ HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 404", "\"code\":\"unknown_url\"");
    CHECK_ANSWER("PATCH /any HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200 OK");
    CHECK_ANSWER("DELETE /a HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 405", "Allow: GET, HEAD, POST",
                 "{\"error\":{\"message\":");
    CHECK_ANSWER("GET /a HTTP/1.1\r\n" CLOSE "X-Request-Id: r-1\r\n\r\n", "x-request-id: r-1\r\n");
    CHECK_ANSWER("GET /a HTTP/1.1\r\n" CLOSE "X-Request-Id: r 1\r\n\r\n", "x-request-id: req_");
    char *head = fixture_ask(&f, "HEAD /a HTTP/1.1\r\n" CLOSE "\r\n", 3000);
    CHECK(has(head, "HTTP/1.1 200 OK") && !strstr(head, "me|"));
    free(head);
    /* Two at once on one connection. */
    CHECK_ANSWER("GET /m/1 HTTP/1.1\r\nHost: x\r\n\r\nGET /m/2 HTTP/1.1\r\n" CLOSE "\r\n", "me|/m/1|1|",
                 "me|/m/2|2|");
    fixture_close(&f);
}

TEST(bodies_have_an_end) {
    const http_options options = {.body_bytes = 100, .bodies_bytes = 150};
    fixture f;
    fixture_open(&f, &options, routes, ROUTES, "me");
    CHECK_ANSWER("POST /a HTTP/1.1\r\n" CLOSE "Content-Length: 101\r\n\r\n", "HTTP/1.1 413",
                 "101 bytes, at most 100");
    CHECK_ANSWER("POST /a HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n"
                 "32\r\n01234567890123456789012345678901234567890123456789\r\n"
                 "33\r\n012345678901234567890123456789012345678901234567890\r\n0\r\n\r\n",
                 "HTTP/1.1 413", "more than 100 bytes");
    int first = fixture_dial(&f);
    fixture_say(first, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n"
                       "0123456789012345678901234567890123456789012345678901234567890123456789");
    usleep(100000);
    CHECK_ANSWER("POST /a HTTP/1.1\r\n" CLOSE "Content-Length: 95\r\n\r\n", "HTTP/1.1 503", "Retry-After: 1");
    close(first);
    usleep(100000);
    CHECK_ANSWER("POST /a HTTP/1.1\r\n" CLOSE "Content-Length: 3\r\n\r\nabc", "|3|abc");
    fixture_close(&f);
}

/* Closed by the server within ms of its last byte. */
static bool is_closed_within(int fd, int ms) {
    bool closed;
    uint64_t begin = clock_now_ns();
    char *rest = fixture_hear(fd, ms, &closed);
    free(rest);
    return closed && clock_now_ns() - begin < (uint64_t)ms * 1000000;
}

/* A request whose end two readers could see in two places is the last of its connection. */
TEST(what_could_smuggle_a_request_is_refused) {
    static const char *const heads[] = {
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
        "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
        "identity\r\n\r\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n"};
    fixture f;
    fixture_open(&f, NULL, routes, ROUTES, "me");
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        char request[512];
        snprintf(request, sizeof request, "%sGET /a?smuggled HTTP/1.1\r\n" CLOSE "\r\n", heads[i]);
        char *answer = fixture_ask(&f, request, 3000);
        CHECK(has(answer, "HTTP/1.1 400") && has(answer, "Connection: close") && has(answer, "bad_request"));
        CHECK(!strstr(answer, "200 OK"));
        free(answer);
    }
    fixture_close(&f);
}

TEST(slow_clients_are_cut_off) {
    const http_options options = {.header_ms = 300, .idle_ms = 400, .body_ms = 300};
    fixture f;
    fixture_open(&f, &options, routes, ROUTES, "me");
    int header = fixture_dial(&f), body = fixture_dial(&f), idle = fixture_dial(&f), noise = fixture_dial(&f);
    fixture_say(header, "GET /a HTTP/1.1\r\nHost: x\r\n");
    fixture_say(body, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n");
    fixture_say(idle, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
    fixture_say(noise, "\x16\x03\x01\x02");
    /* A byte now and then keeps none of them. */
    for (int i = 0; i < 8; i++) {
        fixture_say(header, "X");
        fixture_say(body, "b");
        usleep(100000);
    }
    CHECK(is_closed_within(header, 1500));
    CHECK(is_closed_within(body, 1500));
    CHECK(is_closed_within(idle, 1500));
    CHECK(is_closed_within(noise, 1500));
    close(header), close(body), close(idle), close(noise);
    /* Who works is not hurried. */
    int slow = fixture_dial(&f);
    fixture_say(slow, "GET /hold HTTP/1.1\r\n" CLOSE "\r\n");
    usleep(900000);
    fixture_run(&f, let_go);
    bool closed;
    char *answer = fixture_hear(slow, 3000, &closed);
    CHECK(has(answer, "late") && closed);
    free(answer);
    close(slow);
    fixture_close(&f);
}

static bool becomes(atomic_int *count, int want) {
    for (int i = 0; i < 300 && *count < want; i++) usleep(10000);
    return *count == want;
}

TEST(clients_that_leave_are_noticed) {
    fixture f;
    fixture_open(&f, NULL, routes, ROUTES, "me");
    left_count = 0;
    int fd = fixture_dial(&f);
    fixture_say(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    usleep(100000);
    CHECK(left_count == 0);
    close(fd);
    CHECK(becomes(&left_count, 1));
    fd = fixture_dial(&f);
    fixture_say(fd, "GET /quiet HTTP/1.1\r\nHost: x\r\n\r\n");
    bool closed;
    char *begun = fixture_hear(fd, 300, &closed);
    CHECK(has(begun, "2\r\na\n") && !closed);
    free(begun);
    close(fd);
    CHECK(becomes(&left_count, 2));
    fixture_close(&f);
}

/* The body comes in many turns, and the end of the connection is seen in one of the first. */
TEST(who_leaves_behind_a_long_body_is_noticed) {
    static char body[(400 << 10) + 1];
    const char *const paths[] = {"/hold", "/quiet"};
    fixture f;
    fixture_open(&f, NULL, routes, ROUTES, "me");
    memset(body, 'x', sizeof body - 1);
    left_count = 0;
    for (int i = 0; i < 6; i++) {
        char head[128];
        int fd = fixture_dial(&f);
        snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                 paths[i % 2], sizeof body - 1);
        fixture_say(fd, head);
        fixture_say(fd, body);
        close(fd);
        CHECK_THAT(becomes(&left_count, i + 1), "%s: %d of %d", paths[i % 2], left_count, i + 1);
    }
    fixture_close(&f);
}

TEST(a_stream_waits_for_its_reader) {
    fixture f;
    fixture_open(&f, NULL, routes, ROUTES, "me");
    left_count = drained_count = 0;
    int fd = fixture_dial(&f);
    fixture_say(fd, "GET /stream HTTP/1.1\r\n" CLOSE "\r\n");
    usleep(300000);
    CHECK(backlog_seen == 8 << 20);
    int before = drained_count;
    bool closed;
    char *all = fixture_hear(fd, 3000, &closed);
    CHECK(closed && strlen(all) > 8 << 20 && strstr(all, "end\r\n"));
    CHECK(drained_count > before && left_count == 0);
    free(all);
    close(fd);
    /* One that stops reading and goes. */
    fd = fixture_dial(&f);
    fixture_say(fd, "GET /stream HTTP/1.1\r\n" CLOSE "\r\n");
    usleep(200000);
    close(fd);
    CHECK(becomes(&left_count, 1));
    fixture_close(&f);
}

TEST(stopping_cuts_off_what_does_not_end) {
    fixture f;
    fixture_open(&f, NULL, routes, ROUTES, "me");
    left_count = 0;
    int one = fixture_dial(&f), two = fixture_dial(&f), three = fixture_dial(&f);
    fixture_say(one, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    fixture_say(two, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
    fixture_say(three, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc");
    usleep(100000);
    fixture_close(&f);
    CHECK(left_count == 1);
    CHECK(is_closed_within(one, 1000) && is_closed_within(two, 1000) && is_closed_within(three, 1000));
    close(one), close(two), close(three);
}

static status admit(void *context, http_exchange *x) {
    const char *key = http_header(x, "authorization");
    (void)context;
    if (!key) return fail(ST_AUTH, "no key");
    if (!strcmp(key, "Bearer busy")) {
        http_set_retry(x, 1500);
        return fail(ST_BUSY, "later");
    }
    http_set_caller(x, "somebody");
    return ST_OK;
}

static void on_ended(void *context, http_exchange *x) {
    (void)context;
    if (!strcmp(http_caller(x), "somebody")) ended_count++;
}

TEST(a_gate_decides_before_the_body) {
    fixture f;
    const http_gate gate = {admit, on_ended, NULL};
    fixture_open(&f, NULL, routes, ROUTES, "me");
    http_set_gate(f.http, &gate);
    CHECK_ANSWER("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", "HTTP/1.1 401",
                 "WWW-Authenticate: Bearer", "\"message\":\"no key\"");
    CHECK_ANSWER("GET /a HTTP/1.1\r\n" CLOSE "Authorization: Bearer busy\r\n\r\n", "HTTP/1.1 429",
                 "Retry-After: 2", "retry-after-ms: 1500");
    CHECK_ANSWER("GET /a HTTP/1.1\r\n" CLOSE "Authorization: Bearer k\r\n\r\n", "HTTP/1.1 200");
    fixture_close(&f);
    CHECK(ended_count == 1);
}

int main(void) {
    RUN(routes_and_refusals);
    RUN(bodies_have_an_end);
    RUN(what_could_smuggle_a_request_is_refused);
    RUN(slow_clients_are_cut_off);
    RUN(clients_that_leave_are_noticed);
    RUN(who_leaves_behind_a_long_body_is_noticed);
    RUN(a_stream_waits_for_its_reader);
    RUN(stopping_cuts_off_what_does_not_end);
    RUN(a_gate_decides_before_the_body);
    return test_result();
}
