/* The tests' one small header: no library, so that the core's tests build anywhere.
 *
 *     TEST(name) { CHECK(1 + 1 == 2); CHECK_STATUS(f(), ST_OK); }
 *     int main(void) { RUN(name); return test_result(); }
 *
 * A failed CHECK prints file, line and condition, and the test goes on; the process ends 1. test_skip("why") ends the
 * process with 77, which ctest shows as skipped. The last line reads "N passed, N failed, N skipped". */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/status.h"

/* Sanitizers make floating point several times slower: long tests do a part of their work under them. TSan cannot follow
 * shared memory across processes, so ranks are threads there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED true
#else
#define TEST_SANITIZED false
#endif
#ifdef __SANITIZE_THREAD__
#define TEST_RANKS_AS_THREADS true
#else
#define TEST_RANKS_AS_THREADS false
#endif

static int test_checks_failed, test_passed, test_failed, test_skipped;

#define TEST(name) static void test_##name(void)
#define RUN(name)                                                                                            \
    do {                                                                                                     \
        int before_ = test_checks_failed;                                                                    \
        test_##name();                                                                                       \
        if (test_checks_failed == before_) test_passed++;                                                    \
        else test_failed++, printf("FAIL %s\n", #name);                                                      \
        fflush(stdout);                                                                                      \
    } while (0)
#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) test_checks_failed++, printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);       \
    } while (0)
/* CHECK with the numbers: CHECK_THAT(a == b, "a %d b %d", a, b) */
#define CHECK_THAT(condition, ...)                                                                           \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            test_checks_failed++;                                                                            \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                           \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)
#define CHECK_STATUS(expression, want)                                                                       \
    do {                                                                                                     \
        status got_ = (expression);                                                                          \
        if (got_ != (want))                                                                                  \
            test_checks_failed++, printf("%s:%d: %s is %s (%s), not %s\n", __FILE__, __LINE__, #expression,  \
                                         status_name(got_), status_text(), status_name(want));               \
    } while (0)
/* The last sentence holds `part`. */
#define CHECK_SENTENCE(part)                                                                                 \
    do {                                                                                                     \
        if (!strstr(status_text(), part))                                                                    \
            test_checks_failed++, printf("%s:%d: \"%s\" is not in \"%s\"\n", __FILE__, __LINE__, part, status_text()); \
    } while (0)

static inline int test_result(void) {
    printf("%d passed, %d failed, %d skipped\n", test_passed, test_failed, test_skipped);
    return test_failed ? 1 : 0;
}
static inline void test_skip(const char *why) {
    printf("skipped: %s\n", why);
    exit(77);
}

#endif
