#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "shard/comm/wake_internal.h"

struct wake_link {
    int fd;
    _Atomic bool shut;
};

/* All n bytes before until_ns, or ST_PEER or ST_TIMEOUT. */
static status read_all(int fd, void *out, size_t n, uint64_t until_ns) {
    for (size_t at = 0; at < n;) {
        if (wake_poll(fd, POLLIN, until_ns) == 0) return fail(ST_TIMEOUT, "no proof from the other side");
        ssize_t got = recv(fd, (char *)out + at, n - at, MSG_DONTWAIT);
        if (got > 0) at += (size_t)got;
        else if (got == 0) return fail(ST_PEER, "closed by the other side");
        else if (errno != EAGAIN && errno != EINTR) return fail_errno(ST_PEER, "read");
    }
    return ST_OK;
}

static status prove_both(int fd, uint32_t rank, wake_secret secret, uint64_t until_ns) {
    uint8_t hub_nonce[WAKE_NONCE_BYTES], want[WAKE_PROOF_BYTES], got[WAKE_PROOF_BYTES];
    wake_answer answer;
    TRY(read_all(fd, hub_nonce, sizeof hub_nonce, until_ns));
    wake_put_rank(answer.rank, rank);
    TRY(wake_nonce(answer.nonce));
    wake_prove(answer.proof, secret, "rank", hub_nonce, &answer);
    /* Fresh sockets take these few bytes whole. */
    if (send(fd, &answer, sizeof answer, MSG_NOSIGNAL) != (ssize_t)sizeof answer)
        return fail_errno(ST_PEER, "write");
    TRY(read_all(fd, got, sizeof got, until_ns));
    wake_prove(want, secret, "hub", hub_nonce, &answer);
    return wake_proof_equal(got, want) ? ST_OK : fail(ST_AUTH, "not rank 0 of this engine");
}

static status dial(const char *host, const char *port, uint32_t rank, wake_secret secret, int *out) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM},
                    *a = NULL;
    uint64_t until = clock_now_ns() + (uint64_t)WAKE_PROOF_MS * 1000000;
    status st = ST_OK;
    int fd = -1, code = getaddrinfo(host, port, &hints, &a), error = 0;
    socklen_t size = sizeof error;
    if (code != 0) return fail(ST_FORMAT, "%s", gai_strerror(code));
    fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) TRY_OR_FAIL(fail_errno(ST_IO, "socket"));
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
        if (errno != EINPROGRESS) TRY_OR_FAIL(fail_errno(ST_UNAVAILABLE, "connect"));
        if (wake_poll(fd, POLLOUT, until) == 0)
            TRY_OR_FAIL(fail(ST_TIMEOUT, "no answer in %d ms", WAKE_PROOF_MS));
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0) errno = error;
        if (errno != 0) TRY_OR_FAIL(fail_errno(ST_UNAVAILABLE, "connect"));
    }
    TRY_OR_FAIL(prove_both(fd, rank, secret, until));
    wake_set_options(fd);
    freeaddrinfo(a);
    *out = fd;
    return ST_OK;
fail:
    if (fd >= 0) close(fd);
    freeaddrinfo(a);
    return st;
}

/* Tries every address once. */
static status dial_any(const char *addresses, uint32_t rank, wake_secret secret, uint64_t until_ns,
                       int *out) {
    char text[WAKE_ADDRESSES_BYTES], *rest = NULL;
    snprintf(text, sizeof text, "%s", addresses);
    const char *port = strtok_r(text, " ", &rest);
    status st = fail(ST_NOT_FOUND, "rank 0 has no address that other hosts reach");
    if (!port) return st;
    for (const char *host; (host = strtok_r(NULL, " ", &rest));) {
        st = dial(host, port, rank, secret, out);
        if (st == ST_OK) return ST_OK;
        st = fail_within(st, "%s port %s", host, port);
        if (clock_now_ns() >= until_ns) return st;
    }
    return st;
}

status wake_link_open(wake_link **out, uint32_t rank, const char *addresses, wake_secret secret,
                      uint32_t timeout_ms) {
    uint64_t until = clock_now_ns() + (uint64_t)timeout_ms * 1000000;
    int fd = -1;
    for (;;) {
        status st = dial_any(addresses, rank, secret, until, &fd);
        if (st == ST_OK) break;
        /* The hub may have dropped us among strangers that crowd it, or listen a moment later: again. */
        if (clock_now_ns() >= until) return fail_within(st, "rank %u to rank 0", rank);
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    wake_link *l = memory_alloc(sizeof *l);
    l->fd = fd;
    *out = l;
    return ST_OK;
}

status wake_link_wait(wake_link *l, uint32_t timeout_ms) {
    uint64_t until = timeout_ms ? clock_now_ns() + (uint64_t)timeout_ms * 1000000 : 0;
    for (;;) {
        char byte = 0;
        ssize_t n = recv(l->fd, &byte, 1, MSG_DONTWAIT);
        if (n == 1 && byte == 'w') return ST_OK;
        if (n == 1) return fail(ST_PEER, "rank 0 left");
        if (n == 0) return fail(ST_PEER, "rank 0 closed its connection");
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return fail_errno(ST_PEER, "connection to rank 0");
        if (until == 0 || wake_poll(l->fd, POLLIN, until) == 0) return ST_TIMEOUT;
    }
}

wake_peer wake_link_peer(const wake_link *l) { return wake_peer_of(l->fd); }

void wake_link_shut(wake_link *l) {
    l->shut = true;
    shutdown(l->fd, SHUT_RDWR);
}

void wake_link_close(wake_link *l) {
    if (!l) return;
    if (!l->shut) wake_say_goodbye(l->fd);
    close(l->fd);
    free(l);
}
