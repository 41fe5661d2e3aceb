#include "proto/message.h"

#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"
#include "tests/test.h"

static const ProtobufCMessageDescriptor *const request = &gemmad__v1__generate_request__descriptor;

static status unpack(const char *bytes, size_t n) {
    ProtobufCMessage *m;
    status st = message_unpack(request, (const uint8_t *)bytes, n, &m);
    CHECK((st == ST_OK) == (m != NULL));
    if (m) protobuf_c_message_free_unpacked(m, NULL);
    return st;
}

TEST(utf8) {
    static const struct { const char *text; size_t n, valid; } v[] = {
        {"", 0, 0}, {"plain", 5, 5}, {"\xC3\xA9", 2, 2}, {"\xE2\x82\xAC", 3, 3}, {"\xF0\x9F\x98\x80", 4, 4},
        {"12345678\x80", 9, 8}, {"1234567\xC3\xA9 9", 11, 11}, {"\xC3", 1, 0}, {"a\xE2\x82", 3, 1},
        {"\xC0\x80", 2, 0}, {"\xC1\xBF", 2, 0}, {"\xE0\x9F\xBF", 3, 0}, {"\xE0\xA0\x80", 3, 3},
        {"\xED\x9F\xBF", 3, 3}, {"\xED\xA0\x80", 3, 0}, {"\xEF\xBF\xBF", 3, 3}, {"\xF0\x8F\xBF\xBF", 4, 0},
        {"\xF0\x90\x80\x80", 4, 4}, {"\xF4\x8F\xBF\xBF", 4, 4}, {"\xF4\x90\x80\x80", 4, 0}, {"\xF5\x80\x80\x80", 4, 0},
        {"\xFF", 1, 0}, {"\xC3\xC3", 2, 0}, {"a\0b", 3, 3},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        size_t got = utf8_check(v[i].text, v[i].n);
        CHECK_THAT(got == v[i].valid, "case %zu: %zu, not %zu", i, got, v[i].valid);
    }
}

/* The same message on the wire, whether a field is declared string or bytes: a NUL inside a text arrives whole. */
TEST(text_keeps_its_nul_bytes) {
    Gemmad__V1__GenerateRequest r = GEMMAD__V1__GENERATE_REQUEST__INIT;
    r.model = (char *)"tiny";
    r.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
    r.text = (ProtobufCBinaryData){5, (uint8_t *)"a\0b\0c"};
    uint8_t wire[64];
    size_t n = gemmad__v1__generate_request__pack(&r, wire);
    static const char want[] = "\x0A\x04tiny\x1A\x05" "a\0b\0c";
    CHECK(n == sizeof want - 1 && !memcmp(wire, want, n));
    ProtobufCMessage *m;
    CHECK_STATUS(message_unpack(request, wire, n, &m), ST_OK);
    Gemmad__V1__GenerateRequest *back = (Gemmad__V1__GenerateRequest *)m;
    CHECK(back->text.len == 5 && !memcmp(back->text.data, "a\0b\0c", 5) && !strcmp(back->model, "tiny"));
    protobuf_c_message_free_unpacked(m, NULL);
    CHECK_STATUS(unpack("", 0), ST_OK);
}

TEST(strings_are_checked) {
    CHECK_STATUS(unpack("\x0A\x04ti\xC3y", 6), ST_INVALID);
    CHECK_SENTENCE("GenerateRequest.model is not UTF-8 at byte 2");
    CHECK_STATUS(unpack("\x12\x03" "a\0b", 5), ST_INVALID);
    CHECK_SENTENCE("GenerateRequest.request_id has a NUL at byte 1");
    /* In a sub-message: Message.role of ChatRequest.messages. */
    ProtobufCMessage *m;
    CHECK_STATUS(message_unpack(&gemmad__v1__chat_request__descriptor, (const uint8_t *)"\x1A\x03\x0A\x01\xFF", 5, &m),
                 ST_INVALID);
    CHECK_SENTENCE("Message.role is not UTF-8 at byte 0");
}

TEST(broken_bytes_are_refused) {
    static const struct { const char *bytes; size_t n; } v[] = {
        {"\x0A", 1}, {"\x0A\x05tiny", 6}, {"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11}, {"\x0B", 1},
        {"\x31\x01\x02", 3}, {"\x2A\x02\x0D\x00", 4}, {"\x30\x80", 2},
        {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        CHECK_STATUS(unpack(v[i].bytes, v[i].n), ST_INVALID);
        CHECK_SENTENCE("are not a gemmad.v1.GenerateRequest");
    }
}

/* 2 bytes on the wire would become some 60 in memory each. */
TEST(too_many_fields_are_refused_before_they_are_unpacked) {
    size_t n = 2 * ((size_t)LIMIT_MESSAGE_FIELDS + 1);
    char *bytes = memory_alloc(n);
    for (size_t i = 0; i < n; i += 2) bytes[i] = 0x30; /* priority = 0 */
    CHECK_STATUS(unpack(bytes, n), ST_INVALID);
    CHECK_SENTENCE("more than 2097152 fields");
    CHECK_STATUS(unpack(bytes, n - 2), ST_OK);
    free(bytes);
}

int main(void) {
    RUN(utf8);
    RUN(text_keeps_its_nul_bytes);
    RUN(strings_are_checked);
    RUN(broken_bytes_are_refused);
    RUN(too_many_fields_are_refused_before_they_are_unpacked);
    return test_result();
}
