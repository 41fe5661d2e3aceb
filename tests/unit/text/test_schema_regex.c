/* Regular expressions: what they match, and what is refused by name. */
#include "tests/test.h"

#include "daemon/text/regex.h"
#include "tests/grammar_network.h"

static bool matches(const char *regex, regex_where where, const char *text) {
    char_nfa a;
    if (regex_read(&a, regex, strlen(regex), where) != ST_OK) {
        printf("%s: %s\n", regex, status_text());
        CHECK(!"read");
        return false;
    }
    bool by_automaton = char_nfa_accepts(&a, text, strlen(text));
    grammar *g = grammar_open();
    char_nfa_write(&a, g, 0, grammar_rule_start(g, 0), grammar_rule_end(g, 0), CHAR_WRITING_PLAIN);
    CHECK_THAT(network_matches_bytes(g, text, strlen(text)) == by_automaton, "%s on %s", regex, text);
    grammar_close(g);
    char_nfa_close(&a);
    return by_automaton;
}

#define WHOLE(regex, text) CHECK_THAT(matches(regex, REGEX_WHOLE, text), "%s does not match %s", regex, text)
#define NOT_WHOLE(regex, text) CHECK_THAT(!matches(regex, REGEX_WHOLE, text), "%s matches %s", regex, text)
#define FINDS(regex, text) CHECK_THAT(matches(regex, REGEX_SEARCH, text), "%s is not in %s", regex, text)
#define FINDS_NOT(regex, text) CHECK_THAT(!matches(regex, REGEX_SEARCH, text), "%s is in %s", regex, text)

TEST(literals_and_classes) {
    WHOLE("abc", "abc");
    NOT_WHOLE("abc", "abcd");
    NOT_WHOLE("abc", "ab");
    WHOLE("a.c", "aéc");
    NOT_WHOLE("a.c", "a\nc");
    WHOLE("[a-c_-]+", "a-_b");
    WHOLE("[^a-c]", "é");
    NOT_WHOLE("[^a-c]", "b");
    WHOLE("[\\d\\-x]{3}", "1-x");
    WHOLE("\\d{3}-\\d{4}", "555-0199");
    NOT_WHOLE("\\d", "٣"); /* ECMA's digits are ASCII */
    WHOLE("\\w+", "aZ_9");
    NOT_WHOLE("\\w", "é");
    WHOLE("\\W", "é");
    WHOLE("\\s\\S", " x");
    WHOLE("\\s", "\xC2\xA0");
    WHOLE("[\\s\\S]", "\n");
    WHOLE("[^]", "\n");
    NOT_WHOLE("[]", "a");
    WHOLE("\\u00e9\\x41\\u{1F600}\\ud83d\\ude00\\t", "éA😀😀\t");
    WHOLE("\\cA\\0?", "\x01");
    WHOLE("a{,2}{", "a{,2}{"); /* no counts: text */
    WHOLE("}]", "}]");
    WHOLE("\\/\\.\\*\\\\", "/.*\\");
    WHOLE("日本|中国", "中国");
}

TEST(groups_and_counts) {
    WHOLE("(a|b)*c", "ababc");
    WHOLE("(?:ab){2,3}", "ababab");
    NOT_WHOLE("(?:ab){2,3}", "ab");
    NOT_WHOLE("(?:ab){2,3}", "abababab");
    WHOLE("(?<year>\\d{4})(?P<rest>x)?", "2024");
    WHOLE("a{3}", "aaa");
    NOT_WHOLE("a{3}", "aa");
    WHOLE("a{2,}", "aaaaa");
    NOT_WHOLE("a{2,}", "a");
    WHOLE("a{0}b", "b");
    WHOLE("a*?b+?c??", "aabb");
    WHOLE("(a*)*b", "b");
    WHOLE("(a*)*b", "aaab");
    WHOLE("(|a)(b|)", "");
    WHOLE("(a?){20}a{20}", "aaaaaaaaaaaaaaaaaaaa");
    WHOLE("", "");
    WHOLE("a|", "");
}

TEST(anchors) {
    WHOLE("^abc$", "abc");
    WHOLE("(^a|b$)", "a");
    NOT_WHOLE("a^b", "ab");
    NOT_WHOLE("a$b", "ab");
    FINDS("b", "abc");
    FINDS("^a", "abc");
    FINDS_NOT("^b", "abc");
    FINDS("c$", "abc");
    FINDS_NOT("b$", "abc");
    FINDS("^$", "");
    FINDS_NOT("^$", "a");
    FINDS("", "anything");
    FINDS("a|^b", "bxx");
    FINDS_NOT("(a|^)b", "xb");
    FINDS("(a|^)b", "xab");
    FINDS("b(c|$)", "ab");
    FINDS_NOT("b(c|$)", "abd");
    FINDS("^(x|$)", "");
    FINDS("a+b?$", "xxaab");
    FINDS("$^", "");
}

