/* The pure parts of chat and ask: lines that make a text, pieces of JSON, text for a terminal, the conversation. */
#include "ctl/child.h"
#include "ctl/documents.h"
#include "ctl/json_slice.h"
#include "ctl/line.h"
#include "ctl/talk.h"
#include "ctl/terminal.h"
#include "tests/test.h"

static json_slice slice(const char *text) { return (json_slice){text, strlen(text)}; }

static bool is(json_slice s, const char *text) { return s.n == strlen(text) && !memcmp(s.at, text, s.n); }

TEST(slices_keep_the_spelling) {
    static const char text[] =
        " { \"a\" : 1.0e+2 , \"b\":[1, {\"a\":2}, \"]\\\"\" ],\"c\":{\"a\":{}} ,\"a\":\"\\\\\"} ";
    json_slice got, inner;
    CHECK(json_slice_member(slice(text), "a", &got) && is(got, "\"\\\\\"")); /* the last of its name */
    CHECK(json_slice_member(slice(text), "b", &got) && is(got, "[1, {\"a\":2}, \"]\\\"\" ]"));
    CHECK(json_slice_element(got, 0, &inner) && is(inner, "1"));
    CHECK(json_slice_element(got, 1, &inner) && is(inner, "{\"a\":2}"));
    CHECK(json_slice_element(got, 2, &inner) && is(inner, "\"]\\\"\""));
    CHECK(!json_slice_element(got, 3, &inner) && !json_slice_member(got, "a", &inner));
    CHECK(json_slice_member(slice(text), "c", &got) && json_slice_member(got, "a", &inner) &&
          is(inner, "{}"));
    CHECK(!json_slice_member(inner, "a", &got) && !json_slice_member(slice(""), "a", &got));
    CHECK(!json_slice_member(slice("3"), "a", &got) && !json_slice_element(slice("[]"), 0, &got));
    CHECK(json_slice_member(slice("{\"x\":-0.10}"), "x", &got) && is(got, "-0.10"));
}

/* Lines separated by '|'; the texts they make likewise. */
static void check_join(const char *lines, const char *want) {
    strbuf out = {0}, all = {0};
    line_joiner j = {false};
    for (const char *at = lines;;) {
        size_t n = strcspn(at, "|");
        if (line_join(&j, at, n, &out)) {
            strbuf_add_format(&all, "%s|", strbuf_text(&out));
            strbuf_clear(&out);
            j = (line_joiner){false};
        }
        if (!at[n]) break;
        at += n + 1;
    }
    CHECK_THAT(!strcmp(strbuf_text(&all), want), "%s gives %s, not %s", lines, strbuf_text(&all), want);
    strbuf_close(&out);
    strbuf_close(&all);
}

TEST(lines_make_texts) {
    check_join("a|b", "a|b|");
    check_join("a\\|b|c", "a\nb|c|");
    check_join("a\\\\|b", "a\\\\|b|");
    check_join("\\|\\|x", "\n\nx|");
    check_join("\"\"\"|a|b|\"\"\"|c", "a\nb|c|");
    check_join("\"\"\"a|b\"\"\"", "a\nb|");
    check_join("\"\"\"a\"\"\"|b", "a|b|");
    check_join("\"\"\"|\"\"\"|b", "|b|");
    check_join("\"\"\"a\\|b\"\"\"", "a\\\nb|");
    check_join("x\"\"\"|y", "x\"\"\"|y|");
}

static void check_safe(const char *text, const char *want) {
    strbuf out = {0};
    terminal_make_safe(&out, text, strlen(text));
    CHECK_THAT(!strcmp(strbuf_text(&out), want), "%s", strbuf_text(&out));
    strbuf_close(&out);
}

#define WRONG "\xEF\xBF\xBD"

