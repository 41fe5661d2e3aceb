#include <float.h>
#include <math.h>

#include "ctl/json_write.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"
#include "tests/test.h"

static void check_text(const char *bytes, size_t n, const char *want) {
    json_writer w = {0};
    json_text(&w, bytes, n);
    CHECK_THAT(!strcmp(strbuf_text(&w.out), want), "%s, not %s", strbuf_text(&w.out), want);
    strbuf_close(&w.out);
}

TEST(texts_are_quoted) {
    check_text("", 0, "\"\"");
    check_text("a\"\\\n\t\r\0\x1B\x7F", 9, "\"a\\\"\\\\\\n\\t\\r\\u0000\\u001b\\u007f\"");
    check_text("\xC3\xA4\xF0\x9F\x98\x80", 6, "\"\xC3\xA4\xF0\x9F\x98\x80\"");
    check_text("a\xFF\xC3", 3, "\"a\xEF\xBF\xBD\xEF\xBF\xBD\"");
}

TEST(floats_read_back_the_same) {
    static const float v[] = {0, -0.0f, 1, 0.1f, 1.0f / 3, FLT_MAX, FLT_MIN, 1e-45f, 16777216, -0.69314718f};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        json_writer w = {0};
        json_float(&w, v[i]);
        CHECK_THAT(strtof(strbuf_text(&w.out), NULL) == v[i], "%s", strbuf_text(&w.out));
        strbuf_close(&w.out);
    }
    json_writer w = {0};
    json_begin(&w, '[');
    json_float(&w, 0.1f);
    json_float(&w, NAN);
    json_double(&w, INFINITY);
    json_double(&w, 0.1);
    json_u64(&w, UINT64_MAX);
    json_i64(&w, INT64_MIN);
    json_end(&w, ']');
    CHECK(!strcmp(strbuf_text(&w.out), "[0.1, null, null, 0.1, 18446744073709551615, -9223372036854775808]"));
    strbuf_close(&w.out);
}

TEST(a_message_keeps_its_field_names) {
    Gemmad__V1__RankStatus rank = GEMMAD__V1__RANK_STATUS__INIT, *ranks[] = {&rank};
    Gemmad__V1__EngineStatus engine = GEMMAD__V1__ENGINE_STATUS__INIT;
    char host[] = "h";
    rank.has_rank = rank.has_cpu_ms = 1;
    rank.rank = 3;
    rank.cpu_ms = 5;
    rank.host = host;
    engine.n_ranks = 1;
    engine.ranks = ranks;
    json_writer w = {0};
    json_message(&w, &engine.base);
    /* What comes after its first fields grows with the product. */
    static const char begin[] =
        "{\"id\": null, \"state\": null, \"restarts\": null, \"ranks\": [{\"rank\": 3, \"host\": \"h\", "
        "\"pid\": null, \"state\": null, \"cpu_ms\": 5, \"kv_bytes\": null, \"weight_bytes_read\": null, "
        "\"isa\": null, \"threads\": null}], \"layout\": null, \"failure\": null, ";
    CHECK_THAT(!strncmp(strbuf_text(&w.out), begin, sizeof begin - 1), "%s", strbuf_text(&w.out));
    strbuf_close(&w.out);
}

TEST(of_a_oneof_only_what_is_set) {
    Gemmad__V1__GenerateDelta delta = GEMMAD__V1__GENERATE_DELTA__INIT;
    Gemmad__V1__GenerateEvent event = GEMMAD__V1__GENERATE_EVENT__INIT;
    uint32_t ids[] = {7, 8};
    delta.has_text = 1;
    delta.text = (ProtobufCBinaryData){3, (uint8_t[]){'a', 0, 'b'}};
    delta.token_ids = ids;
    delta.n_token_ids = 2;
    event.event_case = GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA;
    event.delta = &delta;
    json_writer w = {0};
    json_message(&w, &event.base);
    CHECK_THAT(!strcmp(strbuf_text(&w.out), "{\"delta\": {\"index\": null, \"text\": \"a\\u0000b\", "
                                            "\"token_ids\": [7, 8], \"logprobs\": []}}"),
               "%s", strbuf_text(&w.out));
    strbuf_close(&w.out);
}

TEST(control_characters_become_harmless) {
    strbuf out = {0};
    terminal_make_safe(&out, "a\x1B]0;x\x07\n\t\r\xC2\x9B\xC3\x9B\xC2\xA0\x7F", 17);
    CHECK(!strcmp(strbuf_text(&out),
                  "a\xEF\xBF\xBD]0;x\xEF\xBF\xBD\n\t\xEF\xBF\xBD\xEF\xBF\xBD\xC3\x9B\xC2\xA0\xEF\xBF\xBD"));
    strbuf_close(&out);
}

int main(void) {
    RUN(texts_are_quoted);
    RUN(floats_read_back_the_same);
    RUN(a_message_keeps_its_field_names);
    RUN(of_a_oneof_only_what_is_set);
    RUN(control_characters_become_harmless);
    return test_result();
}
