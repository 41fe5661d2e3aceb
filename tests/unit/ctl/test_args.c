#include <math.h>

#include "ctl/args.h"
#include "ctl/documents.h"
#include "tests/test.h"

typedef struct values {
    bool flag;
    const char *text;
    arg_texts texts;
    arg_u32 u32;
    arg_u64 u64;
    arg_i32 i32;
    arg_float number;
    arg_ids ids;
    arg_bias bias;
    const char *word;
} values;

static const arg_option option[] = {
    {"flag", ARG_FLAG, NULL, offsetof(values, flag), 0, 0, ""},
    {"text", ARG_TEXT, "T", offsetof(values, text), 0, 0, ""},
    {"texts", ARG_TEXTS, "T", offsetof(values, texts), 0, 0, ""},
    {"u32", ARG_U32, "N", offsetof(values, u32), 2, 9, ""},
    {"u64", ARG_U64, "N", offsetof(values, u64), 0, 0, ""},
    {"i32", ARG_I32, "N", offsetof(values, i32), 0, 0, ""},
    {"number", ARG_FLOAT, "X", offsetof(values, number), 0, 1, ""},
    {"ids", ARG_IDS, "IDS", offsetof(values, ids), 0, 0, ""},
    {"bias", ARG_BIAS, "ID=BIAS", offsetof(values, bias), 0, 0, ""},
    {"word", ARG_WORD, "on|off", offsetof(values, word), 0, 0, ""},
};

/* Reads the words up to the first NULL; keeps what is no option in `words`. */
static status read_words(values *v, char **argv, arg_words *words) {
    int argc = 0, next;
    while (argv[argc]) argc++;
    arg_table table = {option, sizeof option / sizeof *option, v};
    return args_read(argc, argv, 0, &table, 1, false, words, &next);
}

static status read_one(values *v, const char *first, const char *second) {
    char *argv[] = {(char *)(uintptr_t)first, (char *)(uintptr_t)second, NULL}, *room[3];
    arg_words words = {room, 0};
    return read_words(v, argv, &words);
}

static void release(values *v) {
    arg_table table = {option, sizeof option / sizeof *option, v};
    args_close(&table);
}

TEST(options_and_words_mix) {
    char *argv[] = {"a",       "--flag", "--text=x=y", "-",      "--texts", "p",
                    "--texts", "--flag", "--",         "--text", NULL},
         *room[12];
    values v = {0};
    arg_words words = {room, 0};
    CHECK_STATUS(read_words(&v, argv, &words), ST_OK);
    CHECK(v.flag && !strcmp(v.text, "x=y"));
    CHECK(v.texts.count == 2 && !strcmp(v.texts.at[1], "--flag"));
    CHECK(words.count == 3 && !strcmp(words.at[0], "a") && !strcmp(words.at[1], "-") &&
          !strcmp(words.at[2], "--text"));
    release(&v);
}