TEST(nothing_moves_the_cursor) {
    check_safe("a\tb\nc\xC3\xBC\xE2\x82\xAC\xF0\x9F\x99\x82", "a\tb\nc\xC3\xBC\xE2\x82\xAC\xF0\x9F\x99\x82");
    check_safe("\x1B[2J\r\x07\x7F", WRONG "[2J" WRONG WRONG WRONG);
    check_safe("\xC2\x9B", WRONG);
    check_safe("\xC2\xA0", "\xC2\xA0");
    /* Halves of a character, as two pieces of a stream could bring them, and what a Latin-1 terminal would obey. */
    check_safe("\xC2", WRONG);
    check_safe("\x9B", WRONG);
    check_safe("\xE2\x82", WRONG WRONG);
    check_safe("\xED\xA0\x80", WRONG WRONG WRONG);
}

TEST(numbers_have_commas) {
    static const struct {
        uint64_t n;
        const char *text;
    } cases[] = {{0, "0"}, {999, "999"}, {1000, "1,000"}, {1234567, "1,234,567"}, {100000, "100,000"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        strbuf out = {0};
        documents_add_number(&out, cases[i].n);
        CHECK_THAT(!strcmp(strbuf_text(&out), cases[i].text), "%s", strbuf_text(&out));
        strbuf_close(&out);
    }
}

TEST(a_conversation_is_cut_and_keeps_its_system_text) {
    talk t = {0};
    talk_add(&t, "user", "a", 1);
    talk_set_system(&t, "s", 1);
    CHECK(t.count == 2 && talk_system(&t) == t.message[0]);
    talk_set_system(&t, "other", 5);
    CHECK(t.count == 2 && t.message[0]->content[0]->text.len == 5);
    for (int i = 0; i < 40; i++) talk_add(&t, "user", "x", 1);
    talk_cut(&t, 2);
    CHECK(t.count == 2 && !strcmp(t.message[1]->role, "user"));
    talk_set_system(&t, "", 0);
    CHECK(t.count == 1 && !talk_system(&t));
    talk_close(&t);
}

static status run_shell(const char *script, const char *input, size_t n, size_t max, uint32_t timeout_ms,
                        strbuf *out, int *code) {
    const char *argv[] = {"sh", "-c", script, NULL};
    strbuf_close(out);
    *out = (strbuf){.max = max};
    return child_run(&(child_options){argv, input, n, timeout_ms, false}, out, code);
}

TEST(programs_are_run_to_their_end) {
    strbuf out = {0};
    int code = -1;
    static char large[1 << 20];
    memset(large, 'x', sizeof large);
    CHECK_STATUS(run_shell("cat", large, sizeof large, 2 << 20, 0, &out, &code), ST_OK);
    CHECK(code == 0 && out.size == sizeof large && !memcmp(out.data, large, sizeof large));
    CHECK_STATUS(run_shell("exit 7", large, sizeof large, 0, 0, &out, &code), ST_OK); /* reads nothing */
    CHECK(code == 7 && out.size == 0);
    CHECK_STATUS(run_shell("kill -9 $$", NULL, 0, 0, 0, &out, &code), ST_OK);
    CHECK(code == 128 + 9);
    CHECK_STATUS(run_shell("cat", large, sizeof large, 1000, 0, &out, &code), ST_FORMAT);
    CHECK_STATUS(run_shell("sleep 60", NULL, 0, 0, 50, &out, &code), ST_TIMEOUT);
    /* What it leaves behind with its output open is not waited for. */
    CHECK_STATUS(run_shell("sleep 60 2>&- & echo done", NULL, 0, 100, 20000, &out, &code), ST_OK);
    CHECK(code == 0 && !strcmp(strbuf_text(&out), "done\n"));
    const char *argv[] = {"/nonexistent/program", NULL};
    CHECK_STATUS(child_run(&(child_options){.argv = argv}, &out, &code), ST_NOT_FOUND);
    strbuf_close(&out);
}

int main(void) {
    RUN(slices_keep_the_spelling);
    RUN(lines_make_texts);
    RUN(nothing_moves_the_cursor);
    RUN(numbers_have_commas);
    RUN(a_conversation_is_cut_and_keeps_its_system_text);
    RUN(programs_are_run_to_their_end);
    return test_result();
}
