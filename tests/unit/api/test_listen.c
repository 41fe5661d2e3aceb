/* Addresses, and connections that mean no good. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "proto/gemmad.pb-c.h"
#include "tests/unit/api/fixture.h"

static char dir[] = "/tmp/gemmad-test-XXXXXX";
static address_socket sockets[ADDRESS_SOCKETS_MAX];
static int count;

static status try_listen(const char *text, bool public_allowed) {
    status st = address_listen("--listen", text, public_allowed, sockets, &count);
    CHECK(st == ST_OK ? count > 0 : count == 0);
    if (st == ST_OK)
        while (count > 0) address_close(&sockets[--count]);
    return st;
}

TEST(unix_sockets_are_private_and_replace_dead_ones) {
    char path[96], text[128];
    struct stat s;
    snprintf(path, sizeof path, "%s/sock", dir);
    snprintf(text, sizeof text, "unix:%s", path);
    CHECK_STATUS(address_listen("--listen", text, false, sockets, &count), ST_OK);
    CHECK(count == 1 && !strcmp(sockets[0].text, text));
    CHECK(stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
    address_socket first = sockets[0];

    CHECK_STATUS(try_listen(text, false), ST_IN_USE);
    CHECK_SENTENCE(path);
    CHECK(access(path, F_OK) == 0);

    close(first.fd); /* what a killed process leaves: the file without the listener */
    CHECK(access(path, F_OK) == 0);
    CHECK_STATUS(address_listen("--listen", text, false, sockets, &count), ST_OK);
    first.fd = -1;
    address_close(&first); /* not its file any more, unless the file system gave the inode again */
    address_close(&sockets[0]);
    CHECK(access(path, F_OK) != 0);

    snprintf(text, sizeof text, "unix://%s", path);
    CHECK_STATUS(try_listen(text, false), ST_OK);
}

TEST(unix_paths_that_cannot_be) {
    char text[256], long_path[128];
    memset(long_path, 'x', sizeof long_path);
    snprintf(text, sizeof text, "unix:/tmp/%.110s", long_path);
    CHECK_STATUS(try_listen(text, false), ST_INVALID);
    CHECK_SENTENCE("the path has 115 bytes, a socket's may have 107");
    CHECK_STATUS(try_listen("unix:relative", false), ST_INVALID);
    CHECK_STATUS(try_listen("unix:", false), ST_INVALID);
    snprintf(text, sizeof text, "unix:%s/none/sock", dir);
    CHECK_STATUS(try_listen(text, false), ST_IO);
    CHECK_SENTENCE("No such file or directory");
    snprintf(text, sizeof text, "%s/file", dir);
    close(open(text, O_CREAT | O_WRONLY, 0600));
    snprintf(text, sizeof text, "unix:%s/file", dir);
    CHECK_STATUS(try_listen(text, false), ST_IN_USE);
    CHECK_SENTENCE("exists and is no socket");
    CHECK(unlink(text + 5) == 0);
    CHECK_STATUS(try_listen("unix:/proc/gemmad.sock", false), ST_IO);
    CHECK_SENTENCE("/proc/gemmad.sock");
}

