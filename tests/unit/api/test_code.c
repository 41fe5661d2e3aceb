#include "daemon/api/code.h"
#include "tests/test.h"

static void check_text(const char *in, const char *want) {
    strbuf out = {0};
    code_add_text(in, &out);
    CHECK_THAT(!strcmp(strbuf_text(&out), want), "%s", strbuf_text(&out));
    strbuf_close(&out);
}

TEST(statuses) {
    CHECK(code_of_status(ST_OK) == GRPC_STATUS_OK);
    CHECK(code_of_status(ST_FORMAT) == GRPC_STATUS_INVALID_ARGUMENT);
    CHECK(code_of_status(ST_PEER) == GRPC_STATUS_UNAVAILABLE);
    CHECK(code_of_status(ST_EXISTS) == GRPC_STATUS_ALREADY_EXISTS);
    for (int st = ST_INVALID; st < ST_COUNT; st++) CHECK(code_of_status((status)st) != GRPC_STATUS_OK);
}

TEST(texts_are_utf8_and_short) {
    check_text("", "");
    check_text("grün", "grün");
    check_text("a\xFF", "a\xEF\xBF\xBD");
    check_text("\xC3", "\xEF\xBF\xBD");
    char in[3 * CODE_TEXT_MAX];
    for (size_t pad = 0; pad < 8; pad++) { /* the cut falls at every offset of a character */
        for (int bad = 0; bad < 2; bad++) {
            strbuf out = {0};
            memset(in, bad ? 0xFF : 'x', sizeof in - 1);
            in[sizeof in - 1] = 0;
            for (size_t i = pad; !bad && i + 3 < sizeof in; i += 3) memcpy(in + i, "€", 3);
            code_add_text(in, &out);
            CHECK_THAT(out.size <= CODE_TEXT_MAX && out.size > CODE_TEXT_MAX - 16, "%zu", out.size);
            CHECK(!strcmp(out.data + out.size - 3, "…"));
            strbuf_close(&out);
        }
    }
}

/* Against the bytes that Python's googleapis-common-protos writes for the same message. */
TEST(retry_details) {
    static const unsigned char want[] =
        "\x08\x08\x12\x04" "busy" "\x1a\x36\x0a\x28" "type.googleapis.com/google.rpc.RetryInfo"
        "\x12\x0a\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01";
    strbuf out = {0};
    code_add_retry_details(GRPC_STATUS_RESOURCE_EXHAUSTED, "busy", 1500, &out);
    CHECK_THAT(out.size == sizeof want - 1 && !memcmp(out.data, want, out.size), "%zu bytes", out.size);
    strbuf_close(&out);
}

int main(void) {
    RUN(statuses);
    RUN(texts_are_utf8_and_short);
    RUN(retry_details);
    return test_result();
}