static void refuse(const char *regex, const char *part) {
    char_nfa a;
    CHECK_STATUS(regex_read(&a, regex, strlen(regex), REGEX_WHOLE), ST_INVALID);
    CHECK_SENTENCE(part);
    CHECK(a.state_count == 0 && a.set_count == 0);
}

TEST(refused_by_name) {
    refuse("(a)\\1", "byte 3: back-reference \\1");
    refuse("\\k<a>", "back-reference");
    refuse("a(?=b)", "byte 1: look-ahead (?=");
    refuse("(?!b)", "look-ahead (?!");
    refuse("(?<=b)c", "look-behind (?<=");
    refuse("(?<!b)c", "look-behind (?<!");
    refuse("\\bword", "word boundary \\b");
    refuse("\\p{L}", "property class \\p");
    refuse("(?i)a", "flags");
    refuse("a++", "possessive");
    refuse("a**", "nothing to repeat");
    refuse("*a", "nothing to repeat");
    refuse("{2}", "nothing to repeat");
    refuse("^*", "nothing to repeat");
    refuse("(a", "byte 0: ( is not closed");
    refuse("a)", "byte 1: ) without (");
    refuse("[a", "[ is not closed");
    refuse("[z-a]", "before its beginning");
    refuse("[a-\\d]", "ends in a class");
    refuse("[[:alpha:]]", "class [: :]");
    refuse("a{3,2}", "n below m");
    refuse("a{99999}", "a count over 16384");
    refuse("a\\", "a backslash at the end");
    refuse("\\ud800", "surrogate");
    refuse("\\xg1", "hexadecimal");
    refuse("\\y", "escape \\y");
    refuse("\xFF", "not UTF-8");
}

/* Both numbers, soon: nothing is built that is over the bounds. */
TEST(bounded) {
    refuse("((((a{100}){100}){100}){100}){100}", "at most 16384");
    refuse("(a|b|ab){16000}", "at most 16384");
    refuse("(a?){4000}", "at most 131072");
    char deep[1000];
    memset(deep, '(', sizeof deep);
    deep[sizeof deep - 1] = 0;
    refuse(deep, "deeper than 128");
}

/* Inside JSON's quotes, characters that JSON escapes are escaped. */
TEST(inside_json) {
    char_nfa a;
    static const char regex[] = "[\"\\\\\\n\\x01a-zé]*";
    CHECK_STATUS(regex_read(&a, regex, strlen(regex), REGEX_WHOLE), ST_OK);
    grammar *g = grammar_open();
    char_nfa_write(&a, g, 0, grammar_rule_start(g, 0), grammar_rule_end(g, 0), CHAR_WRITING_JSON);
    static const char *const good[] = {"", "abc", "\\\"", "\\\\", "\\n", "\\u0001", "é\\na"};
    static const char *const bad[] = {"\"", "\\", "\n", "\\u000a", "\x01", "A", "\\u0002", "\\t"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK_THAT(network_matches_bytes(g, good[i], strlen(good[i])), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_THAT(!network_matches_bytes(g, bad[i], strlen(bad[i])), "%s", bad[i]);
    grammar_close(g);
    char_nfa_close(&a);
}

TEST(lengths_and_intersections) {
    char_nfa a, b, both;
    uint32_t shortest, longest;
    CHECK_STATUS(regex_read(&a, "(ab|c)+", 7, REGEX_WHOLE), ST_OK);
    char_nfa_measure(&a, &shortest, &longest);
    CHECK(shortest == 1 && longest == CHAR_NFA_NONE);
    CHECK_STATUS(char_nfa_lengths(&b, 3, 4), ST_OK);
    CHECK_STATUS(char_nfa_intersect(&both, &a, &b), ST_OK);
    CHECK(char_nfa_trim(&both));
    char_nfa_measure(&both, &shortest, &longest);
    CHECK_THAT(shortest == 3 && longest == 4, "%u %u", shortest, longest);
    CHECK(char_nfa_accepts(&both, "abc", 3) && char_nfa_accepts(&both, "abab", 4));
    CHECK(!char_nfa_accepts(&both, "ab", 2) && !char_nfa_accepts(&both, "ababc", 5));
    char_nfa_close(&a);
    char_nfa_close(&b);
    char_nfa_close(&both);
}

int main(void) {
    RUN(literals_and_classes);
    RUN(groups_and_counts);
    RUN(anchors);
    RUN(refused_by_name);
    RUN(bounded);
    RUN(inside_json);
    RUN(lengths_and_intersections);
    return test_result();
}
