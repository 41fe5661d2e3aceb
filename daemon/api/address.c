#include "daemon/api/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/api/activated.h"

enum {
    BACKLOG = 511,
    LOCK_TRIES = 40, /* of LOCK_PAUSE_US: two seconds; the lock is held for moments */
    LOCK_PAUSE_US = 50000,
};

/* ---- Unix ---- */

static status lock_folder(const char *path, int *lock) {
    char folder[sizeof((struct sockaddr_un *)NULL)->sun_path];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    *lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0) return fail_errno(ST_IO, "cannot listen on %s: its folder", path);
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(*lock, LOCK_EX | LOCK_NB) == 0) return ST_OK;
        if (errno != EWOULDBLOCK && errno != EINTR) return ST_OK; /* a file system without locks */
        usleep(LOCK_PAUSE_US);
    }
    return fail(ST_IN_USE, "cannot listen on %s: another process holds the lock of %s", path, folder);
}

/* Removes what a dead process left. */
static status clear_path(const struct sockaddr_un *a) {
    struct stat s;
    if (lstat(a->sun_path, &s) != 0)
        return errno == ENOENT ? ST_OK : fail_errno(ST_IO, "cannot listen on %s", a->sun_path);
    if (!S_ISSOCK(s.st_mode))
        return fail(ST_IN_USE, "cannot listen on %s: it exists and is no socket", a->sun_path);
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) return fail_errno(ST_IO, "cannot listen on %s", a->sun_path);
    int error = connect(probe, (const struct sockaddr *)a, sizeof *a) == 0 ? 0 : errno;
    close(probe);
    if (error == ENOENT) return ST_OK;
    /* Anything but a refusal is somebody: a full backlog (EAGAIN) too, and a socket of another kind or user. */
    if (error != ECONNREFUSED)
        return fail(ST_IN_USE, "cannot listen on %s: a living process listens there%s%s", a->sun_path,
                    error && error != EAGAIN ? ", or may: " : "",
                    error && error != EAGAIN ? strerror(error) : "");
    if (unlink(a->sun_path) != 0 && errno != ENOENT)
        return fail_errno(ST_IO, "cannot replace the dead socket %s", a->sun_path);
    return ST_OK;
}

static status bind_unix(const struct sockaddr_un *a, address_socket *out) {
    struct stat s;
    status st;
    out->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (out->fd < 0) return fail_errno(ST_IO, "cannot listen on %s", a->sun_path);
    mode_t mask = umask(0177);
    int bound = bind(out->fd, (const struct sockaddr *)a, sizeof *a);
    int error = errno;
    umask(mask);
    errno = error;
    if (bound != 0) {
        st = fail_errno(error == EADDRINUSE ? ST_IN_USE : ST_IO, "cannot listen on %s", a->sun_path);
        close(out->fd);
        return st;
    }
    if (listen(out->fd, BACKLOG) == 0 && lstat(a->sun_path, &s) == 0) {
        out->is_unix = true;
        out->device = s.st_dev;
        out->inode = s.st_ino;
        snprintf(out->text, sizeof out->text, "unix:%s", a->sun_path);
        return ST_OK;
    }
    st = fail_errno(ST_IO, "cannot listen on %s", a->sun_path);
    unlink(a->sun_path);
    close(out->fd);
    return st;
}

static status listen_unix(const char *option, const char *path, address_socket *out) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int lock = -1;
    if (!strncmp(path, "//", 2)) path += 2;
    size_t n = strlen(path);
    if (path[0] != '/') return fail(ST_INVALID, "%s unix:%s: the path must begin with /", option, path);
    if (n >= sizeof a.sun_path)
        return fail(ST_INVALID, "%s unix:%s: the path has %zu bytes, a socket's may have %zu", option, path,
                    n, sizeof a.sun_path - 1);
    memcpy(a.sun_path, path, n + 1);
    status st = lock_folder(path, &lock);
    if (st == ST_OK) st = clear_path(&a);
    if (st == ST_OK) st = bind_unix(&a, out);
    if (lock >= 0) close(lock);
    return st;
}

/* ---- TCP ---- */

bool address_is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(six)) return six->s6_addr[12] == 127;
    return IN6_IS_ADDR_LOOPBACK(six);
}

