#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/log_capture.h"
#include "tests/test.h"

static char said[2 * LOG_LINE_BYTES];

static json_t *one_object(void) {
    size_t n = strlen(said);
    CHECK(n > 0 && said[n - 1] == '\n' && strchr(said, '\n') == said + n - 1);
    json_error_t error;
    json_t *o = json_loads(said, JSON_REJECT_DUPLICATES, &error);
    CHECK_THAT(o != NULL, "%s: %s", error.text, said);
    return o;
}

static void check_text(json_t *o, const char *key, const char *want) {
    const char *got = json_string_value(json_object_get(o, key));
    CHECK_THAT(got && !strcmp(got, want), "%s: %s, want %s", key, got ? got : "none", want);
}

TEST(lines_are_text_or_json) {
    log_open("part[1]", LOG_INFO);
    log_capture_begin();
    log_info("two\nlines and \"%s\"", "quotes");
    log_capture_end(said, sizeof said);
    CHECK(strstr(said, "Z info  part[1] two lines and \"quotes\"\n"));
    CHECK_THAT(said[4] == '-' && said[10] == 'T' && said[23] == 'Z', "%s", said);

    log_capture_begin();
    log_info("a client's \x1B[2J\x07\xC2\x9B"
             "2J\x7F\xC3\xA4");
    log_capture_end(said, sizeof said);
    CHECK_THAT(strstr(said, "a client's  [2J  2J \xC3\xA4\n"), "%s", said);

    log_set_format(LOG_FORMAT_JSON);
    log_capture_begin();
    log_warn("two\nlines \\ \"%s\" \xC3\xA4 \xFF\x01\x7F", "quotes");
    log_capture_end(said, sizeof said);
    json_t *o = one_object();
    check_text(o, "level", "warn");
    check_text(o, "component", "part[1]");
    check_text(o, "message", "two\nlines \\ \"quotes\" \xC3\xA4 \xEF\xBF\xBD\x01\x7F");
    CHECK(strlen(json_string_value(json_object_get(o, "time"))) == 24);
    json_decref(o);
    log_capture_begin();
    log_debug("nobody asked");
    log_capture_end(said, sizeof said);
    CHECK(said[0] == 0);
    log_set_format(LOG_FORMAT_TEXT);
}

TEST(events_have_fields) {
    const log_field fields[] = {
        log_field_text("id", "a-1"),
        log_field_text("client", "uid 0 \"me\"\n"),
        log_field_text("absent", NULL),
        log_field_count("tokens", INT64_MAX),
        log_field_ms("queue_ms", 1.25),
        log_field_ms("odd", (double)NAN),
        log_field_bytes("empty", "", 0),
        log_field_text("csi", "\xC2\x9B"
                              "2J"),
        log_field_text("raw", "\x9B"
                              "2J"),
        log_field_text("name", "\xC3\xA4"),
    };
    log_capture_begin();
    log_event(LOG_INFO, "request finished", fields, sizeof fields / sizeof *fields);
    log_capture_end(said, sizeof said);
    CHECK_THAT(strstr(said,
                      "request finished id=a-1 client=\"uid 0 \\\"me\\\"\\u000a\" tokens=9223372036854775807 "
                      "queue_ms=1.250 odd=0.000 empty=\"\" csi=\"\\u009b2J\" raw=\"\xEF\xBF\xBD"
                      "2J\" name=\xC3\xA4\n"),
               "%s", said);
    log_set_format(LOG_FORMAT_JSON);
    log_capture_begin();
    log_event(LOG_INFO, "request finished", fields, sizeof fields / sizeof *fields);
    log_capture_end(said, sizeof said);
    json_t *o = one_object();
    check_text(o, "client", "uid 0 \"me\"\n");
    check_text(o, "empty", "");
    check_text(o, "csi",
               "\xC2\x9B"
               "2J");
    CHECK(json_real_value(json_object_get(o, "queue_ms")) == 1.25);
    CHECK(!json_object_get(o, "absent"));
    json_decref(o);
    log_set_format(LOG_FORMAT_TEXT);
}

TEST(a_line_has_an_end) {
    static char large[LOG_LINE_BYTES];
    memset(large, 1, sizeof large - 1); /* six bytes each as JSON */
    const log_field fields[] = {log_field_text("id", "a"), log_field_text("prompt", large),
                                log_field_text("more", large), log_field_count("last", 7)};
    for (int format = LOG_FORMAT_TEXT; format <= LOG_FORMAT_JSON; format++) {
        log_set_format((log_format)format);
        log_capture_begin();
        log_event(LOG_INFO, "request finished", fields, 4);
        log_capture_end(said, sizeof said);
        CHECK(strlen(said) < LOG_LINE_BYTES && strchr(said, '\n') == said + strlen(said) - 1);
        CHECK(!strstr(said, "prompt") && strstr(said, "last") && strstr(said, "fields_dropped"));
        if (format == LOG_FORMAT_JSON) json_decref(one_object());
    }
    log_set_format(LOG_FORMAT_TEXT);
}

int main(void) {
    RUN(lines_are_text_or_json);
    RUN(events_have_fields);
    RUN(a_line_has_an_end);
    return test_result();
}
