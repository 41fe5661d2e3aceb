#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "shard/comm/wake_internal.h"

/* A connection that has proved nothing yet. */
typedef struct stranger {
    int fd;
    uint64_t until_ns;
    size_t got;
    uint8_t nonce[WAKE_NONCE_BYTES];
    wake_answer answer;
} stranger;

struct wake_hub {
    uint32_t ranks;
    int listener; /* -1 once everybody is there */
    _Atomic bool shut;
    int *fds;   /* [ranks]; -1 at rank 0 and before a rank came */
    bool *left; /* [ranks]: said goodbye */
    uint32_t stranger_count;
    stranger strangers[WAKE_STRANGERS_MAX];
};

static int listen_on(bool loopback_only) {
    int off = 0, fd = -1;
    if (!loopback_only) {
        struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
        fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd >= 0 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
            bind(fd, (struct sockaddr *)&any, sizeof any) == 0)
            goto listen;
        if (fd >= 0) close(fd); /* a host without IPv6 */
    }
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(loopback_only ? INADDR_LOOPBACK : INADDR_ANY)};
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (bind(fd, (struct sockaddr *)&v4, sizeof v4) != 0) goto fail;
listen:
    if (listen(fd, WAKE_STRANGERS_MAX) == 0) return fd;
fail:
    close(fd);
    return -1;
}

/* Adds " address" for every address that another host may reach. */
static status add_addresses(char *text) {
    struct ifaddrs *all, *i;
    if (getifaddrs(&all) != 0) return fail_errno(ST_IO, "addresses of this host");
    size_t at = strlen(text);
    for (i = all; i; i = i->ifa_next) {
        char name[INET6_ADDRSTRLEN];
        if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
        const void *bits = NULL;
        if (i->ifa_addr->sa_family == AF_INET) bits = &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr;
        if (i->ifa_addr->sa_family == AF_INET6) {
            const struct in6_addr *v6 = &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr;
            if (!IN6_IS_ADDR_LINKLOCAL(v6)) bits = v6; /* those mean nothing on another host */
        }
        if (!bits || !inet_ntop(i->ifa_addr->sa_family, bits, name, sizeof name)) continue;
        if (at + strlen(name) + 2 > WAKE_ADDRESSES_BYTES) {
            log_warn("this host has too many addresses: ranks elsewhere are not told of %s", name);
            continue;
        }
        at += (size_t)snprintf(text + at, WAKE_ADDRESSES_BYTES - at, " %s", name);
    }
    freeifaddrs(all);
    return ST_OK;
}

status wake_hub_open(wake_hub **out, uint32_t ranks, bool loopback_only,
                     char addresses[WAKE_ADDRESSES_BYTES]) {
    wake_hub *h = memory_alloc(sizeof *h);
    status st = ST_OK;
    h->ranks = ranks;
    h->fds = memory_alloc_array(ranks, sizeof *h->fds);
    h->left = memory_alloc_array(ranks, sizeof *h->left);
    for (uint32_t r = 0; r < ranks; r++) h->fds[r] = -1;
    h->listener = listen_on(loopback_only);
    if (h->listener < 0) TRY_OR_FAIL(fail_errno(ST_IO, "listening for wake connections"));
    struct sockaddr_storage bound = {0};
    socklen_t size = sizeof bound;
    if (getsockname(h->listener, (struct sockaddr *)&bound, &size) != 0)
        TRY_OR_FAIL(fail_errno(ST_IO, "getsockname"));
    in_port_t port = bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
                                                 : ((struct sockaddr_in *)(void *)&bound)->sin_port;
    snprintf(addresses, WAKE_ADDRESSES_BYTES, "%u%s", ntohs(port), loopback_only ? " 127.0.0.1" : "");
    if (!loopback_only) TRY_OR_FAIL(add_addresses(addresses));
    *out = h;
    return ST_OK;
fail:
    wake_hub_close(h);
    return st;
}

static void drop_stranger(wake_hub *h, uint32_t i, bool close_it) {
    if (close_it) close(h->strangers[i].fd);
    h->strangers[i] = h->strangers[--h->stranger_count];
}

static void let_in(wake_hub *h) {
    int fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return; /* gone again, or out of descriptors: the time-out tells */
    if (h->stranger_count == WAKE_STRANGERS_MAX) {
        /* The one that has been silent for longest: ours prove themselves at once. */
        uint32_t oldest = 0;
        for (uint32_t i = 1; i < h->stranger_count; i++)
            if (h->strangers[i].until_ns < h->strangers[oldest].until_ns) oldest = i;
        drop_stranger(h, oldest, true);
    }
    stranger *s = &h->strangers[h->stranger_count];
    *s = (stranger){.fd = fd, .until_ns = clock_now_ns() + (uint64_t)WAKE_PROOF_MS * 1000000};
    if (wake_nonce(s->nonce) != ST_OK ||
        send(fd, s->nonce, sizeof s->nonce, MSG_NOSIGNAL) != (ssize_t)sizeof s->nonce) {
        close(fd);
        return;
    }
    h->stranger_count++;
}