TEST(tcp_addresses) {
    char text[ADDRESS_TEXT_BYTES];
    CHECK_STATUS(address_listen("--listen", "127.0.0.1:0", false, sockets, &count), ST_OK);
    CHECK(count == 1 && !strncmp(sockets[0].text, "127.0.0.1:", 10) && strcmp(sockets[0].text + 10, "0"));
    snprintf(text, sizeof text, "%s", sockets[0].text);
    address_socket first = sockets[0];
    CHECK_STATUS(try_listen(text, false), ST_IN_USE);
    CHECK_SENTENCE(text);
    CHECK_SENTENCE("Address already in use");
    address_close(&first);
    CHECK_STATUS(try_listen(text, false), ST_OK);
    CHECK_STATUS(try_listen("localhost:0", false), ST_OK);

    CHECK_STATUS(try_listen("0.0.0.0:0", false), ST_AUTH);
    CHECK_SENTENCE("--insecure");
    CHECK_STATUS(try_listen("[::]:0", false), ST_AUTH);
    CHECK_STATUS(try_listen("192.0.2.1:0", false), ST_AUTH);
    CHECK_STATUS(try_listen("[::ffff:192.0.2.1]:0", false), ST_AUTH);
    CHECK_STATUS(try_listen("0.0.0.0:0", true), ST_OK);
    CHECK_STATUS(try_listen("192.0.2.1:0", true), ST_IO); /* not an address of this machine */

    static const char *const bad[] = {
        "8080",          ":8080",  "127.0.0.1", "127.0.0.1:",   "127.0.0.1:65536",
        "127.0.0.1:80x", "::1:80", "[]:80",     "127.0.0.1:-1", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_STATUS(try_listen(bad[i], true), ST_INVALID);
    CHECK_STATUS(try_listen("no.such.host.invalid:80", true), ST_INVALID);
}

/* ---- clients ---- */

static fixture fix;

static void ping(void *context, call *c, const ProtobufCMessage *request) {
    (void)context, (void)request;
    c->ops->finish(c, ST_OK, "", 0);
}

static void add_methods(fixture *f) {
    static const call_method methods[] = {
        {"/test.Test/Ping", &gemmad__v1__get_status_request__descriptor, false, ping}};
    server_add_core(f->server, methods, 1, NULL);
}

static bool serves(void) {
    client cli;
    client_call k;
    strbuf answer = {0};
    client_open(&cli, fix.target);
    client_ask_bytes(&k, &cli, "/test.Test/Ping", "", 0, &answer);
    bool good = k.code == GRPC_STATUS_OK;
    client_end(&k);
    client_close(&cli);
    strbuf_close(&answer);
    return good;
}

static int dial_tcp(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons((uint16_t)atoi(strchr(fix.tcp, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    INVARIANT(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    return fd;
}

/* Waits for the other side to close; false after 5 s. What it says before that is read away. */
static bool is_closed(int fd) {
    char bytes[4096];
    struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (;;) {
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return true;
        if (n < 0) return false;
    }
}

static const char greeting[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/* Whatever is written: the connection ends, and the next client is served. */
TEST(random_bytes) {
    unsigned seed = 7;
    for (int i = 0; i < 200; i++) {
        int fd = i & 1 ? dial_tcp() : fixture_dial_unix(&fix);
        unsigned char bytes[600];
        size_t n = 1 + (unsigned)rand_r(&seed) % sizeof bytes;
        for (size_t j = 0; j < n; j++) bytes[j] = (unsigned char)(rand_r(&seed) >> 7);
        /* Every other pair gets past the greeting, so that gRPC sees the noise. */
        if (i & 2) (void)!send(fd, greeting, sizeof greeting - 1, MSG_NOSIGNAL);
        (void)!send(fd, bytes, n, MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
        CHECK(is_closed(fd));
        close(fd);
    }
    CHECK(serves());
    CHECK(fixture_await_counts(&fix, 0, 0));
}

TEST(other_protocols) {
    static const char *const said[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00\x01",
                                       "PRI * HTTP/2.0\r\n\r\nXX", "\n"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        int fd = dial_tcp();
        CHECK(send(fd, said[i], strlen(said[i]), MSG_NOSIGNAL) > 0);
        CHECK(is_closed(fd));
        close(fd);
    }
}

TEST(silence_and_half_a_greeting_end) {
    int silent = fixture_dial_unix(&fix), half = dial_tcp();
    CHECK(send(half, greeting, 10, MSG_NOSIGNAL) == 10);
    CHECK(fixture_await_counts(&fix, 2, 0));
    CHECK(is_closed(silent));
    CHECK(is_closed(half));
    close(silent);
    close(half);
    CHECK(fixture_await_counts(&fix, 0, 0));
    CHECK(serves());
}

TEST(a_greeting_in_pieces_is_one) {
    int fd = dial_tcp();
    for (size_t i = 0; i < sizeof greeting - 1; i++) {
        CHECK(send(fd, greeting + i, 1, MSG_NOSIGNAL) == 1);
        usleep(1000);
    }
    CHECK(send(fd, "\0\0\0\4\0\0\0\0\0", 9, MSG_NOSIGNAL) == 9); /* SETTINGS */
    unsigned char frame[9];
    CHECK(recv(fd, frame, sizeof frame, MSG_WAITALL) == 9 && frame[3] == 4);
    close(fd);
    CHECK(fixture_await_counts(&fix, 0, 0));
}

TEST(connections_are_counted) {
    int fd[8];
    for (int i = 0; i < 8; i++) fd[i] = fixture_dial_unix(&fix);
    CHECK(fixture_await_counts(&fix, 8, 0));
    int ninth = fixture_dial_unix(&fix);
    CHECK(is_closed(ninth));
    close(ninth);
    for (int i = 0; i < 8; i++) close(fd[i]);
    CHECK(fixture_await_counts(&fix, 0, 0));
    /* Half of them for one address; the rest is for others. */
    for (int i = 0; i < 4; i++) fd[i] = dial_tcp();
    CHECK(fixture_await_counts(&fix, 4, 0));
    int fifth = dial_tcp();
    CHECK(is_closed(fifth));
    close(fifth);
    for (int i = 4; i < 8; i++) fd[i] = fixture_dial_unix(&fix);
    CHECK(fixture_await_counts(&fix, 8, 0));
    for (int i = 0; i < 8; i++) close(fd[i]);
    CHECK(fixture_await_counts(&fix, 0, 0));
    CHECK(serves());
}

/* Another user, whatever the mode of the socket lets through. */
TEST(other_users_are_refused) {
    if (geteuid() != 0) return; /* only root can become somebody else */
    CHECK(chmod(fix.dir, 0755) == 0 && chmod(fix.path, 0666) == 0);
    pid_t child = fork();
    if (child == 0) {
        if (setgid(65534) != 0 || setuid(65534) != 0) _exit(2);
        int fd = fixture_dial_unix(&fix);
        (void)!send(fd, greeting, sizeof greeting - 1, MSG_NOSIGNAL);
        char byte;
        _exit(recv(fd, &byte, 1, 0) > 0);
    }
    int how = -1;
    CHECK(waitpid(child, &how, 0) == child);
    CHECK_THAT(how == 0, "%d", how);
    CHECK(serves());
}

/* Descriptors run out: clients wait, and are served when there are some again. */
TEST(no_descriptors_left) {
    struct rlimit old, few;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    int probe = dup(0), fd = fixture_dial_unix(&fix);
    few = (struct rlimit){.rlim_cur = (rlim_t)probe, .rlim_max = old.rlim_max};
    CHECK(fixture_await_counts(&fix, 1, 0));
    close(fd);
    CHECK(fixture_await_counts(&fix, 0, 0));
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", fix.path);
    CHECK(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    usleep(250000);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    close(probe);
    close(fd);
    CHECK(serves());
    CHECK(fixture_await_counts(&fix, 0, 0));
}

int main(void) {
    if (!mkdtemp(dir)) return 1;
    RUN(unix_sockets_are_private_and_replace_dead_ones);
    RUN(unix_paths_that_cannot_be);
    RUN(tcp_addresses);
    CHECK(rmdir(dir) == 0);
    fixture_open(&fix, &(acceptor_limits){.connections = 8, .greeting_ms = 400}, add_methods);
    RUN(random_bytes);
    RUN(other_protocols);
    RUN(silence_and_half_a_greeting_end);
    RUN(a_greeting_in_pieces_is_one);
    RUN(connections_are_counted);
    RUN(other_users_are_refused);
    RUN(no_descriptors_left);
    fixture_close(&fix);
    return test_result() || test_checks_failed;
}
