/* Sockets handed over by a service manager. */
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/api/activated.h"
#include "tests/test.h"

enum { FIRST = 3 };

static char path[] = "/tmp/gemmad-test-XXXXXX";
static address_socket sockets[ADDRESS_SOCKETS_MAX];
static int count;

static void put(int fd, int at) {
    CHECK(fd >= 0 && dup2(fd, at) == at);
    if (fd != at) close(fd);
}

static int unix_listener(void) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 5) == 0);
    return fd;
}

static int tcp_listener(uint32_t address) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 5) == 0);
    return fd;
}

static void hand_over(const char *names, int n) {
    char number[16];
    snprintf(number, sizeof number, "%d", (int)getpid());
    setenv("LISTEN_PID", number, 1);
    snprintf(number, sizeof number, "%d", n);
    setenv("LISTEN_FDS", number, 1);
    setenv("LISTEN_FDNAMES", names, 1);
}

TEST(refuses) {
    CHECK_STATUS(activated_take("--listen", "public", false, sockets, &count), ST_AUTH);
    CHECK_SENTENCE("--insecure");
    CHECK(count == 0);
    CHECK_STATUS(activated_take("--listen", "odd", true, sockets, &count), ST_INVALID);
    CHECK_STATUS(activated_take("--listen", "nobody", true, sockets, &count), ST_NOT_FOUND);
    CHECK_SENTENCE("only grpc, http, public, odd");
}

TEST(takes_by_name) {
    char want[128];
    CHECK_STATUS(activated_take("--listen", "grpc", false, sockets, &count), ST_OK);
    snprintf(want, sizeof want, "unix:%s/s", path);
    CHECK_THAT(count == 1 && sockets[0].is_unix && !strcmp(sockets[0].text, want), "%s", sockets[0].text);
    CHECK(fcntl(sockets[0].fd, F_GETFL) & O_NONBLOCK);
    CHECK_STATUS(address_set_mode(&sockets[0], 0666), ST_OK);
    address_socket first = sockets[0];
    CHECK_STATUS(address_listen("--http", "systemd:http", false, sockets, &count), ST_OK);
    CHECK(count == 1 && !sockets[0].is_unix && !strncmp(sockets[0].text, "127.0.0.1:", 10));
    address_close(&sockets[0]);
    address_close(&first);
    CHECK(access(want + strlen("unix:"), F_OK) == 0); /* the manager's */
}

TEST(is_for_this_process_only) {
    setenv("LISTEN_PID", "1", 1);
    CHECK_STATUS(activated_take("--listen", "grpc", true, sockets, &count), ST_NOT_FOUND);
    CHECK_SENTENCE("no socket was handed over; a service manager");
}

int main(void) {
    if (!mkdtemp(path)) return 1;
    put(unix_listener(), FIRST);
    put(tcp_listener(INADDR_LOOPBACK), FIRST + 1);
    put(tcp_listener(INADDR_ANY), FIRST + 2);
    put(socket(AF_INET, SOCK_DGRAM, 0), FIRST + 3);
    hand_over("grpc:http:public:odd", 4);
    RUN(refuses);
    RUN(takes_by_name);
    RUN(is_for_this_process_only);
    char file[64];
    snprintf(file, sizeof file, "%s/s", path);
    unlink(file);
    rmdir(path);
    return test_result();
}