/* Reads what stranger i sent; true when it is one of ours and now in h->fds. Otherwise it is kept or
 * dropped. */
static bool hear(wake_hub *h, uint32_t i, wake_secret secret) {
    stranger *s = &h->strangers[i];
    ssize_t n = recv(s->fd, (char *)&s->answer + s->got, sizeof s->answer - s->got, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) {
        drop_stranger(h, i, true);
        return false;
    }
    s->got += (size_t)n;
    if (s->got < sizeof s->answer) return false;
    uint8_t proof[WAKE_PROOF_BYTES];
    wake_prove(proof, secret, "rank", s->nonce, &s->answer);
    uint32_t rank = wake_get_rank(s->answer.rank);
    bool ours = wake_proof_equal(proof, s->answer.proof) && rank >= 1 && rank < h->ranks && h->fds[rank] < 0;
    if (ours) {
        wake_prove(proof, secret, "hub", s->nonce, &s->answer);
        ours = send(s->fd, proof, sizeof proof, MSG_NOSIGNAL) == (ssize_t)sizeof proof;
    }
    if (ours) {
        h->fds[rank] = s->fd;
        wake_set_options(s->fd);
    } else {
        log_warn("dropped a wake connection that did not prove to be a rank of this engine");
    }
    drop_stranger(h, i, !ours);
    return ours;
}

status wake_hub_accept(wake_hub *h, wake_secret secret, uint32_t timeout_ms) {
    uint64_t until = clock_now_ns() + (uint64_t)timeout_ms * 1000000;
    uint32_t missing = h->ranks - 1;
    while (missing > 0) {
        struct pollfd p[WAKE_STRANGERS_MAX + 1] = {{.fd = h->listener, .events = POLLIN}};
        for (uint32_t i = 0; i < h->stranger_count; i++)
            p[i + 1] = (struct pollfd){.fd = h->strangers[i].fd, .events = POLLIN};
        int n = poll(p, h->stranger_count + 1, 100);
        if (n < 0 && errno != EINTR) return fail_errno(ST_IO, "poll");
        /* From the last to the first: dropping one moves the last into its place. */
        for (uint32_t i = h->stranger_count; n > 0 && i-- > 0;)
            if (p[i + 1].revents && hear(h, i, secret)) missing--;
        uint64_t now = clock_now_ns();
        for (uint32_t i = h->stranger_count; i-- > 0;)
            if (now >= h->strangers[i].until_ns) drop_stranger(h, i, true);
        if (n > 0 && p[0].revents) let_in(h);
        if (missing == 0 || now < until) continue;
        uint32_t first = 1;
        while (h->fds[first] >= 0) first++;
        return fail(ST_TIMEOUT, "%u of %u ranks made no wake connection in %u ms, the first is rank %u",
                    missing, h->ranks - 1, timeout_ms, first);
    }
    while (h->stranger_count > 0) drop_stranger(h, 0, true);
    close(h->listener);
    h->listener = -1;
    return ST_OK;
}

status wake_hub_wake(wake_hub *h, const bool *skip) {
    for (uint32_t r = 1; r < h->ranks; r++)
        /* A full socket holds tens of thousands of wakes that nobody took: no rank is that far behind. */
        if (!skip[r] && send(h->fds[r], "w", 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1)
            return fail_errno(ST_PEER, "waking rank %u", r);
    return ST_OK;
}

uint32_t wake_hub_lost(wake_hub *h) {
    for (uint32_t r = 1; r < h->ranks; r++) {
        if (h->left[r]) continue;
        wake_peer p = wake_peer_of(h->fds[r]);
        if (p == WAKE_PEER_LOST) return r;
        h->left[r] = p == WAKE_PEER_LEFT;
    }
    return 0;
}

void wake_hub_shut(wake_hub *h) {
    h->shut = true;
    for (uint32_t r = 1; r < h->ranks; r++)
        if (h->fds[r] >= 0) shutdown(h->fds[r], SHUT_RDWR);
}

void wake_hub_close(wake_hub *h) {
    if (!h) return;
    while (h->stranger_count > 0) drop_stranger(h, 0, true);
    for (uint32_t r = 1; r < h->ranks; r++) {
        if (h->fds[r] < 0) continue;
        if (!h->shut) wake_say_goodbye(h->fds[r]);
        close(h->fds[r]);
    }
    if (h->listener >= 0) close(h->listener);
    free(h->left);
    free(h->fds);
    free(h);
}
