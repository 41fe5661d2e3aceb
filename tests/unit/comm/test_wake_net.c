#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "shard/comm/wake_internal.h"
#include "tests/test.h"

static const uint8_t key[32] = "one secret of an engine, 31 byte",
                     other_key[32] = "another one with as many bytes.";
static const wake_secret ours = {key, sizeof key}, theirs = {other_key, sizeof other_key};

typedef struct rank_thread {
    pthread_t thread;
    uint32_t rank, timeout_ms;
    const char *addresses;
    wake_secret secret;
    wake_link *link;
    status st;
    char text[STATUS_TEXT_MAX];
} rank_thread;

static void *rank_main(void *argument) {
    rank_thread *t = argument;
    t->st = wake_link_open(&t->link, t->rank, t->addresses, t->secret, t->timeout_ms);
    snprintf(t->text, sizeof t->text, "%s", status_text());
    return NULL;
}
static void start(rank_thread *t, uint32_t rank, const char *addresses, wake_secret secret,
                  uint32_t timeout_ms) {
    *t = (rank_thread){.rank = rank, .addresses = addresses, .secret = secret, .timeout_ms = timeout_ms};
    CHECK(pthread_create(&t->thread, NULL, rank_main, t) == 0);
}

/* A hub and its links 1 … ranks - 1. */
static wake_hub *connect_all(rank_thread *t, uint32_t ranks, bool loopback_only, char *addresses) {
    wake_hub *h = NULL;
    CHECK_STATUS(wake_hub_open(&h, ranks, loopback_only, addresses), ST_OK);
    for (uint32_t r = 1; r < ranks; r++) start(&t[r], r, addresses, ours, 5000);
    CHECK_STATUS(wake_hub_accept(h, ours, 5000), ST_OK);
    for (uint32_t r = 1; r < ranks; r++) {
        pthread_join(t[r].thread, NULL);
        CHECK_THAT(t[r].st == ST_OK, "%s", t[r].text);
    }
    return h;
}

static int dial_raw(const char *addresses) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    a.sin_port = htons((uint16_t)atoi(addresses));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

TEST(wakes_are_counted_and_goodbyes_told_from_losses) {
    char addresses[WAKE_ADDRESSES_BYTES];
    rank_thread t[4];
    wake_hub *h = connect_all(t, 4, true, addresses);
    bool skip[4] = {true, false, true, false};
    for (int i = 0; i < 3; i++) CHECK_STATUS(wake_hub_wake(h, skip), ST_OK);
    for (int i = 0; i < 3; i++) CHECK_STATUS(wake_link_wait(t[1].link, 1000), ST_OK);
    CHECK_STATUS(wake_link_wait(t[1].link, 20), ST_TIMEOUT);
    CHECK_STATUS(wake_link_wait(t[2].link, 0), ST_TIMEOUT);
    CHECK(wake_hub_lost(h) == 0 && wake_link_peer(t[3].link) == WAKE_PEER_THERE);
    wake_link_close(t[2].link);
    CHECK(wake_hub_lost(h) == 0); /* it said goodbye */
    wake_link_shut(t[3].link);
    CHECK(wake_hub_lost(h) == 3);
    wake_hub_close(h);
    CHECK(wake_link_peer(t[1].link) == WAKE_PEER_LEFT);
    CHECK_STATUS(wake_link_wait(t[1].link, 1000), ST_PEER);
    CHECK_SENTENCE("rank 0 left");
    wake_link_close(t[1].link);
    wake_link_close(t[3].link);
    wake_link_close(NULL);
    wake_hub_close(NULL);
}

TEST(a_hub_that_gives_up_is_heard_behind_wakes) {
    char addresses[WAKE_ADDRESSES_BYTES];
    rank_thread t[2];
    wake_hub *h = connect_all(t, 2, true, addresses);
    CHECK_STATUS(wake_hub_wake(h, (bool[2]){false, false}), ST_OK);
    wake_hub_shut(h);
    CHECK(wake_link_peer(t[1].link) == WAKE_PEER_LOST);
    CHECK_STATUS(wake_link_wait(t[1].link, 1000), ST_OK);
    CHECK_STATUS(wake_link_wait(t[1].link, 1000), ST_PEER);
    CHECK_SENTENCE("rank 0 closed");
    wake_hub_close(h);
    wake_link_close(t[1].link);
}

TEST(other_hosts_addresses_are_listed) {
    char addresses[WAKE_ADDRESSES_BYTES];
    wake_hub *h = NULL;
    CHECK_STATUS(wake_hub_open(&h, 2, false, addresses), ST_OK);
    CHECK_THAT(atoi(addresses) > 0 && !strstr(addresses, "127.0.0.1"), "%s", addresses);
    wake_hub_close(h);
}

/* More strangers than are held at once: silent ones, ones that send rubbish, one with another engine's
 * secret. Ours come through all the same, and soon. */
