/* What a browser may have been made to send. */
#include "daemon/http/gate.h"

#include "tests/test.h"

TEST(hosts_that_are_this_machine) {
    static const char *const yes[] = {"localhost",     "localhost:8000", "LOCALHOST:1",
                                      "localhost.:80", "127.0.0.1",      "127.0.0.1:8000",
                                      "127.9.9.9",     "[::1]",          "[::1]:8000"};
    static const char *const no[] = {"",
                                     "evil.example",
                                     "evil.example:8000",
                                     "localhost.evil.example",
                                     "127.0.0.1.evil.example",
                                     "127.0.0.1evil",
                                     "[::1",
                                     "[::1]x",
                                     "[::2]",
                                     "10.0.0.1",
                                     "0.0.0.0",
                                     "2130706433",
                                     "::1",
                                     ":8000",
                                     "localhost evil",
                                     "[127.0.0.1].evil"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        CHECK_THAT(gate_is_loopback_host(yes[i]), "%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        CHECK_THAT(!gate_is_loopback_host(no[i]), "%s", no[i]);
    char lengthy[400];
    memset(lengthy, 'a', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = 0;
    CHECK(!gate_is_loopback_host(lengthy));
}

TEST(origins) {
    CHECK(gate_is_same_origin("http://localhost:8000", "localhost:8000"));
    CHECK(gate_is_same_origin("https://Example.org", "example.org"));
    CHECK(!gate_is_same_origin("http://localhost:8001", "localhost:8000"));
    CHECK(!gate_is_same_origin("http://evil.example", "localhost:8000"));
    CHECK(!gate_is_same_origin("null", "localhost:8000"));
    CHECK(!gate_is_same_origin("", "localhost:8000"));
    CHECK(!gate_is_same_origin("file://localhost:8000", "localhost:8000"));
    CHECK(!gate_is_same_origin("http://localhost:8000.evil.example", "localhost:8000"));
}

int main(void) {
    RUN(hosts_that_are_this_machine);
    RUN(origins);
    return test_result();
}
