#include "shard/link/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

status link_wait_io(int fd, short events, uint64_t deadline_ns, short *happened) {
    for (;;) {
        uint64_t now = clock_now_ns();
        int wait_ms = -1;
        if (deadline_ns != UINT64_MAX) {
            uint64_t left_ms = deadline_ns > now ? (deadline_ns - now + 999999) / 1000000 : 0;
            wait_ms = left_ms > 1000000 ? 1000000 : (int)left_ms;
        }
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, wait_ms);
        if (n > 0) {
            *happened = p.revents;
            return ST_OK;
        }
        if (n < 0 && errno != EINTR) return fail_errno(ST_IO, "poll");
        if (n == 0 && clock_now_ns() >= deadline_ns) return ST_TIMEOUT;
    }
}

static status connect_within(int fd, const struct sockaddr *to, socklen_t size, const char *name,
                             uint64_t deadline_ns) {
    if (connect(fd, to, size) == 0) return ST_OK;
    if (errno != EINPROGRESS) return fail_errno(ST_UNAVAILABLE, "%s", name);
    short happened;
    status st = link_wait_io(fd, POLLOUT, deadline_ns, &happened);
    if (st == ST_TIMEOUT) return fail(ST_TIMEOUT, "%s does not answer", name);
    TRY(st);
    int error = 0;
    socklen_t n = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0) error = errno;
    if (error == 0) return ST_OK;
    errno = error;
    return fail_errno(ST_UNAVAILABLE, "%s", name);
}

static status dial_unix(const char *path, uint64_t deadline_ns, int *out) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof to.sun_path)
        return fail(ST_INVALID, "%s has %zu bytes, a socket's path at most %zu", path, strlen(path),
                    sizeof to.sun_path - 1);
    memcpy(to.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return fail_errno(ST_IO, "socket");
    status st = connect_within(fd, (const struct sockaddr *)&to, sizeof to, path, deadline_ns);
    if (st != ST_OK) {
        close(fd);
        return st;
    }
    *out = fd;
    return ST_OK;
}

static status dial_tcp(const char *address, uint64_t deadline_ns, int *out) {
    char host[256];
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    if (!colon || n == 0 || n >= sizeof host || colon[1] == 0)
        return fail(ST_INVALID, "address %s is neither unix:/path nor host:port", address);
    bool bracketed = address[0] == '[' && address[n - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(n - (bracketed ? 2 : 0)), address + (bracketed ? 1 : 0));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int error = getaddrinfo(host, colon + 1, &hints, &list);
    if (error) return fail(ST_UNAVAILABLE, "%s: %s", address, gai_strerror(error));
    status st = fail(ST_UNAVAILABLE, "%s: no address", address);
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) {
            st = fail_errno(ST_IO, "socket");
            continue;
        }
        st = connect_within(fd, a->ai_addr, a->ai_addrlen, address, deadline_ns);
        if (st == ST_OK) {
            int on = 1; /* a token is a small frame that somebody waits for */
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
            *out = fd;
            break;
        }
        close(fd);
    }
    freeaddrinfo(list);
    return st;
}

status link_dial(const char *address, uint64_t deadline_ns, int *fd) {
    *fd = -1;
    if (!strncmp(address, "unix:", 5)) return dial_unix(address + 5, deadline_ns, fd);
    return dial_tcp(address, deadline_ns, fd);
}