TEST(strangers_are_dropped) {
    enum { CROWD = WAKE_STRANGERS_MAX + 20 };
    char addresses[WAKE_ADDRESSES_BYTES], rubbish[200];
    int fds[CROWD];
    wake_hub *h = NULL;
    CHECK_STATUS(wake_hub_open(&h, 3, true, addresses), ST_OK);
    for (size_t i = 0; i < sizeof rubbish; i++) rubbish[i] = (char)(i * 37);
    rank_thread wrong, t[3];
    start(&wrong, 1, addresses, theirs, 300);
    start(&t[1], 1, addresses, ours, 10000);
    for (int i = 0; i < CROWD; i++) {
        fds[i] = i % 5 < 4 && i < 60 ? dial_raw(addresses) : -1;
        if (fds[i] >= 0 && i % 2) CHECK(send(fds[i], rubbish, (size_t)(i + 1), MSG_NOSIGNAL) > 0);
    }
    start(&t[2], 2, addresses, ours, 10000);
    uint64_t begin = clock_now_ns();
    CHECK_STATUS(wake_hub_accept(h, ours, 10000), ST_OK);
    CHECK(clock_now_ns() - begin < 5000000000u);
    pthread_join(wrong.thread, NULL);
    CHECK_THAT(wrong.st != ST_OK, "%s", status_name(wrong.st));
    for (int r = 1; r < 3; r++) {
        pthread_join(t[r].thread, NULL);
        CHECK_THAT(t[r].st == ST_OK, "%s", t[r].text);
    }
    CHECK(dial_raw(addresses) < 0); /* nobody listens any more */
    for (int i = 0; i < CROWD; i++) {
        char byte;
        struct timeval second = {.tv_sec = 1};
        if (fds[i] < 0) continue;
        setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
        ssize_t n;
        /* A nonce at most, then the end: never a wake, never a proof. */
        size_t got = 0;
        while ((n = recv(fds[i], &byte, 1, 0)) > 0) got++;
        CHECK_THAT(got == 0 || got == WAKE_NONCE_BYTES, "%zu", got);
        close(fds[i]);
    }
    CHECK_STATUS(wake_hub_wake(h, (bool[3]){false}), ST_OK);
    for (int r = 1; r < 3; r++) {
        CHECK_STATUS(wake_link_wait(t[r].link, 1000), ST_OK);
        wake_link_close(t[r].link);
    }
    wake_hub_close(h);
}

TEST(missing_ranks_are_named) {
    char addresses[WAKE_ADDRESSES_BYTES];
    wake_hub *h = NULL;
    rank_thread t;
    CHECK_STATUS(wake_hub_open(&h, 4, true, addresses), ST_OK);
    start(&t, 1, addresses, ours, 5000);
    CHECK_STATUS(wake_hub_accept(h, ours, 300), ST_TIMEOUT);
    CHECK_SENTENCE("2 of 3 ranks made no wake connection in 300 ms, the first is rank 2");
    pthread_join(t.thread, NULL);
    CHECK(t.st == ST_OK);
    wake_hub_close(h);
    wake_link_close(t.link);
}

/* Answers with bytes of its own instead of a proof. */
static void *impostor(void *argument) {
    int listener = *(int *)argument, fd;
    char nonsense[WAKE_NONCE_BYTES] = {1};
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        wake_answer a;
        if (send(fd, nonsense, sizeof nonsense, MSG_NOSIGNAL) > 0 && recv(fd, &a, sizeof a, MSG_WAITALL) > 0)
            (void)!send(fd, nonsense, sizeof nonsense, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}
TEST(an_impostor_is_refused) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (struct sockaddr *)&a, size) == 0 && listen(listener, 5) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&a, &size) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, impostor, &listener) == 0);
    char addresses[64];
    snprintf(addresses, sizeof addresses, "%u 127.0.0.1", ntohs(a.sin_port));
    wake_link *l = NULL;
    CHECK_STATUS(wake_link_open(&l, 1, addresses, ours, 100), ST_AUTH);
    CHECK_SENTENCE("not rank 0 of this engine");
    CHECK_STATUS(wake_link_open(&l, 1, "", ours, 10), ST_NOT_FOUND);
    CHECK_STATUS(wake_link_open(&l, 1, "80 no.such", ours, 10), ST_FORMAT);
    shutdown(listener, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(listener);
}

/* RFC 4231, test case 2, brought into the form of our parts is not possible; what counts is that every
 * input matters. */
TEST(a_proof_depends_on_everything) {
    uint8_t nonce[WAKE_NONCE_BYTES] = {1}, want[WAKE_PROOF_BYTES], got[WAKE_PROOF_BYTES];
    wake_answer a = {.rank = {3}, .nonce = {9}};
    wake_prove(want, ours, "rank", nonce, &a);
    wake_prove(got, ours, "rank", nonce, &a);
    CHECK(wake_proof_equal(want, got));
    wake_prove(got, theirs, "rank", nonce, &a);
    CHECK(!wake_proof_equal(want, got));
    wake_prove(got, ours, "hub", nonce, &a);
    CHECK(!wake_proof_equal(want, got));
    a.rank[0] = 4;
    wake_prove(got, ours, "rank", nonce, &a);
    CHECK(!wake_proof_equal(want, got));
    a.rank[0] = 3, a.nonce[31] = 1;
    wake_prove(got, ours, "rank", nonce, &a);
    CHECK(!wake_proof_equal(want, got));
    a.nonce[31] = 0, nonce[31] = 1;
    wake_prove(got, ours, "rank", nonce, &a);
    CHECK(!wake_proof_equal(want, got));
}

int main(void) {
    RUN(wakes_are_counted_and_goodbyes_told_from_losses);
    RUN(a_hub_that_gives_up_is_heard_behind_wakes);
    RUN(other_hosts_addresses_are_listed);
    RUN(strangers_are_dropped);
    RUN(missing_ranks_are_named);
    RUN(an_impostor_is_refused);
    RUN(a_proof_depends_on_everything);
    return test_result();
}
