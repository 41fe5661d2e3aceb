/* Sockets of the gRPC transport: made, watched and accepted here, so that limits and the peer's user are checked before
 * gRPC sees a byte; then the descriptor is handed over. */
#include <errno.h>
#include <fcntl.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "daemon/api/server_internal.h"

/* ---- connections that gRPC holds ---- */

static uint64_t socket_inode(int fd) {
    struct stat info;
    return fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode) ? (uint64_t)info.st_ino : 0;
}

/* gRPC closes descriptors without telling: a descriptor that is closed, or is another socket by now, has left. */
static void forget_closed(server *s) {
    for (size_t fd = 0; fd < s->connection_capacity; fd++) {
        connection *c = &s->connections[fd];
        if (c->inode && socket_inode((int)fd) != c->inode) {
            c->inode = 0;
            s->connection_count--;
        }
    }
}

static bool remember(server *s, int fd, const char *peer) {
    if (s->connection_count >= LIMIT_CONNECTIONS) forget_closed(s);
    if (s->connection_count >= LIMIT_CONNECTIONS) return false;
    if ((size_t)fd >= s->connection_capacity) {
        size_t want = (size_t)fd + 64;
        s->connections = memory_grow(s->connections, want * sizeof *s->connections);
        memset(s->connections + s->connection_capacity, 0, (want - s->connection_capacity) * sizeof *s->connections);
        s->connection_capacity = want;
    }
    connection *c = &s->connections[fd];
    if (!c->inode) s->connection_count++;
    c->inode = socket_inode(fd);
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    return true;
}

/* gRPC names a connection that it was handed "fd:N". */
const char *listener_peer(server *s, const char *grpc_peer) {
    int fd;
    if (grpc_peer && sscanf(grpc_peer, "fd:%d", &fd) == 1 && fd >= 0 && (size_t)fd < s->connection_capacity &&
        s->connections[fd].inode)
        return s->connections[fd].peer;
    return grpc_peer ? grpc_peer : "unknown";
}

/* ---- accepting ---- */

/* Only this user and root may use a Unix socket, whatever somebody does to its mode or to a folder above it. */
static bool welcome(const listener *l, int fd, char *peer, size_t n) {
    if (l->is_unix) {
        struct ucred who;
        socklen_t size = sizeof who;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return false;
        snprintf(peer, n, "uid:%u", (unsigned)who.uid);
        if (who.uid == geteuid() || who.uid == 0) return true;
        log_warn("refused a connection of user %u: the socket belongs to user %u", (unsigned)who.uid, (unsigned)geteuid());
        return false;
    }
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    char host[48] = "unknown";
    if (getpeername(fd, (struct sockaddr *)&from, &size) == 0)
        (void)getnameinfo((struct sockaddr *)&from, size, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    snprintf(peer, n, "ip:%s", host);
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* tokens are small and should not wait */
    return true;
}

static void hand_over(server *s, int fd) {
    grpc_server_credentials *plain = grpc_insecure_server_credentials_create();
    grpc_server_add_channel_from_fd(s->grpc, fd, plain);
    grpc_server_credentials_release(plain);
}

static void on_readable(uv_poll_t *poll, int st, int events);

static void resume(uv_timer_t *timer) {
    listener *l = timer->data;
    uv_poll_start(&l->poll, UV_READABLE, on_readable);
}

static void on_readable(uv_poll_t *poll, int st, int events) {
    listener *l = poll->data;
    (void)st, (void)events;
    for (;;) {
        char peer[64];
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
        if (fd < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) return;
            /* Out of descriptors: the connection stays in the backlog, and asking again at once would spin. */
            log_warn("cannot accept a connection: %s", strerror(errno));
            uv_poll_stop(&l->poll);
            uv_timer_start(&l->pause, resume, 200, 0);
            return;
        }
        if (!welcome(l, fd, peer, sizeof peer)) {
            close(fd);
        } else if (!remember(l->server, fd, peer)) {
            log_warn("refused a connection of %s: %d are open", peer, LIMIT_CONNECTIONS);
            close(fd);
        } else {
            hand_over(l->server, fd);
        }
    }
}

/* ---- sockets ---- */

/* Whether somebody answers on a socket file. */
static bool is_live(const struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool live = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) == 0;
    if (fd >= 0) close(fd);
    return live;
}

static status open_unix(const char *path, int *out) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path[0] != '/') return fail(ST_INVALID, "socket path '%s' is not absolute", path);
    if (strlen(path) >= sizeof address.sun_path)
        return fail(ST_INVALID, "socket path %s has %zu bytes, at most %zu are possible", path, strlen(path),
                    sizeof address.sun_path - 1);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    struct stat info;
    if (lstat(path, &info) == 0) {
        if (!S_ISSOCK(info.st_mode)) return fail(ST_IN_USE, "%s exists and is not a socket", path);
        if (is_live(&address)) return fail(ST_IN_USE, "%s is the socket of a live process", path);
        if (unlink(path) != 0) return fail_errno(ST_IO, "cannot replace the dead socket %s", path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return fail_errno(ST_IO, "socket for %s", path);
    mode_t before = umask(0177);
    int bound = bind(fd, (struct sockaddr *)&address, sizeof address);
    umask(before);
    if (bound != 0 || listen(fd, SERVER_BACKLOG) != 0) {
        status st = fail_errno(errno == EADDRINUSE ? ST_IN_USE : ST_IO, "cannot listen on %s", path);
        close(fd);
        return st;
    }
    *out = fd;
    return ST_OK;
}

static status open_tcp(const char *address, int *out) {
    char host[256];
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || (size_t)(colon - address) >= sizeof host || !colon[1])
        return fail(ST_INVALID, "'%s' is neither unix:/path nor host:port", address);
    size_t n = (size_t)(colon - address);
    bool brackets = address[0] == '[' && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(brackets ? n - 2 : n), address + (brackets ? 1 : 0));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
    int code = getaddrinfo(host, colon + 1, &hints, &list);
    if (code != 0) return fail(ST_INVALID, "%s: %s", address, gai_strerror(code));
    status st = fail(ST_IO, "%s has no address", address);
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
        if (fd < 0) continue;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SERVER_BACKLOG) == 0) {
            *out = fd;
            st = ST_OK;
            break;
        }
        st = fail_errno(errno == EADDRINUSE ? ST_IN_USE : ST_IO, "cannot listen on %s", address);
        close(fd);
    }
    freeaddrinfo(list);
    return st;
}

status server_listen(server *s, const char *address) {
    listener *l = memory_alloc(sizeof *l);
    l->server = s;
    l->is_unix = strncmp(address, "unix:", 5) == 0;
    status st = l->is_unix ? open_unix(address + 5, &l->fd) : open_tcp(address, &l->fd);
    if (st != ST_OK) {
        free(l);
        return st;
    }
    if (l->is_unix) l->path = memory_copy_string(address + 5);
    l->poll.data = l->pause.data = l;
    uv_timer_init(s->o.loop, &l->pause);
    uv_poll_init(s->o.loop, &l->poll, l->fd);
    uv_poll_start(&l->poll, UV_READABLE, on_readable);
    l->next = s->listeners;
    s->listeners = l;
    return ST_OK;
}

void listeners_close(server *s, uv_close_cb closed) {
    for (listener *l = s->listeners; l; l = l->next) {
        uv_close((uv_handle_t *)&l->poll, closed);
        uv_close((uv_handle_t *)&l->pause, closed);
        close(l->fd);
        if (l->path) unlink(l->path);
    }
}