TEST(numbers_at_their_bounds) {
    values v = {0};
    CHECK_STATUS(read_one(&v, "--u64", "18446744073709551615"), ST_OK);
    CHECK(v.u64.set && v.u64.value == UINT64_MAX);
    CHECK_STATUS(read_one(&v, "--i32", "-2147483648"), ST_OK);
    CHECK(v.i32.value == INT32_MIN);
    CHECK_STATUS(read_one(&v, "--u32=2", NULL), ST_OK);
    CHECK_STATUS(read_one(&v, "--number", "1e-3"), ST_OK);
    CHECK(v.number.value == 1e-3f);
    static const struct {
        const char *name, *value, *sentence;
    } bad[] = {
        {"--u64", "18446744073709551616", "18446744073709551616"},
        {"--u64", "-1", "\"-1\""},
        {"--u64", "", "\"\""},
        {"--u64", " 1", "\" 1\""},
        {"--u64", "+1", "\"+1\""},
        {"--u32", "1", "2 to 9"},
        {"--u32", "10", "2 to 9"},
        {"--i32", "-2147483649", "-2147483649"},
        {"--i32", "2147483648", "2147483648"},
        {"--i32", "--1", "\"--1\""},
        {"--number", "nan", "\"nan\""},
        {"--number", "inf", "\"inf\""},
        {"--number", "0x1p-2", "0x1p-2"},
        {"--number", "1e99", "no finite number"},
        {"--number", "1.1", "0 to 1"},
        {"--number", "", "\"\""},
        {"--ids", "1,-2", "\"-2\""},
        {"--ids", "4294967296", "4294967296"},
        {"--bias", "5", "ID=BIAS"},
        {"--bias", "=1", "ID=BIAS"},
        {"--bias", "5=x", "\"x\""},
        {"--flag=1", NULL, "no value"},
        {"--nope", NULL, "--nope"},
        {"--text", NULL, "needs a value"},
        {"-f", NULL, "unknown option -f"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        values w = {0};
        CHECK_STATUS(read_one(&w, bad[i].name, bad[i].value), ST_INVALID);
        CHECK_SENTENCE(bad[i].sentence);
        release(&w);
    }
    release(&v);
}

TEST(what_stands_for_one_value_is_given_once) {
    values v = {0};
    CHECK_STATUS(read_one(&v, "--u64", "1"), ST_OK);
    CHECK_STATUS(read_one(&v, "--u64", "1"), ST_INVALID);
    CHECK_SENTENCE("given twice");
    release(&v);
}

TEST(words_are_those_of_the_table) {
    static const char *const wrong[] = {"", "o", "onn", "on|off", "|"};
    values v = {0};
    CHECK_STATUS(read_one(&v, "--word", "off"), ST_OK);
    CHECK(!strcmp(v.word, "off"));
    CHECK_STATUS(read_one(&v, "--word", "on"), ST_INVALID); /* twice */
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        v = (values){0};
        CHECK_STATUS(read_one(&v, "--word", wrong[i]), ST_INVALID);
        CHECK(strstr(status_text(), "on|off"));
    }
}

TEST(lists) {
    values v = {0};
    CHECK_STATUS(read_one(&v, "--ids", "\n7, 8 ,,9\n"), ST_OK);
    CHECK(v.ids.set && v.ids.count == 3 && v.ids.at[0] == 7 && v.ids.at[2] == 9);
    CHECK_STATUS(read_one(&v, "--bias", "3=-1.5"), ST_OK);
    CHECK_STATUS(read_one(&v, "--bias", "4=2"), ST_OK);
    CHECK(v.bias.count == 2 && v.bias.at[0].token_id == 3 && v.bias.at[0].bias == -1.5f &&
          v.bias.at[1].token_id == 4);
    release(&v);
}

TEST(trim_ends_between_characters) {
    static const struct {
        const char *text, *want;
    } v[] = {
        {"", ""},
        {" \t\n", ""},
        {"a", "a"},
        {"\u3000a b\u2028\xC2\x85", "a b"},
        {"\u00A0\u00E0\u00A0", "\u00E0"},
        {"\u200Ba\u200B", "\u200Ba\u200B"},
        {"\u1680x\u1681", "x\u1681"},
        {"\x1C"
         "a\x1F",
         "a"},
        /* U+0160 ends in the byte A0, and U+2020 in A0 too: no part of a character is white space. */
        {"\u0160", "\u0160"},
        {"\u2020 ", "\u2020"},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        const char *text = v[i].text;
        size_t n = strlen(text);
        documents_trim(&text, &n);
        CHECK_THAT(n == strlen(v[i].want) && !memcmp(text, v[i].want, n), "case %zu: \"%.*s\"", i, (int)n,
                   text);
    }
}

int main(void) {
    RUN(options_and_words_mix);
    RUN(numbers_at_their_bounds);
    RUN(what_stands_for_one_value_is_given_once);
    RUN(words_are_those_of_the_table);
    RUN(lists);
    RUN(trim_ends_between_characters);
    return test_result();
}
