/* Libraries that are loaded at run time. */
#include <math.h>

#include "base/library.h"
#include "tests/test.h"

typedef struct functions {
    double (*cosine)(double);
    double (*other)(double);
} functions;

static const char *const math[] = {"libgemmad-none.so.1", "libm.so.6", NULL},
                         *const none[] = {"libgemmad-none.so.1", "libgemmad-none.so", NULL};

TEST(the_first_name_that_is_there_is_taken) {
    static const library_function wanted[] = {{"cos", offsetof(functions, cosine)}, {"sin", offsetof(functions, other)}};
    functions f = {0};
    char path[256];
    CHECK_STATUS(library_load(&(library_wanted){"mathematics", math, wanted, 2}, &f), ST_OK);
    CHECK(f.cosine(1) == cos(1) && f.other(1) == sin(1));
    library_path(&f.cosine, path, sizeof path);
    CHECK_THAT(strstr(path, "libm"), "%s", path);
}

TEST(what_is_missing_is_said) {
    static const library_function wanted[] = {{"cos", offsetof(functions, cosine)}, {"gemmad_none", offsetof(functions, other)}};
    functions f = {0};
    CHECK_STATUS(library_load(&(library_wanted){"mathematics", none, wanted, 1}, &f), ST_NOT_FOUND);
    CHECK_SENTENCE("there is no mathematics: libgemmad-none.so.1: ");
    CHECK_SENTENCE("; libgemmad-none.so: ");
    CHECK_STATUS(library_load(&(library_wanted){"mathematics", math, wanted, 2}, &f), ST_UNSUPPORTED);
    CHECK_SENTENCE("this mathematics lacks gemmad_none: ");
    CHECK(!f.cosine && !f.other);
}

TEST(a_pointer_into_nothing_has_no_path) {
    char path[16] = "x";
    const void *nowhere = (void *)16;
    library_path(&nowhere, path, sizeof path);
    CHECK_THAT(path[0] == 0, "%s", path);
}

int main(void) {
    RUN(the_first_name_that_is_there_is_taken);
    RUN(what_is_missing_is_said);
    RUN(a_pointer_into_nothing_has_no_path);
    return test_result();
}
