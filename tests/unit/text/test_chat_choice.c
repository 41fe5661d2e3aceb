/* Which chat template a model gets, by its own text, the option and its tokenizer. */
#include "base/file.h"
#include "daemon/text/chat_template.h"
#include "tests/test.h"

static tokenizer *tiny;

static void check(const char *option, const char *text, size_t n, const tokenizer *tok, const char *name,
                  const char *why) {
    chat_choice c;
    chat_template_choose(&c, option, text, n, tok);
    const char *got = c.template ? chat_template_name(c.template) : "none";
    CHECK_THAT(!strcmp(got, name ? name : "none"), "%s: %s", got, c.why);
    CHECK_THAT(strstr(c.why, why) && (c.template != NULL) == (c.why[0] == 0), "%s: %s", got, c.why);
}

TEST(by_sha256) {
    static const struct {
        const char *file, *name;
    } known[] = {{"chat_template.jinja", "gemma4"},
                 {"chat_template.small.jinja", "gemma4-small"},
                 {"chat_template.2026-04-10.jinja", "gemma4-2026-04-10"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char path[256], *text;
        size_t n;
        snprintf(path, sizeof path, TEST_DATA "/tokenizer/gemma4/%s", known[i].file);
        CHECK_STATUS(file_read_all(path, 1 << 20, &text, &n), ST_OK);
        check(NULL, text, n, tiny, known[i].name, "");
        check(NULL, text, n - 1, tiny, known[i].name, ""); /* the last line is not ended */
        text[n - 1] = ' ';
        check(NULL, text, n, tiny, known[i].name, "");
        check("gemma4-small", text, n, tiny, "gemma4-small", "");
        text[n / 2] ^= 1;
        check(NULL, text, n, tiny, NULL, "is none of Gemma 4's (SHA-256 ");
        free(text);
    }
}

/* The small models' template of 2026-04-10 is the large ones' without three lines, and without the end of the last. */
TEST(derived) {
    char *text;
    size_t n;
    CHECK_STATUS(
        file_read_all(TEST_DATA "/tokenizer/gemma4/chat_template.2026-04-10.jinja", 1 << 20, &text, &n),
        ST_OK);
    char *begin = strstr(text, "        {%- if not enable_thinking | default(false) -%}\n"),
         *end = begin ? strstr(begin, "endif -%}\n") : NULL;
    CHECK(end != NULL);
    if (end) {
        end += strlen("endif -%}\n");
        memmove(begin, end, strlen(end) + 1);
        check(NULL, text, strlen(text) - 1, tiny, "gemma4-small-2026-04-10", "");
    }
    free(text);
}

TEST(otherwise) {
    /* printf '{{ messages }}' | sha256sum */
    check(
        NULL, "{{ messages }}", 14, tiny, NULL,
        "(SHA-256 f24189f08c85a1eb19a737306c3a13e85462ee33d964f28108d64a2485fa2171); --chat-template gemma4");
    check("gemma4", "{{ messages }}", 14, tiny, "gemma4", "");
    check(NULL, NULL, 0, tiny, NULL, "it has no chat template; --chat-template");
    check(NULL, "", 0, tiny, NULL, "SHA-256 e3b0c442");
    check("gemma4", NULL, 0, tiny, "gemma4", "");
    check("gemma4", NULL, 0, NULL, NULL, "it has no tokenizer");
    CHECK(chat_template_named("gemma5") == NULL);
}

/* The bundled one, with another word for the beginning of a turn. */
TEST(a_tokenizer_of_something_else) {
    char *json;
    size_t n;
    tokenizer *t;
    CHECK_STATUS(file_read_all(TEST_DATA "/models/tiny-dense/tokenizer.json", 1 << 24, &json, &n), ST_OK);
    for (char *p = json; (p = strstr(p, "<|turn>")) != NULL;) memcpy(p, "<|twrn>", 7);
    CHECK_STATUS(tokenizer_parse(&t, json, n), ST_OK);
    check("gemma4", NULL, 0, t, NULL, "its tokenizer has no special token <|turn>");
    tokenizer_close(t);
    free(json);
}

int main(void) {
    CHECK_STATUS(tokenizer_open(&tiny, TEST_DATA "/models/tiny-dense/tokenizer.json"), ST_OK);
    RUN(by_sha256);
    RUN(derived);
    RUN(otherwise);
    RUN(a_tokenizer_of_something_else);
    tokenizer_close(tiny);
    return test_result();
}
