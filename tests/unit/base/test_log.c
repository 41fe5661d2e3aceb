#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/test.h"

static char said[2 * LOG_LINE_BYTES];

static int kept_stderr, capture;

/* What is logged between the two lands in `said`. */
static void listen_to_log(void) {
    char path[] = "/tmp/gemmad-test-log-XXXXXX";
    fflush(stderr);
    capture = mkstemp(path);
    unlink(path);
    kept_stderr = dup(STDERR_FILENO);
    dup2(capture, STDERR_FILENO);
}

static void hear_log(void) {
    ssize_t n = pread(capture, said, sizeof said - 1, 0);
    said[n > 0 ? n : 0] = 0;
    dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
    close(capture);
}

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
    listen_to_log();
    log_info("two\nlines and \"%s\"", "quotes");
    hear_log();
    CHECK(strstr(said, "Z info  part[1] two lines and \"quotes\"\n"));
    CHECK_THAT(said[4] == '-' && said[10] == 'T' && said[23] == 'Z', "%s", said);

    log_set_format(LOG_FORMAT_JSON);
    listen_to_log();
    log_warn("two\nlines \\ \"%s\" \xC3\xA4 \xFF\x01\x7F", "quotes");
    hear_log();
    json_t *o = one_object();
    check_text(o, "level", "warn");
    check_text(o, "component", "part[1]");
    check_text(o, "message", "two\nlines \\ \"quotes\" \xC3\xA4 \xEF\xBF\xBD\x01\x7F");
    CHECK(strlen(json_string_value(json_object_get(o, "time"))) == 24);
    json_decref(o);
    listen_to_log();
    log_debug("nobody asked");
    hear_log();
    CHECK(said[0] == 0);
    log_set_format(LOG_FORMAT_TEXT);
}

TEST(events_have_fields) {
    const log_field fields[] = {
        log_field_text("id", "a-1"),     log_field_text("client", "uid 0 \"me\"\n"),
        log_field_text("absent", NULL),  log_field_count("tokens", INT64_MAX),
        log_field_ms("queue_ms", 1.25),  log_field_ms("odd", (double)NAN),
        log_field_bytes("empty", "", 0),
    };
    listen_to_log();
    log_event(LOG_INFO, "request finished", fields, sizeof fields / sizeof *fields);
    hear_log();
    CHECK_THAT(
        strstr(said, "request finished id=a-1 client=\"uid 0 \\\"me\\\"\\u000a\" tokens=9223372036854775807 "
                     "queue_ms=1.250 odd=0.000 empty=\"\"\n"),
        "%s", said);
    log_set_format(LOG_FORMAT_JSON);
    listen_to_log();
    log_event(LOG_INFO, "request finished", fields, sizeof fields / sizeof *fields);
    hear_log();
    json_t *o = one_object();
    check_text(o, "client", "uid 0 \"me\"\n");
    check_text(o, "empty", "");
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
        listen_to_log();
        log_event(LOG_INFO, "request finished", fields, 4);
        hear_log();
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