/* "host:port", "[host]:port"; the host may not be left out: everybody's address is to be asked for by name. */
static status split(const char *option, const char *text, char host[256], char port[8]) {
    const char *colon = strrchr(text, ':'), *begin = text, *end = colon;
    if (!colon) return fail(ST_INVALID, "%s %s: allowed are unix:/path and host:port", option, text);
    if (text[0] == '[' && colon > text && colon[-1] == ']') begin++, end--;
    else if (memchr(text, ':', (size_t)(colon - text)))
        return fail(ST_INVALID, "%s %s: an IPv6 address goes into brackets, as in [::1]:8080", option, text);
    size_t n = (size_t)(end - begin), digits = strlen(colon + 1);
    if (n == 0 || n >= 256)
        return fail(ST_INVALID, "%s %s: allowed are unix:/path and host:port", option, text);
    unsigned number = 65536;
    if (digits > 0 && digits < 6 && strspn(colon + 1, "0123456789") == digits)
        sscanf(colon + 1, "%u", &number);
    if (number > 65535) return fail(ST_INVALID, "%s %s: the port must be 0 to 65535", option, text);
    memcpy(host, begin, n);
    host[n] = 0;
    memcpy(port, colon + 1, digits + 1);
    return ST_OK;
}

void address_name(address_socket *s) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[64] = "?", port[8] = "?";
    bool known = getsockname(s->fd, (struct sockaddr *)&a, &n) == 0;
    if (known && a.ss_family == AF_UNIX) {
        size_t bytes = n - offsetof(struct sockaddr_un, sun_path);
        snprintf(s->text, sizeof s->text, "unix:%.*s", (int)bytes,
                 ((struct sockaddr_un *)(void *)&a)->sun_path);
        s->is_unix = true;
        return;
    }
    if (known)
        (void)getnameinfo((struct sockaddr *)&a, n, host, sizeof host, port, sizeof port,
                          NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(s->text, sizeof s->text, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static status listen_tcp(const char *text, const struct addrinfo *a, address_socket *out) {
    int yes = 1;
    out->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (out->fd < 0) return fail_errno(ST_IO, "cannot listen on %s", text);
    /* Rebinding while old connections linger; never SO_REUSEPORT, or two daemons would share the port unnoticed. */
    (void)setsockopt(out->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (a->ai_family == AF_INET6) (void)setsockopt(out->fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
    if (bind(out->fd, a->ai_addr, a->ai_addrlen) == 0 && listen(out->fd, BACKLOG) == 0) {
        address_name(out);
        return ST_OK;
    }
    status st = fail_errno(errno == EADDRINUSE ? ST_IN_USE : ST_IO, "cannot listen on %s", text);
    close(out->fd);
    return st;
}

/* Every address of the name; one that this machine lacks (IPv6 turned off) is no error while another is there. */
static status listen_all(const char *text, const struct addrinfo *list, address_socket *out, int *count) {
    status st = ST_OK;
    for (const struct addrinfo *a = list; a && *count < ADDRESS_SOCKETS_MAX; a = a->ai_next) {
        st = listen_tcp(text, a, &out[*count]);
        if (st == ST_OK) ++*count;
        if (st == ST_IN_USE) break;
        if (st == ST_OK && !strcmp(strrchr(text, ':'), ":0")) break;
    }
    if (st == ST_IN_USE || *count == 0) {
        while (*count > 0) address_close(&out[--*count]);
        return st;
    }
    return ST_OK;
}

status address_listen(const char *option, const char *text, bool public_allowed,
                      address_socket out[ADDRESS_SOCKETS_MAX], int *count) {
    char host[256], port[8];
    *count = 0;
    memset(out, 0, sizeof *out * ADDRESS_SOCKETS_MAX);
    if (!strncmp(text, "unix:", 5)) {
        TRY(listen_unix(option, text + 5, out));
        *count = 1;
        return ST_OK;
    }
    if (!strncmp(text, ACTIVATED_PREFIX, strlen(ACTIVATED_PREFIX)))
        return activated_take(option, text + strlen(ACTIVATED_PREFIX), public_allowed, out, count);
    TRY(split(option, text, host, port));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    int error = getaddrinfo(host, port, &hints, &list);
    if (error) return fail(ST_INVALID, "%s %s: %s: %s", option, text, host, gai_strerror(error));
    status st = ST_OK;
    for (const struct addrinfo *a = list; a && st == ST_OK; a = a->ai_next)
        if (!public_allowed && !address_is_loopback(a->ai_addr))
            st = fail(ST_AUTH,
                      "%s %s: other machines reach this address; it needs --keys and TLS, or --insecure",
                      option, text);
    if (st == ST_OK) st = listen_all(text, list, out, count);
    freeaddrinfo(list);
    return st;
}

status address_set_mode(const address_socket *s, mode_t mode) {
    if (!s->is_unix || !s->inode || mode == 0600) return ST_OK; /* as it was made */
    return chmod(s->text + 5, mode) == 0 ? ST_OK : fail_errno(ST_IO, "the mode of %s", s->text);
}

void address_close(address_socket *s) {
    struct stat now;
    if (s->is_unix && lstat(s->text + 5, &now) == 0 && now.st_dev == s->device && now.st_ino == s->inode)
        unlink(s->text + 5);
    close(s->fd);
    s->fd = -1;
}
