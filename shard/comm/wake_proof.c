#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/sha256.h"
#include "shard/comm/wake_internal.h"

status wake_nonce(uint8_t out[WAKE_NONCE_BYTES]) {
    if (getrandom(out, WAKE_NONCE_BYTES, 0) != WAKE_NONCE_BYTES) return fail_errno(ST_IO, "getrandom");
    return ST_OK;
}

/* RFC 2104 over the parts, one after the other; every part has a fixed length but the last. */
void wake_prove(uint8_t proof[WAKE_PROOF_BYTES], wake_secret secret, const char *side,
                const uint8_t hub_nonce[WAKE_NONCE_BYTES], const wake_answer *answer) {
    uint8_t key[64] = {0}, pad[64], inner[32];
    sha256 s;
    if (secret.count > sizeof key) {
        sha256_begin(&s);
        sha256_add(&s, secret.bytes, secret.count);
        sha256_end(&s, key);
    } else {
        memcpy(key, secret.bytes, secret.count);
    }
    for (size_t i = 0; i < sizeof pad; i++) pad[i] = key[i] ^ 0x36;
    sha256_begin(&s);
    sha256_add(&s, pad, sizeof pad);
    sha256_add(&s, hub_nonce, WAKE_NONCE_BYTES);
    sha256_add(&s, answer->nonce, sizeof answer->nonce);
    sha256_add(&s, answer->rank, sizeof answer->rank);
    sha256_add(&s, side, strlen(side));
    sha256_end(&s, inner);
    for (size_t i = 0; i < sizeof pad; i++) pad[i] = key[i] ^ 0x5C;
    sha256_begin(&s);
    sha256_add(&s, pad, sizeof pad);
    sha256_add(&s, inner, sizeof inner);
    sha256_end(&s, proof);
    explicit_bzero(key, sizeof key);
    explicit_bzero(pad, sizeof pad);
    explicit_bzero(&s, sizeof s);
}

bool wake_proof_equal(const uint8_t a[WAKE_PROOF_BYTES], const uint8_t b[WAKE_PROOF_BYTES]) {
    volatile uint8_t difference = 0;
    for (int i = 0; i < WAKE_PROOF_BYTES; i++) difference |= a[i] ^ b[i];
    return difference == 0;
}

void wake_set_options(int fd) {
    static const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 10}, {IPPROTO_TCP, TCP_KEEPINTVL, 5},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},   {IPPROTO_TCP, TCP_USER_TIMEOUT, 25000},
    };
    /* A system that refuses one of these is slower to notice a loss, and no worse. */
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof options[i].value);
}

int wake_poll(int fd, short events, uint64_t until_ns) {
    for (;;) {
        uint64_t now = clock_now_ns();
        struct pollfd p = {.fd = fd, .events = events};
        /* Rounded up: a timeout of 0 for the last fraction of a millisecond would spin. */
        int n = poll(&p, 1, now < until_ns ? (int)((until_ns - now + 999999) / 1000000) : 0);
        if (n > 0) return 1;
        if (n == 0 && clock_now_ns() >= until_ns) return 0;
        if (n < 0 && errno != EINTR) return 1; /* the read that follows says what is wrong */
    }
}

wake_peer wake_peer_of(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    if (poll(&p, 1, 0) <= 0) return WAKE_PEER_THERE;
    /* It has ended. Wakes not yet taken may lie before the goodbye, so the last byte is what counts. */
    char bytes[256];
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    return n > 0 && bytes[n - 1] == 'b' ? WAKE_PEER_LEFT : WAKE_PEER_LOST;
}

void wake_say_goodbye(int fd) {
    char rest[256];
    /* Closing with unread bytes resets the connection, and the reset would overtake the goodbye. */
    while (recv(fd, rest, sizeof rest, MSG_DONTWAIT) > 0) continue;
    (void)send(fd, "b", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}
