/* A server on a loop in a thread of its own, listening on a Unix socket in a folder of its own. */
#ifndef TESTS_API_FIXTURE_H
#define TESTS_API_FIXTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/api/acceptor.h"
#include "daemon/api/server.h"
#include "tests/test.h"
#include "tests/unit/api/client.h"

typedef struct fixture {
    char dir[64], path[96], target[128];
    char tcp[ADDRESS_TEXT_BYTES]; /* where a second listener is */
    uv_loop_t loop;
    uv_async_t call;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t called;
    void (*function)(struct fixture *f); /* guarded by lock: to be run on the loop */
    server *server;
    acceptor *acceptor;
    void *own; /* the test's */
    uint32_t stopped;
} fixture;

static void fixture_on_call(uv_async_t *a) {
    fixture *f = a->data;
    pthread_mutex_lock(&f->lock);
    if (f->function) f->function(f);
    f->function = NULL;
    pthread_cond_signal(&f->called);
    pthread_mutex_unlock(&f->lock);
}

/* Runs it on the loop and waits until it has run. */
static inline void fixture_run(fixture *f, void (*function)(fixture *)) {
    pthread_mutex_lock(&f->lock);
    f->function = function;
    uv_async_send(&f->call);
    while (f->function) pthread_cond_wait(&f->called, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

static void *fixture_thread(void *p) {
    fixture *f = p;
    uv_run(&f->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* add puts the methods in, before anybody can call. */
static inline void fixture_open(fixture *f, const acceptor_limits *limits, void (*add)(fixture *)) {
    static const char name[] = "/tmp/gemmad-test-XXXXXX";
    memcpy(f->dir, name, sizeof name);
    char *made = mkdtemp(f->dir);
    INVARIANT(made);
    snprintf(f->path, sizeof f->path, "%s/s", f->dir);
    snprintf(f->target, sizeof f->target, "unix:%s", f->path);
    uv_loop_init(&f->loop);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->called, NULL);
    uv_async_init(&f->loop, &f->call, fixture_on_call);
    f->call.data = f;
    CHECK_STATUS(server_open(&f->server, &f->loop), ST_OK);
    if (add) add(f);
    server_start(f->server);
    CHECK_STATUS(acceptor_open(&f->acceptor, &f->loop, limits), ST_OK);
    CHECK_STATUS(acceptor_listen(f->acceptor, "127.0.0.1:0", false, server_sink(f->server)), ST_OK);
    strbuf where = {0};
    acceptor_describe(f->acceptor, NULL, &where);
    snprintf(f->tcp, sizeof f->tcp, "%s", strbuf_text(&where));
    strbuf_close(&where);
    CHECK_STATUS(acceptor_listen(f->acceptor, f->target, false, server_sink(f->server)), ST_OK);
    pthread_create(&f->thread, NULL, fixture_thread, f);
}

static void fixture_on_stopped(void *context) { ((fixture *)context)->stopped++; }

static void fixture_stop_on_loop(fixture *f) {
    acceptor_stop(f->acceptor, fixture_on_stopped, f);
    server_stop(f->server, 300, fixture_on_stopped, f);
    uv_close((uv_handle_t *)&f->call, NULL);
}

static inline void fixture_close(fixture *f) {
    fixture_run(f, fixture_stop_on_loop);
    pthread_join(f->thread, NULL);
    CHECK(f->stopped == 2);
    acceptor_close(f->acceptor);
    server_close(f->server);
    CHECK(uv_loop_close(&f->loop) == 0);
    CHECK(access(f->path, F_OK) != 0);
    CHECK(rmdir(f->dir) == 0);
}

static inline int fixture_dial_unix(const fixture *f) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", f->path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    INVARIANT(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    return fd;
}

static void fixture_read_counts(fixture *f) {
    f->own = (void *)(uintptr_t)(acceptor_connection_count(f->acceptor) << 16 | server_call_count(f->server));
}
/* Waits until so many connections and calls are open, at most ten seconds. */
static inline bool fixture_await_counts(fixture *f, uint32_t connections, uint32_t calls) {
    void *own = f->own;
    bool equal = false;
    for (int i = 0; i < 500 && !equal; i++) {
        if (i) usleep(20000);
        fixture_run(f, fixture_read_counts);
        equal = (uintptr_t)f->own == (connections << 16 | calls);
    }
    if (!equal) printf("%zu connections, %zu calls\n", (size_t)f->own >> 16, (size_t)f->own & 0xFFFF);
    f->own = own;
    return equal;
}

#endif
