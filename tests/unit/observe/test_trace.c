#include "daemon/observe/trace.h"

#include "tests/test.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00f067aa0ba902b7"

static bool reads(const char *text) {
    trace_context t = {0};
    return trace_read(&t, text, strlen(text));
}

TEST(a_traceparent_is_read) {
    trace_context t = {0};
    const char *text = "00-" TRACE "-" PARENT "-01";
    CHECK(trace_read(&t, text, strlen(text)));
    CHECK(!strcmp(t.trace_id, TRACE) && !strcmp(t.parent_id, PARENT) && t.sampled && !t.span_id[0]);
    text = "00-" TRACE "-" PARENT "-00";
    CHECK(trace_read(&t, text, strlen(text)) && !t.sampled);
    /* A later version may go on. */
    CHECK(reads("01-" TRACE "-" PARENT "-01"));
    CHECK(reads("cc-" TRACE "-" PARENT "-01-what-the-future-holds"));
}

TEST(others_are_not) {
    CHECK(!reads(""));
    CHECK(!reads("00-" TRACE "-" PARENT "-0"));
    CHECK(!reads("00-" TRACE "-" PARENT "-01-more"));
    CHECK(!reads("cc-" TRACE "-" PARENT "-01.more"));
    CHECK(!reads("ff-" TRACE "-" PARENT "-01"));
    CHECK(!reads("00-4BF92F3577B34DA6A3CE929D0E0E4736-" PARENT "-01"));
    CHECK(!reads("00-00000000000000000000000000000000-" PARENT "-01"));
    CHECK(!reads("00-" TRACE "-0000000000000000-01"));
    CHECK(!reads("00-4bf92f3577b34da6a3ce929d0e0e473g-" PARENT "-01"));
    CHECK(!reads("00_" TRACE "-" PARENT "-01"));
    CHECK(!reads("00-" TRACE "-" PARENT "-g1"));
}

/* Every byte matters: one wrong anywhere but in digits gives no trace, and nothing is half filled in. */
TEST(one_wrong_byte_is_enough) {
    const char *text = "00-" TRACE "-" PARENT "-01";
    for (size_t i = 0; i < strlen(text); i++) {
        char wrong[64];
        trace_context t = {0};
        snprintf(wrong, sizeof wrong, "%s", text);
        wrong[i] = '!';
        CHECK_THAT(!trace_read(&t, wrong, strlen(wrong)) && !t.trace_id[0] && !t.parent_id[0], "byte %zu", i);
    }
}

TEST(a_request_gets_ids) {
    trace_context a, b, c;
    const char *text = "00-" TRACE "-" PARENT "-01";
    trace_begin(&a, NULL, 0);
    trace_begin(&b, "nonsense", 8);
    trace_begin(&c, text, strlen(text));
    CHECK(strlen(a.trace_id) == 32 && strlen(a.span_id) == 16 && !a.parent_id[0]);
    CHECK(strlen(b.trace_id) == 32 && strcmp(a.trace_id, b.trace_id) != 0 &&
          strcmp(a.span_id, b.span_id) != 0);
    CHECK(!strcmp(c.trace_id, TRACE) && !strcmp(c.parent_id, PARENT) && strcmp(c.span_id, PARENT) != 0);
}

int main(void) {
    RUN(a_traceparent_is_read);
    RUN(others_are_not);
    RUN(one_wrong_byte_is_enough);
    RUN(a_request_gets_ids);
    return test_result();
}
