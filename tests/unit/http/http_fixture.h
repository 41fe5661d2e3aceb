/* An HTTP server on a loop in a thread of its own, on a port of its own, with routes of the test's. */
#ifndef TESTS_HTTP_FIXTURE_H
#define TESTS_HTTP_FIXTURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/http/http.h"
#include "tests/test.h"

typedef struct fixture {
    uv_loop_t loop;
    uv_async_t stop, call;
    pthread_t thread;
    acceptor *acceptor;
    http_server *http;
    int port;
    uint32_t stopped;
    void (*_Atomic function)(struct fixture *f);
} fixture;

static void fixture_on_acceptor_stopped(void *context) {
    fixture *f = context;
    f->stopped++;
    uv_close((uv_handle_t *)&f->stop, NULL);
    uv_close((uv_handle_t *)&f->call, NULL);
}

static void fixture_on_http_stopped(void *context) {
    fixture *f = context;
    f->stopped++;
    acceptor_stop(f->acceptor, fixture_on_acceptor_stopped, f);
}

static void fixture_on_stop(uv_async_t *a) {
    fixture *f = a->data;
    http_stop(f->http, 200, fixture_on_http_stopped, f);
}

static void fixture_on_call(uv_async_t *a) {
    fixture *f = a->data;
    void (*function)(fixture *) = f->function;
    if (function) function(f);
    f->function = NULL;
}

/* Runs it on the loop and waits until it has run. */
static inline void fixture_run(fixture *f, void (*function)(fixture *)) {
    f->function = function;
    uv_async_send(&f->call);
    while (f->function) usleep(1000);
}

static void *fixture_thread(void *p) {
    uv_run(&((fixture *)p)->loop, UV_RUN_DEFAULT);
    return NULL;
}

static inline void fixture_open(fixture *f, const http_options *options, const http_route *routes,
                                size_t count, void *context) {
    *f = (fixture){0};
    uv_loop_init(&f->loop);
    uv_async_init(&f->loop, &f->stop, fixture_on_stop);
    uv_async_init(&f->loop, &f->call, fixture_on_call);
    f->stop.data = f->call.data = f;
    CHECK_STATUS(http_open(&f->http, &f->loop, options), ST_OK);
    http_add_routes(f->http, routes, count, context);
    CHECK_STATUS(acceptor_open(&f->acceptor, &f->loop, NULL), ST_OK);
    CHECK_STATUS(acceptor_listen(f->acceptor, "127.0.0.1:0", false, http_sink(f->http)), ST_OK);
    strbuf where = {0};
    acceptor_describe(f->acceptor, NULL, &where);
    f->port = atoi(strrchr(strbuf_text(&where), ':') + 1);
    strbuf_close(&where);
    pthread_create(&f->thread, NULL, fixture_thread, f);
}

static inline void fixture_close(fixture *f) {
    uv_async_send(&f->stop);
    pthread_join(f->thread, NULL);
    CHECK(f->stopped == 2);
    acceptor_close(f->acceptor);
    http_close(f->http);
    CHECK(uv_loop_close(&f->loop) == 0);
}

static inline int fixture_dial(const fixture *f) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)f->port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    INVARIANT(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    return fd;
}

static inline void fixture_say(int fd, const char *text) {
    ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL);
    (void)n; /* who is cut off may not be able to */
}

/* What comes until the other side closes, or says nothing for ms; freed by the caller. */
static inline char *fixture_hear(int fd, int ms, bool *closed) {
    strbuf all = {0};
    char bytes[4096];
    *closed = false;
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, ms) <= 0) break;
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n <= 0) {
            *closed = true;
            break;
        }
        strbuf_add(&all, bytes, (size_t)n);
    }
    char *text = memory_copy_string(strbuf_text(&all));
    strbuf_close(&all);
    return text;
}

/* One request on a connection of its own. */
static inline char *fixture_ask(const fixture *f, const char *request, int ms) {
    bool closed;
    int fd = fixture_dial(f);
    fixture_say(fd, request);
    char *answer = fixture_hear(fd, ms, &closed);
    close(fd);
    return answer;
}

#endif
