#include "daemon/queue/stop.h"

#include "tests/test.h"

/* The definition, without cleverness: the first end at which any string matches, the longest there; else the longest
 * suffix that begins a string. */
static size_t by_definition(const char *const *strings, uint32_t n, const char *text, size_t size, size_t *held) {
    size_t longest = 0;
    *held = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t m = strlen(strings[i]);
        if (m <= size && !memcmp(text + size - m, strings[i], m) && m > longest) longest = m;
        for (size_t k = 1; k <= m && k <= size; k++)
            if (!memcmp(text + size - k, strings[i], k) && k > *held) *held = k;
    }
    return longest;
}

static void compare(const char *const *strings, uint32_t n, const char *text) {
    stop_matcher m = {0};
    for (uint32_t i = 0; i < n; i++) stop_add(&m, strings[i], strlen(strings[i]));
    for (size_t i = 0; text[i]; i++) {
        size_t held, want = by_definition(strings, n, text, i + 1, &held);
        size_t got = stop_feed(&m, (uint8_t)text[i]);
        CHECK_THAT(got == want && stop_held(&m) == held, "%s at %zu: %zu held %zu, not %zu held %zu", text, i, got,
                   stop_held(&m), want, held);
        if (got) break;
    }
    stop_close(&m);
}

TEST(known) {
    static const char *const one[] = {"aab"}, *const two[] = {"abcd", "bc"}, *const three[] = {"bc", "abc", "c"};
    compare(one, 1, "xaaaabyy");
    compare(two, 2, "zabcd");
    compare(three, 3, "zabcd");
    stop_matcher m = {0};
    CHECK(stop_feed(&m, 'a') == 0 && stop_held(&m) == 0);
    stop_add(&m, "a\0b", 3);
    CHECK(stop_feed(&m, 'a') == 0 && stop_feed(&m, 0) == 0 && stop_held(&m) == 2 && stop_feed(&m, 'b') == 3);
    stop_close(&m);
}

/* Two letters make every kind of overlap likely. */
TEST(random_strings) {
    srand(7);
    for (int round = 0; round < 5000; round++) {
        char text[41], s[4][8];
        const char *strings[4];
        uint32_t n = 1 + (uint32_t)rand() % 4;
        for (uint32_t i = 0; i < n; i++) {
            int length = 1 + rand() % 7;
            for (int k = 0; k < length; k++) s[i][k] = (char)('a' + rand() % 2);
            s[i][length] = 0;
            strings[i] = s[i];
        }
        for (int k = 0; k < 40; k++) text[k] = (char)('a' + rand() % 2);
        text[40] = 0;
        compare(strings, n, text);
    }
}

int main(void) {
    RUN(known);
    RUN(random_strings);
    return test_result();
}
